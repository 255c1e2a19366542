"""Flash attention kernels for NVIDIA GPUs that honour documents: "mosaic" (tokamax) and "triton" (JAX's own).

"mosaic" is tokamax's Mosaic GPU kernel, for Hopper and Blackwell, Python 3.12 and later: grouped heads natively, and
per query a range of keys, which says documents (§3.2) and the places of a context-parallel rank's queries (§3.3.2).
tokamax's public function has no such ranges, so its registry of implementations is used directly. Its forward pass
skips blocks by these ranges; its backward pass skips by static causality only (tokamax 0.0.17), and visits every block
when the queries bring places.
"triton" is `jax.experimental.pallas.ops.gpu.attention`, deprecated but shipped with every JAX we support: for Ampere,
and where tokamax is not installed. It repeats keys and values for each head of a group and never skips by document.

Neither can be split by the compiler: call inside `jax.shard_map`.

Run so far: "triton" interpreted on a CPU, forward and gradients; both compiled ahead of time for H100, forward and
backward ("triton" at 8,192 tokens, "mosaic" also at 8,192 queries against 131,072 keys); the key ranges of "mosaic"
checked against the mask's rule. tokamax's kernel cannot be interpreted, so its numbers are unchecked. Neither has run
on a GPU: `pytest -m gpu tests/ops/test_attention.py` does.
"""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llama3_jax.ops.attention_mask import AttentionMask, positions, segment_ids

with warnings.catch_warnings():  # JAX 0.12 announces on import that the module will go
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu import attention as jax_triton

try:
    from tokamax._src.ops.attention import api as tokamax_attention  # pyright: ignore[reportMissingImports]
    from tokamax._src.ops.attention.base import Mask as TokamaxMask  # pyright: ignore[reportMissingImports]

    MOSAIC_AVAILABLE = True
except ImportError:  # Python 3.11, or the cuda extra is not installed
    tokamax_attention: Any = None
    TokamaxMask: Any = None
    MOSAIC_AVAILABLE = False
TRITON_BLOCK = 128


