"""What do shared prompt pages save in rejection sampling (4.2.2)? One JSON line.

    python -m benchmarks.shared_prompts --prompts=4 --samples=16

The same prompts, each answered `--samples` times at temperature 1, with and without sharing, on the model of
benchmarks/generation.py, one process. Pages are the most held at once, tokens those of prompts that were computed.
"""

import argparse
import dataclasses
import json
import time

import jax
import numpy as np

from benchmarks.generation import MODEL, our_generator
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.request import Request, SamplingConfig
from llama3_jax.infer.scheduler import SchedulerConfig

SIZES = SchedulerConfig(num_slots=32, num_pages=512, page_size=32, max_length=512)


def requests(num_prompts: int, samples: int, prompt_tokens: int, new: int, seed: int) -> list[Request]:
    """Every prompt `samples` times, with seeds of their own."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, MODEL.vocab_size, (num_prompts, prompt_tokens)).tolist()
    sampling = SamplingConfig(max_new_tokens=new, temperature=1.0, top_p=1.0)
    return [
        Request(prompt=prompt, sampling=dataclasses.replace(sampling, seed=sample))
        for prompt in prompts
        for sample in range(samples)
    ]


def measure(generator: Generator, asked: list[Request]) -> dict[str, float]:
    """Runs all; counts pages, tokens of prompts and seconds."""
    waiting, most, computed = list(asked), 0, 0
    plan = generator.scheduler.plan

    def counted():
        nonlocal computed
        made = plan()
        computed += sum(len(work.tokens or ()) for work in made.works) if made else 0
        return made

    generator.scheduler.plan = counted  # pyright: ignore[reportAttributeAccessIssue]
    start = time.perf_counter()
    for request in waiting:
        generator.submit(request)
    while not generator.idle:
        generator.step()
        most = max(most, generator.scheduler.pool.held)
    seconds = time.perf_counter() - start
    generator.scheduler.plan = plan  # pyright: ignore[reportAttributeAccessIssue]
    return {"seconds": seconds, "pages": most, "prompt tokens": computed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--prompt_tokens", type=int, default=320)
    parser.add_argument("--new", type=int, default=64)
    options = parser.parse_args()
    shape = (options.prompts, options.samples, options.prompt_tokens, options.new)
    figures: dict[str, float] = {}
    for share in (True, False):
        generator = our_generator("float32", dataclasses.replace(SIZES, share_prefixes=share))
        measure(generator, requests(*shape, seed=1))  # compiles
        name = "shared" if share else "apart"
        figures |= {f"{name}, {key}": value for key, value in measure(generator, requests(*shape, seed=2)).items()}
    for key in ("seconds", "pages"):
        figures[f"{key}, ratio"] = figures[f"apart, {key}"] / figures[f"shared, {key}"]
    rounded = {name: round(figure, 2) for name, figure in figures.items()}
    print(json.dumps({"benchmark": "shared_prompts", **vars(options), **rounded, "jax": jax.__version__}))


if __name__ == "__main__":
    main()
