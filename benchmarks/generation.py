"""How fast is the engine beside `transformers.generate` on one CPU? One JSON line.

    python -m benchmarks.generation --dtype=float32 --requests=64

The same shapes (124M parameters, random weights), the same requests, one process, the two sides in turn, the best of
`--repeats` rounds. Alone: one request of 64 + 128 tokens. Together: `--requests` with prompts of 16 to 256 tokens and
answers of 16 to 256, 32 at a time. `transformers` takes them in batches of 32, padded on the left, and runs each batch
to its longest answer; only tokens asked for count. It gets its dynamic and its static cache, and the better one counts.
"""

import argparse
import dataclasses
import json
import os
import time

import jax
import numpy as np
import torch
import transformers

from llama3_jax.core.params import init_params
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.infer.engine import Engine
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.request import Request, SamplingConfig
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.infer.whole import WholeModel
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig

MODEL = LlamaConfig(
    vocab_size=32_000,
    num_layers=12,
    embed_dim=768,
    num_heads=12,
    num_kv_heads=4,
    head_dim=64,
    mlp_dim=2048,
    max_length=2048,
)
SIZES = SchedulerConfig(num_slots=32, num_pages=32 * 8, page_size=64, max_length=512)


@dataclasses.dataclass(frozen=True)
class Ask:
    """Tokens of a prompt, and how many to answer."""

    prompt: list[int]
    new: int


def workload(count: int, seed: int = 0) -> list[Ask]:
    """Requests of mixed lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(16, 257, (count, 2))
    return [Ask(rng.integers(0, MODEL.vocab_size, prompt).tolist(), int(new)) for prompt, new in lengths]


def our_generator(dtype: str, sizes: SchedulerConfig = SIZES) -> Generator:
    """The engine with random weights."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    module = Llama(MODEL, ComputeConfig(param_dtype=dtype, compute_dtype=dtype), Layout.of(mesh), layers_apart=True)
    return Generator(Engine(WholeModel(module, init_params(module, 0, mesh), mesh, sizes)))


def run_ours(generator: Generator, asks: list[Ask], **sampling) -> int:
    """Answers all; returns the number of tokens."""
    settings = lambda number, ask: SamplingConfig(
        **({"max_new_tokens": ask.new, "temperature": 0.0, "seed": number} | sampling)
    )
    requests = [Request(prompt=ask.prompt, sampling=settings(number, ask)) for number, ask in enumerate(asks)]
    return sum(len(completion.tokens) for completion in generator.complete(requests))


def their_model(dtype: str) -> transformers.LlamaForCausalLM:
    """The same shapes."""
    config = transformers.LlamaConfig(
        vocab_size=MODEL.vocab_size,
        hidden_size=MODEL.embed_dim,
        num_hidden_layers=MODEL.num_layers,
        num_attention_heads=MODEL.num_heads,
        num_key_value_heads=MODEL.num_kv_heads,
        head_dim=MODEL.head_dim,
        intermediate_size=MODEL.mlp_dim,
        max_position_embeddings=MODEL.max_length,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()


@torch.inference_mode()
def run_theirs(model: transformers.LlamaForCausalLM, asks: list[Ask], cache: str) -> int:
    """Answers all in batches of 32; returns the number of tokens asked for."""
    for first in range(0, len(asks), SIZES.num_slots):
        batch = asks[first : first + SIZES.num_slots]
        longest = max(len(ask.prompt) for ask in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, ask in enumerate(batch):
            ids[row, longest - len(ask.prompt) :] = torch.tensor(ask.prompt)
            mask[row, longest - len(ask.prompt) :] = 1
        settings = transformers.GenerationConfig(
            max_new_tokens=max(ask.new for ask in batch),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation=cache,
            disable_compile=True,
        )
        generate = model.generate  # pyright: ignore[reportAttributeAccessIssue]
        generate(ids, attention_mask=mask, generation_config=settings)
    return sum(ask.new for ask in asks)


def best_rate(run, repeats: int) -> float:
    """Tokens per second of the fastest of `repeats` runs."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        tokens = run()
        rates.append(tokens / (time.perf_counter() - start))
    return max(rates)


def compare(dtype: str, count: int, repeats: int) -> dict[str, float]:
    """Tokens per second of both, alone and together, and their ratios."""
    sizes = dataclasses.replace(SIZES, share_prefixes=False)  # rounds repeat their prompts
    ours, theirs = our_generator(dtype, sizes), their_model(dtype)
    alone, together = [Ask(workload(1)[0].prompt[:1] * 64, 128)], workload(count)
    figures: dict[str, float] = {}
    for name, asks in (("alone", alone), ("together", together)):
        run_ours(ours, asks)  # compiles
        figures[f"{name}, ours"] = best_rate(lambda asks=asks: run_ours(ours, asks), repeats)
        for cache in ("dynamic", "static"):
            rate = best_rate(lambda asks=asks, cache=cache: run_theirs(theirs, asks, cache), repeats)
            figures[f"{name}, transformers {cache}"] = rate
        best = max(figures[f"{name}, transformers {cache}"] for cache in ("dynamic", "static"))
        figures[f"{name}, ratio"] = figures[f"{name}, ours"] / best
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    figures = compare(options.dtype, options.requests, options.repeats)
    versions = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    rounded = {name: round(figure, 2) for name, figure in figures.items()}
    print(json.dumps({"benchmark": "generation", "dtype": options.dtype, **rounded, **versions}))


if __name__ == "__main__":
    main()
