"""Rows in pages for the tests of paged attention, and how an implementation is run on them without its accelerator."""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.primitives import swap_p
from jax._src.state import discharge
from jax.experimental.pallas import tpu as pltpu

from llama3_jax.ops.paged_attention import IMPLEMENTATIONS, PagedRows, paged_attention

FAST = [name for name in IMPLEMENTATIONS if name != "reference"]
NOWHERE = 2**30  # in the table, past a row's end


def problem(lengths, heads=(6, 2), head_dim=16, dtype=jnp.float32, page_size=4, seed=0):
    """`(q, k, v, pages, rows)` for rows of `lengths` (tokens in the cache, new tokens).

    k and v `[B, T, K, E]` are those of whole rows. Pages are scattered, the places of nobody NaN. S is the largest
    number of new tokens.
    """
    lengths = np.array(lengths)
    start, count = lengths[:, 0], lengths[:, 1]
    batch, num_new = len(lengths), max(1, count.max())
    width = -(-int((start + count).max() + page_size) // page_size)
    num_heads, kv_heads = heads
    rng = np.random.default_rng(seed)
    num_pages = batch * width + 3
    table = rng.permutation(num_pages)[: batch * width].reshape(batch, width)
    k, v = (rng.normal(size=(batch, width * page_size, kv_heads, head_dim)) for _ in range(2))
    pages = np.full((num_pages, page_size, 2 * kv_heads, head_dim), np.nan)
    for row in range(batch):
        for place in range(start[row] + count[row]):
            slot = pages[table[row, place // page_size], place % page_size]
            slot[0::2], slot[1::2] = k[row, place], v[row, place]
        table[row, -(-(start[row] + count[row]) // page_size) :] = NOWHERE
    q = rng.normal(size=(batch, num_new, num_heads, head_dim))
    rows = PagedRows(*(jnp.asarray(x, jnp.int32) for x in (table, start, count)))
    return tuple(jnp.asarray(x, dtype) for x in (q, k, v, pages)) + (rows,)


def head_dim_of(implementation: str) -> int:
    return 128 if implementation == "ragged" else 16


run = jax.jit(paged_attention, static_argnames=("implementation", "scale", "interpret"))


def interpreted(implementation, q, pages, rows, **options):
    """Paged attention on this CPU, as a float32 NumPy array."""
    interpreter = tpu_interpreter() if implementation == "ragged" else contextlib.nullcontext()
    with interpreter:
        out = run(q, pages, rows, implementation=implementation, interpret=implementation != "ragged", **options)
    assert out.dtype == q.dtype
    return np.asarray(out, np.float32)


@contextlib.contextmanager
def tpu_interpreter():
    """JAX's interpreter of kernels, with one rule put right so that it can run JAX's own kernel for TPUs.

    Its rule for a masked store knows no views of views, and no strides (jax 0.10 to 0.12). Copies happen at once here,
    so what this cannot show is a copy that is waited for too late.
    """

    def masked_store(*arguments, args_tree, **_):
        operands = arguments[-args_tree.num_leaves :]  # jax 0.10 and 0.12 put different things before them
        array, views, value, mask = args_tree.unflatten(operands)
        views = list(views)
        if mask is not None:
            value = jnp.where(mask, value, discharge.transform_array(array, views))
        before, after = discharge.transform_swap_array(array, views, value)
        return (after, *[None] * (len(operands) - 1)), before

    with mock.patch.dict(discharge._discharge_rules, {swap_p: masked_store}), pltpu.force_tpu_interpret_mode(True):
        yield
