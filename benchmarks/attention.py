"""How fast is each attention implementation, forward and backward, beside the reference and PyTorch's?

    python -m benchmarks.attention
    python -m benchmarks.attention --lengths 8192 --heads 32 --kv-heads 8 --sizes 128 --dtypes bfloat16 --skip reference

Prints one JSON line. Times are the best of interleaved repeats on this machine's default device, in milliseconds;
"against" divides another implementation's time by ours, so more than 1 means ours is faster. "packed" adds documents of
a quarter of the length, which PyTorch's function cannot express without a score-sized mask, so it stands alone.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.ops.attention import IMPLEMENTATIONS, AttentionMask, attention, default_implementation

try:
    import torch
except ImportError:
    torch: Any = None


def main() -> None:
    args = parse_arguments()
    cases = [
        measure((args.batch, length, args.heads, args.kv_heads, size), dtype, args)
        for dtype in args.dtypes
        for length in args.lengths
        for size in args.sizes
    ]
    device = jax.devices()[0]
    header = {"benchmark": "attention", "device": device.device_kind, "jax": jax.__version__}
    if torch is not None:
        header |= {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    print(json.dumps(header | {"cases": cases}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--skip", nargs="*", default=[], choices=[*IMPLEMENTATIONS, "torch"])
    return parser.parse_args()


def measure(shape: tuple[int, int, int, int, int], dtype: str, args: argparse.Namespace) -> dict:
    """One case: `shape` is (B, S, H, K, E). Times of every runner, and the ratios."""
    runners = dict(jax_runners(shape, dtype, args.skip))
    if torch is not None and "torch" not in args.skip:
        runners["torch"] = torch_runner(shape, dtype)
    best = {name: float("inf") for name in runners}
    for run in runners.values():
        run()  # compiles, and warms caches
    order = list(runners)
    for _ in range(args.repeats):
        order = order[1:] + order[:1]  # so that no runner always follows the same other one
        for name in order:
            start = time.perf_counter()
            runners[name]()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    ours = default_implementation(jax.default_backend())
    against = {name: round(best[name] / best[ours], 2) for name in best if name != ours and ours in best}
    case = dict(zip("BSHKE", shape, strict=True)) | {"dtype": dtype, "ours": ours}
    return case | {"ms": {name: round(value, 2) for name, value in best.items()}, "against": against}


def jax_runners(shape, dtype: str, skip: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every implementation that this platform runs, plainly causal; and the default one on packed documents."""
    batch, length, heads, kv_heads, size = shape
    rng = np.random.default_rng(0)
    inputs = [
        jnp.asarray(rng.standard_normal((batch, length, count, size)), dtype)
        for count in (heads, kv_heads, kv_heads, heads)
    ]
    default = default_implementation(jax.default_backend())
    for name in dict.fromkeys(["reference", "chunked", default]):
        if name not in skip:
            yield name, jax_runner(name, inputs, AttentionMask())
    segments_BS = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32) // max(1, length // 4) + 1, (batch, length))
    if default not in skip:
        yield default + "_packed", jax_runner(default, inputs, AttentionMask(query_segment_ids_BS=segments_BS))


def jax_runner(name: str, inputs: list[jax.Array], mask: AttentionMask) -> Callable[[], object]:
    @jax.jit
    def step(q, k, v, grad, mask):
        out, vjp = jax.vjp(functools.partial(attention, mask=mask, implementation=name), q, k, v)
        return out, *vjp(grad)

    return lambda: jax.block_until_ready(step(*inputs, mask))


def torch_runner(shape, dtype: str) -> Callable[[], object]:
    """`scaled_dot_product_attention`, causal, on the same layout [B, S, H, E] and the same kind of device."""
    batch, length, heads, kv_heads, size = shape
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    make = functools.partial(torch.randn, dtype=getattr(torch, dtype), device=device)
    q, grad = make(batch, length, heads, size), make(batch, length, heads, size)
    k, v = make(batch, length, kv_heads, size), make(batch, length, kv_heads, size)
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def run():
        swapped = [x.transpose(1, 2) for x in inputs]
        out = torch.nn.functional.scaled_dot_product_attention(*swapped, is_causal=True, enable_gqa=heads != kv_heads)
        grads = torch.autograd.grad(out.transpose(1, 2), inputs, grad)
        if device == "cuda":
            torch.cuda.synchronize()
        return grads

    return run


if __name__ == "__main__":
    main()
