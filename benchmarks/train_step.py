"""How fast is one training step next to `transformers` + torch on the same device?

    python -m benchmarks.train_step [--dtype float32] [--layers 8 --embed 512 ...]

One JSON line: tokens/s of our step (the very one `llama3 pretrain` runs) and of torch eager and, where it compiles,
torch.compile, each in a process of its own: shape, batch, dtype and AdamW settings are equal, steps alternate in
rounds, and the ratio of each round is what is quoted (median). On a CPU only ratios count.
"""

import argparse
import functools
import importlib.metadata
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from llama3_jax.core.params import count_params, init_params, letters_of, split_module
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.core.telemetry import peak_flops
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig, flops_per_token
from llama3_jax.ops.attention import default_implementation
from llama3_jax.train.gradients import make_gradients
from llama3_jax.train.objective import make_next_token_objective
from llama3_jax.train.optim import OptimizerConfig, make_optimizer
from llama3_jax.train.step import TrainState, init_state, make_train_step

LEARNING_RATE = 1e-4


def make_state_and_step(
    config: LlamaConfig, dtype: str, remat: str, tokens_BS: np.ndarray, attention: str | None = None, unroll: int = 1
) -> tuple[TrainState, Callable]:
    """A fresh state and the compiled train step on these tokens: `run(state) -> (state, metrics)`."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    attention = attention or default_implementation(jax.default_backend())
    model = Llama(config, ComputeConfig(compute_dtype=dtype, attention=attention, remat=remat, scan_unroll=unroll))
    optimizer = make_optimizer(OptimizerConfig(), letters_of(model))
    step = make_train_step(make_gradients(split_module(model)[0], make_next_token_objective()), optimizer)
    ones_BS = np.ones(tokens_BS.shape, np.int32)
    rows = {
        "tokens": tokens_BS,
        "targets": np.roll(tokens_BS, -1, axis=1),
        "loss_weights": ones_BS.astype(np.float32),
        "segment_ids": ones_BS,
        "positions": np.cumsum(ones_BS, axis=1, dtype=np.int32) - 1,
    }
    batch = jax.device_put({name: array[None] for name, array in rows.items()}, jax.devices()[0])
    with jax.set_mesh(mesh):
        state = jax.jit(lambda params: init_state(params, optimizer))(init_params(model, 0, mesh))
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch, np.float32(0)).compile()
    return state, lambda state: compiled(state, batch, np.float32(LEARNING_RATE))


def make_ours(config: LlamaConfig, arguments: argparse.Namespace, tokens_BS: np.ndarray) -> Callable[[], float]:
    """A function that runs one of our steps and returns its loss."""
    state, run_step = make_state_and_step(
        config, arguments.dtype, arguments.remat, tokens_BS, arguments.attention, arguments.unroll
    )
    held = {"state": state}

    def run() -> float:
        held["state"], metrics = run_step(held["state"])
        return float(jax.block_until_ready(metrics)["loss"])

    return run


def make_torch(config: LlamaConfig, arguments: argparse.Namespace, tokens_BS: np.ndarray, compiled: bool):
    """The same of `transformers.LlamaForCausalLM` with SDPA attention and torch's fused AdamW."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.embed_dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            max_position_embeddings=config.max_length,
            tie_word_embeddings=config.tied,
            use_cache=False,
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        )
    )
    model.to(device)  # pyright: ignore[reportArgumentType]
    model.train()
    if arguments.remat == "full":
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True
    )
    tokens = torch.from_numpy(tokens_BS.astype(np.int64)).to(device)
    targets = torch.roll(tokens, -1, dims=1)
    dtype = getattr(torch, arguments.dtype)

    def loss_of(tokens, targets):
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=tokens).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def run() -> float:
        loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return run


def serve_steps(name: str, config: LlamaConfig, arguments: argparse.Namespace, tokens_BS: np.ndarray, pipe) -> None:
    """One candidate in a process of its own: answers every message with the seconds of one step, after two unmeasured.

    Two frameworks in one process disturb each other: the worker threads of one spin while the other computes.
    """
    make = MAKERS[name]
    try:
        run = make(config, arguments, tokens_BS)
        run()
        run()
    except Exception as error:  # a peer that does not run here is a finding, not a failure
        pipe.send(f"{type(error).__name__}: {str(error)[:200]}")
        return
    pipe.send(None)
    while pipe.recv():
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)


def measure(
    names: list[str], config: LlamaConfig, arguments: argparse.Namespace, tokens_BS: np.ndarray
) -> dict[str, list[float]]:
    """Seconds of every step, the candidates taking turns; one that does not run here is reported and left out."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    for name in names:
        pipe, theirs = context.Pipe()
        context.Process(target=serve_steps, args=(name, config, arguments, tokens_BS, theirs), daemon=True).start()
        failure = pipe.recv()
        if failure:
            print(f"{name} does not run here: {failure}", file=sys.stderr)
        else:
            pipes[name] = pipe
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(arguments.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return seconds


MAKERS = {
    "ours": make_ours,
    "torch_eager": functools.partial(make_torch, compiled=False),
    "torch_compile": functools.partial(make_torch, compiled=True),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("layers", 8), ("embed", 512), ("heads", 8), ("kv_heads", 4), ("head_dim", 64), ("mlp", 1536), ("vocab", 8192),
        ("batch", 4), ("sequence", 512), ("rounds", 7), ("unroll", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", default="none")
    parser.add_argument("--attention", default=None, help="an implementation of ops/attention.py")
    parser.add_argument("--peers", default="torch_eager,torch_compile", help="comma separated, may be empty")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    config = LlamaConfig(
        vocab_size=arguments.vocab,
        num_layers=arguments.layers,
        embed_dim=arguments.embed,
        num_heads=arguments.heads,
        num_kv_heads=arguments.kv_heads,
        head_dim=arguments.head_dim,
        mlp_dim=arguments.mlp,
        max_length=max(8192, arguments.sequence),
    )
    shape = (arguments.batch, arguments.sequence)
    tokens_BS = np.random.default_rng(0).integers(0, arguments.vocab, shape).astype(np.int32)
    peers = arguments.peers.split(",") if arguments.peers else []
    seconds = measure(["ours", *peers], config, arguments, tokens_BS)
    rate = {name: tokens_BS.size / statistics.median(times) for name, times in seconds.items()}
    flops = {
        convention: rate["ours"] * flops_per_token(config, arguments.sequence, causal=convention == "causal")
        for convention in ("causal", "full")
    }
    peak = peak_flops(jax.devices()[0])
    result = {
        "benchmark": "train_step",
        "device": jax.devices()[0].device_kind,
        "versions": {
            "jax": jax.__version__,
            **({"torch": importlib.metadata.version("torch")} if len(rate) > 1 else {}),
        },
        "parameters": count_params(Llama(config)),
        "shape": vars(arguments),
        "tokens_per_second": {name: round(value, 1) for name, value in rate.items()},
        "ratio": {
            name: round(statistics.median(b / a for a, b in zip(seconds["ours"], times, strict=True)), 3)
            for name, times in seconds.items()
            if name != "ours"
        },
        "model_tflops": {name: round(value / 1e12, 3) for name, value in flops.items()},
        "mfu": {name: round(value / peak, 4) for name, value in flops.items()} if peak else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