def mosaic_attention(
    q_BSHE: jax.Array,
    k_BTKE: jax.Array,
    v_BTKE: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Attention [B, S, H, E] of bfloat16 or float16 inputs; softmax and sums in float32.

    Documents must lie in order: in each row the keys' segment ids ascend and padding comes last, as our packing makes
    them. Ids are data, so this cannot raise: a row whose keys are out of order comes out as NaN.
    Raises ValueError for key places, other dtypes, interpretation, and where tokamax is missing.
    """
    if not MOSAIC_AVAILABLE:
        raise ValueError('attention "mosaic" needs tokamax (the cuda extra, Python 3.12 or later); use "triton"')
    if interpret:
        raise ValueError('attention "mosaic" cannot be interpreted on a CPU; use "triton", or "chunked" to run there')
    if q_BSHE.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f'attention "mosaic" takes bfloat16 or float16, not {q_BSHE.dtype}; use "chunked"')
    num_queries, num_keys = q_BSHE.shape[1], k_BTKE.shape[1]
    ranges = key_ranges(mask, num_queries, num_keys)
    kernel_mask = TokamaxMask(
        k_start=None if ranges.start_BS is None else ranges.start_BS[:, None],
        k_end=None if ranges.stop_BS is None else ranges.stop_BS[:, None],
        is_causal=mask.causal and ranges.stop_BS is None,
    )
    run = tokamax_attention.IMPLEMENTATIONS["mosaic_gpu"]
    out_BSHE = run(q_BSHE, k_BTKE, v_BTKE, logits_scale=scale, mask=kernel_mask)
    if ranges.blind_BS is not None:
        out_BSHE = jnp.where(ranges.blind_BS[:, :, None, None], jnp.zeros_like(out_BSHE), out_BSHE)
    if ranges.ordered_B is not None:
        out_BSHE = jnp.where(ranges.ordered_B[:, None, None, None], out_BSHE, jnp.full_like(out_BSHE, jnp.nan))
    return out_BSHE


class KeyRanges(NamedTuple):
    """The mask as one range of keys per query, for a kernel that knows no segment ids. None: not needed."""

    start_BS: jax.Array | None = None  # int32, first key
    stop_BS: jax.Array | None = None  # int32, one past the last; None: static causality says it
    blind_BS: jax.Array | None = None  # bool, queries that see nothing; they get one key, so that no softmax is 0/0
    ordered_B: jax.Array | None = None  # bool, false for a row whose documents are out of order: no range is right


def key_ranges(mask: AttentionMask, num_queries: int, num_keys: int) -> KeyRanges:
    """The ranges of `mask`, exact where documents lie in order. Raises ValueError for key places."""
    if mask.causal and mask.key_index_BT is not None:
        raise ValueError(
            'attention "mosaic" cannot honour key_index_BT: lay the keys in order and leave it out, or use "chunked"'
        )
    static = mask.query_index_BS is None or not mask.causal
    ids = segment_ids(mask)
    if ids is None and static:
        return KeyRanges()
    place_BS = positions(mask, num_queries, num_keys)[0].astype(jnp.int32)
    start_BS, stop_BS, ordered_B = jnp.zeros_like(place_BS), jnp.full_like(place_BS, num_keys), None
    if ids is not None:
        start_BS, stop_BS, ordered_B = _document_ranges(*ids)
    if mask.causal:
        stop_BS = jnp.minimum(stop_BS, place_BS + 1)
    blind_BS = start_BS >= stop_BS
    start_BS = jnp.where(blind_BS, jnp.clip(place_BS, 0, num_keys - 1), start_BS)
    stop_BS = jnp.where(blind_BS, start_BS + 1, stop_BS)
    plain = mask.causal and static and mask.key_segment_ids_BT is None  # each query's last key is itself
    return KeyRanges(start_BS, None if plain else stop_BS, blind_BS, ordered_B)


def _document_ranges(query_ids_BS: jax.Array, key_ids_BT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where each query's document starts and stops among the keys, [B, S], and whether the keys are in order, [B]."""
    key_ids_BT = jnp.where(key_ids_BT == 0, jnp.iinfo(key_ids_BT.dtype).max, key_ids_BT)
    start_BS, stop_BS = (
        jax.vmap(functools.partial(jnp.searchsorted, side=side))(key_ids_BT, query_ids_BS).astype(jnp.int32)
        for side in ("left", "right")
    )
    return start_BS, stop_BS, jnp.all(key_ids_BT[:, 1:] >= key_ids_BT[:, :-1], axis=1)


def triton_attention(
    q_BSHE: jax.Array,
    k_BTKE: jax.Array,
    v_BTKE: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Self-attention [B, S, H, E] of whole sequences whose length is a multiple of 128.

    Raises ValueError for places, for key segment ids of their own, for S != T, and for sizes the kernel does not take.
    """
    length, head_dim = q_BSHE.shape[1], q_BSHE.shape[3]
    if mask.causal and (mask.query_index_BS is not None or mask.key_index_BT is not None):
        raise ValueError('attention "triton" knows no query_index_BS or key_index_BT; use "mosaic" or "chunked"')
    if mask.key_segment_ids_BT is not None:
        raise ValueError(
            'attention "triton" has one set of segment ids for queries and keys: leave key_segment_ids_BT out, '
            'or use "mosaic" or "chunked"'
        )
    if length != k_BTKE.shape[1] or length % TRITON_BLOCK:
        raise ValueError(
            f'attention "triton" needs as many keys as queries, a multiple of {TRITON_BLOCK}, not {length} queries and '
            f'{k_BTKE.shape[1]} keys; use "mosaic" or "chunked"'
        )
    if head_dim < 16 or head_dim & (head_dim - 1):
        raise ValueError(f'attention "triton" takes head sizes 16, 32, 64, ..., not {head_dim}; use "chunked"')
    group = q_BSHE.shape[2] // k_BTKE.shape[2]
    k_BTHE, v_BTHE = jnp.repeat(k_BTKE, group, axis=2), jnp.repeat(v_BTKE, group, axis=2)
    return jax_triton.mha(q_BSHE, k_BTHE, v_BTHE, mask.query_segment_ids_BS, scale, mask.causal, interpret=interpret)
