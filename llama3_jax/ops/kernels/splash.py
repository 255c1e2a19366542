"""Splash attention: JAX's own flash kernel for TPU, under our mask (jax.experimental.pallas.ops.tpu.splash_attention).

The kernel masks by segment ids and by the places of the queries, and visits only the blocks it is told to. Its usual
entry compiles in a fixed mask; here the list of blocks is data (block_schedule.py), which also leaves out the blocks of
other documents and lets a context-parallel rank bring the places of its own queries (§3.3.2).

Mosaic kernels cannot be split by the compiler: call inside `jax.shard_map`. The backward pass is the two-kernel one:
the fused kernel writes one partial dq per key block, rounded to q's dtype, and needs T/512 times the memory of q.

Run so far: interpreted on a CPU, forward and gradients; compiled ahead of time for TPU v5p and v6e, forward and
backward, up to 8,192 queries against 131,072 keys. Not run on a TPU.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from llama3_jax.ops.attention_mask import AttentionMask, positions, sees_any, segment_ids
from llama3_jax.ops.kernels.block_schedule import block_bounds, seen_blocks
from llama3_jax.ops.kernels.chunked import RESIDUAL_NAME

BLOCK_SIZES = (512, 256, 128)  # the largest that divides the length; a TPU's lanes allow nothing under 128
MASK_VALUE = -0.7 * float(np.finfo(np.float32).max)


def splash_attention(
    q_BSHE: jax.Array,
    k_BTKE: jax.Array,
    v_BTKE: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Attention [B, S, H, E]. q is scaled in its own dtype before the kernel, as the kernel knows no scale.

    Raises ValueError for key places (keys must lie in order) and for lengths that are not multiples of 128.
    """
    num_queries, num_keys = q_BSHE.shape[1], k_BTKE.shape[1]
    if mask.causal and mask.key_index_BT is not None:
        raise ValueError(
            'attention "splash" cannot honour key_index_BT: lay the keys in order and leave it out, or use "chunked"'
        )
    blocks = _block(num_queries), _block(num_keys)
    q_BHSE = (q_BSHE * jnp.asarray(scale, q_BSHE.dtype)).swapaxes(1, 2)
    ids = segment_ids(mask)
    segments = splash.SegmentIds(*ids) if ids else None
    index_BS = _index(mask, q_BSHE.shape[0], num_queries, num_keys)
    schedule_IJ = seen_blocks(mask, num_queries, num_keys, blocks)

    def one_row(q_HSE, k_KTE, v_KTE, segments, index_S) -> Any:
        return _kernel(schedule_IJ, index_S, blocks, interpret)(q_HSE, k_KTE, v_KTE, segments)

    out_BHSE = jax.vmap(one_row)(q_BHSE, k_BTKE.swapaxes(1, 2), v_BTKE.swapaxes(1, 2), segments, index_BS)
    out_BSHE = out_BHSE.swapaxes(1, 2)
    if _every_row_sees_itself(mask, num_queries, num_keys):
        return out_BSHE
    sees_BS11 = sees_any(mask, num_queries, num_keys)[:, :, None, None]
    return jnp.where(sees_BS11, out_BSHE, jnp.zeros_like(out_BSHE))


def _block(length: int) -> int:
    for size in BLOCK_SIZES:
        if length % size == 0:
            return size
    raise ValueError(
        f'attention "splash" needs lengths that are multiples of {BLOCK_SIZES[-1]}, not {length}: pad, or use "chunked"'
    )


def _index(mask: AttentionMask, batch: int, num_queries: int, num_keys: int) -> jax.Array | None:
    """Places of the queries for the kernel's causal rule, int32 [B, S]; None when every key may be seen."""
    if not mask.causal:
        return None
    index_BS = positions(mask, num_queries, num_keys)[0].astype(jnp.int32)
    return jnp.broadcast_to(index_BS, (batch, num_queries))


def _every_row_sees_itself(mask: AttentionMask, num_queries: int, num_keys: int) -> bool:
    """Whether it is known at compile time that no row is blind, padding apart (which `attention` zeroes)."""
    same_places = mask.query_index_BS is None and mask.key_index_BT is None
    return mask.key_segment_ids_BT is None and (same_places or not mask.causal)


def _kernel(schedule_IJ, index_S, blocks: tuple[int, int], interpret: bool) -> splash.SplashAttentionKernel:
    """The kernel for one batch row: q [H, S, E] scaled, k and v [K, T, E], and segment ids."""
    queries, keys = blocks
    sizes = splash.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_kv_compute=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_kv_dkv_compute=keys,
        block_q_dq=queries,
        block_kv_dq=keys,
    )
    by_query = _mask_info(schedule_IJ, index_S, over_queries=False)
    return splash.SplashAttentionKernel(
        by_query,
        by_query,
        _mask_info(schedule_IJ, index_S, over_queries=True),
        block_sizes=sizes,
        is_mqa=False,
        save_residuals=False,
        mask_value=MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=RESIDUAL_NAME,
        mask_function=None if index_S is None else _not_later,
        interpret=interpret,
    )


def _mask_info(schedule_IJ, index_S, *, over_queries: bool) -> MaskInfo:
    """The kernel's list of blocks: which to compute, and which block to fetch meanwhile.

    Forward and dq walk over key blocks for a query block; dk and dv walk over query blocks (`over_queries`). A walk
    without any block still visits its first one, so that the running softmax is never 0/0.
    """
    numpy = np if isinstance(schedule_IJ, np.ndarray) else jnp
    walk = schedule_IJ.T if over_queries else schedule_IJ
    first, stop = block_bounds(walk)
    step = np.arange(walk.shape[1])[None, :]
    visited = walk | (numpy.equal(stop, 0)[:, None] & (step == 0))
    fetched = numpy.clip(step, first[:, None], numpy.maximum(stop, 1)[:, None] - 1)
    if over_queries:
        visited, fetched = visited.T, fetched.T
    fetched_dtype = jnp.int8 if max(schedule_IJ.shape) <= 128 else jnp.int16  # scalar memory is small
    return MaskInfo(
        data_next=jnp.asarray(fetched[None], fetched_dtype),
        mask_next=None,
        block_mask=jnp.asarray(visited[None], jnp.int8),
        partial_mask_blocks=None,
        q_sequence=index_S,
        is_dynamic_mask=None,
    )


def _not_later(query_index: jax.Array, key_index: jax.Array) -> jax.Array:
    return query_index >= key_index
