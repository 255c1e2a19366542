"""Inputs and masks for the tests of attention, and how an implementation is run on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.ops.attention import AttentionMask, attention

NAMES = ("out", "dq", "dk", "dv")


def make_inputs(batch, queries, keys, heads, kv_heads, size, dtype=jnp.float32, seed=0):
    """q [B,S,H,E], k and v [B,T,K,E] and an output gradient like q, all normal."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, queries, heads, size), *[(batch, keys, kv_heads, size)] * 2, (batch, queries, heads, size)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def ids(*rows):
    """Segment ids [B, S] from rows of (id, length) runs."""
    return jnp.asarray([np.concatenate([np.full(length, number) for number, length in row]) for row in rows], jnp.int32)


def run(implementation, inputs, mask, **options):
    """Output and the gradients of q, k and v, as float32 NumPy arrays."""
    results = forward_and_backward(*inputs, mask, implementation=implementation, **options)
    return [np.asarray(x, np.float32) for x in results]


@functools.partial(jax.jit, static_argnames=("implementation", "scale", "interpret"))
def forward_and_backward(q, k, v, grad, mask, **options):
    out, vjp = jax.vjp(lambda q, k, v: attention(q, k, v, mask, **options), q, k, v)
    return out, *vjp(grad)


def assert_close(got, wanted, tolerance=2e-5):
    for name, a, b in zip(NAMES, got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b).max()), err_msg=name)


# One-token documents, documents across block borders (128), and padding at the end.
PACKED_384 = ids([(1, 1), (2, 130), (3, 1), (4, 252)], [(1, 100), (2, 184), (3, 40), (0, 60)])
PACKED_300 = ids([(1, 129), (2, 1), (3, 127), (4, 43)], [(1, 20), (2, 200), (0, 80)])
ZIGZAG = np.concatenate([np.arange(64), np.arange(320, 384)])  # rank 0 of 3: the first and the last sixth
ZIGZAG_BS = jnp.broadcast_to(jnp.asarray(ZIGZAG, jnp.int32), (2, 128))

MASKS = {  # name -> (S, T, mask)
    "plain": (384, 384, AttentionMask()),
    "packed": (384, 384, AttentionMask(query_segment_ids_BS=PACKED_384)),
    "both_ids": (384, 384, AttentionMask(query_segment_ids_BS=PACKED_384, key_segment_ids_BT=PACKED_384)),
    "encoder": (384, 384, AttentionMask(query_segment_ids_BS=PACKED_384, causal=False)),
    "open": (128, 384, AttentionMask(causal=False)),
    "zigzag": (128, 384, AttentionMask(query_index_BS=ZIGZAG_BS)),
    "zigzag_packed": (
        128,
        384,
        AttentionMask(
            query_segment_ids_BS=PACKED_384[:, ZIGZAG], key_segment_ids_BT=PACKED_384, query_index_BS=ZIGZAG_BS
        ),
    ),
}
CHUNKED_MASKS = MASKS | {  # no multiple of any block; keys out of order; a cache with few queries
    "ragged": (300, 300, AttentionMask()),
    "ragged_packed": (300, 300, AttentionMask(query_segment_ids_BS=PACKED_300)),
    "shuffled_keys": (
        128,
        128,
        AttentionMask(
            query_segment_ids_BS=PACKED_384[:, ZIGZAG],
            query_index_BS=ZIGZAG_BS,
            key_segment_ids_BT=PACKED_384[:, ZIGZAG[::-1]],
            key_index_BT=ZIGZAG_BS[:, ::-1],
        ),
    ),
    "cache": (3, 200, AttentionMask(query_index_BS=jnp.asarray([[5, 6, 7], [150, 151, 152]], jnp.int32))),
}
