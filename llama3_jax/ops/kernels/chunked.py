"""Flash attention in plain XLA: exact, memory-bounded, fast on a CPU, and the fallback on every other platform.

Two nested loops walk over blocks of queries and blocks of keys with a running softmax (FlashAttention, Dao et al.
2022); the backward pass recomputes each block's weights from the saved log-sum-exp. Blocks that no query of the batch
can see are not visited (block_schedule.py).

Measured on two CPU cores, and the reason for the form of the code below: loops rather than an unrolled program, as XLA
keeps all unrolled blocks alive at once (310 MiB against 28 at B=4, S=1024, H=8, E=32) and fresh pages cost more than
arithmetic; transposed scores in the backward pass, because every product is then a plain row-major matmul (a transposed
operand is up to 15 times slower in bfloat16); bfloat16 products are cast before they are transposed, because XLA folds
the transpose into the product and its CPU runtime then fails with "Unsupported element type for DotThunk".

Letters beyond the project's: M rows of one query block (positions x group), J keys of one key block, I query blocks.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from llama3_jax.ops.attention_mask import AttentionMask, positions, segment_ids
from llama3_jax.ops.kernels.block_schedule import block_bounds, seen_blocks

RESIDUAL_NAME = "attention_residuals"  # what a jax.checkpoint policy names to keep the output and log-sum-exp
SCORES_PER_BLOCK = 2**20  # over batch and heads: 4 MiB of float32, about two cores' caches
SMALLEST_BLOCK, LARGEST_BLOCK = 128, 512


class _Marks(NamedTuple):
    """What tells some rows or keys apart: document numbers, and places if the mask is causal."""

    segment_ids: jax.Array | None
    places: jax.Array | None


def chunked_attention(
    q_BSHE: jax.Array,
    k_BTKE: jax.Array,
    v_BTKE: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    interpret: bool = False,
    blocks: tuple[int, int] | None = None,
) -> jax.Array:
    """Attention [B, S, H, E] over blocks of `blocks` = (queries, keys), by default chosen from the shapes.

    Honours every mask and shape. Reverse-mode derivatives only. `interpret` has nothing to act on here.
    """
    del interpret
    num_queries, num_keys = q_BSHE.shape[1], k_BTKE.shape[1]
    blocks = blocks or default_blocks(q_BSHE.shape[0] * q_BSHE.shape[2], num_queries, num_keys)
    pad_queries, pad_keys = -num_queries % blocks[0], -num_keys % blocks[1]
    mask = _pad_mask(mask, (num_queries, pad_queries), (num_keys, pad_keys))
    q_BSHE = _pad(q_BSHE, pad_queries)
    k_BTKE, v_BTKE = _pad(k_BTKE, pad_keys), _pad(v_BTKE, pad_keys)
    out_BSHE: Any = _flash(*_vary_alike((q_BSHE, k_BTKE, v_BTKE, mask)), scale, blocks)
    return out_BSHE[:, :num_queries] if pad_queries else out_BSHE


def default_blocks(batch_heads: int, num_queries: int, num_keys: int) -> tuple[int, int]:
    """Queries and keys per block: scores that fit a cache, and eight blocks or more along a long sequence."""
    fitting = 2 ** int(math.log2(max(1, SCORES_PER_BLOCK // batch_heads)) / 2)
    block = max(SMALLEST_BLOCK, min(fitting, LARGEST_BLOCK, num_queries // 8))
    queries = min(num_queries, block)
    keys = max(block, SCORES_PER_BLOCK // (batch_heads * queries)) if queries < SMALLEST_BLOCK else block
    return queries, min(num_keys, keys)


def _vary_alike(arrays):
    """Inside a shard_map that tracks it, keys equal on all devices must be marked as differing like the queries do.

    The loops' types demand it, and the mark's derivative is what sums dk and dv over the devices.
    """
    varying = lambda x: jax.typeof(x).manual_axis_type.varying
    axes = frozenset().union(*map(varying, jax.tree.leaves(arrays)))
    return jax.tree.map(lambda x: lax.pcast(x, tuple(axes - varying(x)), to="varying"), arrays)


def _pad(x_BSHE: jax.Array, rows: int) -> jax.Array:
    return jnp.pad(x_BSHE, ((0, 0), (0, rows), (0, 0), (0, 0))) if rows else x_BSHE


def _pad_mask(mask: AttentionMask, queries: tuple[int, int], keys: tuple[int, int]) -> AttentionMask:
    """The mask with key segment ids spelled out, and a tail of padding tokens where a length was rounded up."""
    query_ids_BS, key_ids_BT = segment_ids(mask) or (None, None)
    if query_ids_BS is None and (queries[1] or keys[1]):
        query_ids_BS, key_ids_BT = jnp.ones((1, queries[0]), jnp.int32), jnp.ones((1, keys[0]), jnp.int32)
    return AttentionMask(
        query_segment_ids_BS=_pad_ids(query_ids_BS, queries[1]),
        key_segment_ids_BT=_pad_ids(key_ids_BT, keys[1]),
        query_index_BS=_pad_ids(mask.query_index_BS, queries[1]),
        key_index_BT=_pad_ids(mask.key_index_BT, keys[1]),
        causal=mask.causal,
    )


def _pad_ids(ids_BS: jax.Array | None, rows: int) -> jax.Array | None:
    return jnp.pad(ids_BS, ((0, 0), (0, rows))) if rows and ids_BS is not None else ids_BS


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _flash(q_BSHE, k_BTKE, v_BTKE, mask, scale, blocks) -> jax.Array:
    return _flash_forward(q_BSHE, k_BTKE, v_BTKE, mask, scale, blocks)[0]


def _flash_forward(q_BSHE, k_BTKE, v_BTKE, mask, scale, blocks):
    """Output [B, S, H, E] and the residuals of the backward pass."""
    q_BKSGE = _group_heads(q_BSHE, k_BTKE.shape[2])
    k_BKET, v_BKTE = k_BTKE.transpose(0, 2, 3, 1), v_BTKE.swapaxes(1, 2)
    out_BKSGE, lse_BKSG = _forward_blocks(q_BKSGE, k_BKET, v_BKTE, mask, scale, blocks)
    out_BKSGE = checkpoint_name(out_BKSGE, RESIDUAL_NAME)
    lse_BKSG = checkpoint_name(lse_BKSG, RESIDUAL_NAME)
    return _ungroup_heads(out_BKSGE), (q_BSHE, k_BTKE, v_BTKE, mask, out_BKSGE, lse_BKSG)


def _flash_backward(scale, blocks, residuals, grad_BSHE):
    q_BSHE, k_BTKE, v_BTKE, mask, out_BKSGE, lse_BKSG = residuals
    grad_BKSGE = _group_heads(grad_BSHE, k_BTKE.shape[2])
    delta_BKSG = jnp.sum(out_BKSGE.astype(jnp.float32) * grad_BKSGE.astype(jnp.float32), axis=-1)
    rows = (_group_heads(q_BSHE, k_BTKE.shape[2]), grad_BKSGE, lse_BKSG, delta_BKSG)
    keys = (k_BTKE.swapaxes(1, 2), v_BTKE.swapaxes(1, 2))
    dq_BKSGE, dk_BKTE, dv_BKTE = _backward_blocks(rows, keys, mask, scale, blocks)
    return _ungroup_heads(dq_BKSGE), dk_BKTE.swapaxes(1, 2), dv_BKTE.swapaxes(1, 2), None


_flash.defvjp(_flash_forward, _flash_backward)


def _forward_blocks(q_BKSGE, k_BKET, v_BKTE, mask, scale, blocks):
    """Softmax(scale q k) v by blocks: output like q, and the rows' log-sum-exp, float32 [B, K, S, G] (0 if blind)."""
    group, num_keys = q_BKSGE.shape[3], v_BKTE.shape[2]
    row_marks, key_marks = _marks(mask, q_BKSGE.shape[2], num_keys, group)

    def query_block(bounds):
        i, first, stop = bounds
        q_BKME = _rows_of(q_BKSGE, i, blocks[0])
        rows = _block_of(row_marks, i, blocks[0] * group)

        def key_block(j, state):
            out_BKME, top_BKM1, sum_BKM1 = state
            seen_BMJ = _seen(rows, _block_of(key_marks, j, blocks[1]))
            scores_BKMJ = _matmul(q_BKME, _slice(k_BKET, j, blocks[1], 3)) * scale
            if seen_BMJ is not None:
                scores_BKMJ = jnp.where(seen_BMJ[:, None], scores_BKMJ, -jnp.inf)
            new_top_BKM1 = jnp.maximum(top_BKM1, jnp.max(scores_BKMJ, axis=-1, keepdims=True))
            finite_BKM1 = jnp.where(new_top_BKM1 == -jnp.inf, 0.0, new_top_BKM1)  # a row that has seen no key yet
            weights_BKMJ = jnp.exp(scores_BKMJ - finite_BKM1)
            decay_BKM1 = jnp.exp(top_BKM1 - finite_BKM1)
            sum_BKM1 = sum_BKM1 * decay_BKM1 + jnp.sum(weights_BKMJ, axis=-1, keepdims=True)
            values_BKME = _matmul(weights_BKMJ.astype(v_BKTE.dtype), _slice(v_BKTE, j, blocks[1], 2))
            return out_BKME * decay_BKM1 + values_BKME, new_top_BKM1, sum_BKM1

        zero_BKME = jnp.zeros_like(q_BKME, dtype=jnp.float32)
        start = (zero_BKME, zero_BKME[..., :1] - jnp.inf, zero_BKME[..., :1])
        out_BKME, top_BKM1, sum_BKM1 = lax.fori_loop(first, stop, key_block, start)
        blind_BKM1 = sum_BKM1 == 0
        out_BKME = (out_BKME / jnp.where(blind_BKM1, 1.0, sum_BKM1)).astype(q_BKSGE.dtype)
        lse_BKM1 = jnp.where(blind_BKM1, 0.0, top_BKM1 + jnp.log(jnp.where(blind_BKM1, 1.0, sum_BKM1)))
        return _ungroup_rows(out_BKME, group), _ungroup_rows(lse_BKM1, group)[..., 0]

    out, lse = lax.map(query_block, _visits(mask, q_BKSGE.shape[2], num_keys, blocks))
    return _join_blocks(out), _join_blocks(lse)


def _backward_blocks(rows, keys, mask, scale, blocks):
    """Gradients of q [B, K, S, G, E], k and v [B, K, T, E], each in its own dtype; float32 sums over blocks."""
    (q_BKSGE, grad_BKSGE, lse_BKSG, delta_BKSG), (k_BKTE, v_BKTE) = rows, keys
    group, num_keys, dtype = q_BKSGE.shape[3], k_BKTE.shape[2], q_BKSGE.dtype
    k_BKET = k_BKTE.swapaxes(2, 3)
    row_marks, key_marks = _marks(mask, q_BKSGE.shape[2], num_keys, group)

    def query_block(sums, bounds):
        i, first, stop = bounds
        q_BKME, grad_BKME = _rows_of(q_BKSGE, i, blocks[0]), _rows_of(grad_BKSGE, i, blocks[0])
        q_BKEM, grad_BKEM = q_BKME.swapaxes(2, 3), grad_BKME.swapaxes(2, 3)
        lse_BK1M = _rows_of(lse_BKSG[..., None], i, blocks[0]).swapaxes(2, 3)
        delta_BK1M = _rows_of(delta_BKSG[..., None], i, blocks[0]).swapaxes(2, 3)
        rows = _block_of(row_marks, i, blocks[0] * group)

        def key_block(j, state):
            dq_BKEM, dk_BKTE, dv_BKTE = state
            seen_BJM = _seen(rows, _block_of(key_marks, j, blocks[1]), keys_first=True)
            logs_BKJM = _matmul(_slice(k_BKTE, j, blocks[1], 2), q_BKEM) * scale - lse_BK1M
            if seen_BJM is not None:  # before the exponential, so that it is one pass over the block
                logs_BKJM = jnp.where(seen_BJM[:, None], logs_BKJM, -jnp.inf)
            weights_BKJM = jnp.exp(logs_BKJM)
            dweights_BKJM = _matmul(_slice(v_BKTE, j, blocks[1], 2), grad_BKEM)
            dscores_BKJM = (weights_BKJM * (dweights_BKJM - delta_BK1M)).astype(dtype)
            dv_BKTE = _add_block(dv_BKTE, _matmul(weights_BKJM.astype(dtype), grad_BKME), j)
            dk_BKTE = _add_block(dk_BKTE, _matmul(dscores_BKJM, q_BKME), j)
            return dq_BKEM + _matmul(_slice(k_BKET, j, blocks[1], 3), dscores_BKJM), dk_BKTE, dv_BKTE

        start = (jnp.zeros_like(q_BKEM, dtype=jnp.float32), *sums)
        dq_BKEM, *sums = lax.fori_loop(first, stop, key_block, start)
        return tuple(sums), (dq_BKEM * scale).astype(dtype)

    zeros = tuple(jnp.zeros_like(x_BKTE, dtype=jnp.float32) for x_BKTE in keys)
    (dk_BKTE, dv_BKTE), dq = lax.scan(query_block, zeros, _visits(mask, q_BKSGE.shape[2], num_keys, blocks))
    dq_BKSGE = _join_blocks(_ungroup_rows(dq.swapaxes(3, 4), group))
    return dq_BKSGE, (dk_BKTE * scale).astype(k_BKTE.dtype), dv_BKTE.astype(v_BKTE.dtype)


def _visits(mask: AttentionMask, num_queries: int, num_keys: int, blocks: tuple[int, int]):
    """For every query block: its number, the first key block to visit and one past the last. int32 [I] each."""
    first_I, stop_I = block_bounds(seen_blocks(mask, num_queries, num_keys, blocks))
    return np.arange(num_queries // blocks[0], dtype=np.int32), first_I, stop_I


def _marks(mask: AttentionMask, num_queries: int, num_keys: int, group: int) -> tuple[_Marks, _Marks]:
    """What masks a block: of the queries, repeated for each head of a group, and of the keys."""
    query_BS, key_BT = positions(mask, num_queries, num_keys) if mask.causal else (None, None)
    rows = jax.tree.map(lambda x_BS: jnp.repeat(x_BS, group, axis=1), _Marks(mask.query_segment_ids_BS, query_BS))
    return rows, _Marks(mask.key_segment_ids_BT, key_BT)


def _block_of(marks: _Marks, block: jax.Array, size: int) -> _Marks:
    return jax.tree.map(lambda x_BS: _slice(x_BS, block, size, 1), marks)


def _seen(rows: _Marks, keys: _Marks, *, keys_first: bool = False) -> jax.Array | None:
    """Which rows see which keys of a block, bool [B or 1, M, J] (or [B or 1, J, M]); None: all do."""
    query, key = (slice(None), slice(None), None), (slice(None), None, slice(None))
    if keys_first:
        query, key = key, query
    terms = []
    if rows.segment_ids is not None and keys.segment_ids is not None:
        terms.append((rows.segment_ids[query] == keys.segment_ids[key]) & (rows.segment_ids[query] != 0))
    if rows.places is not None and keys.places is not None:
        terms.append(rows.places[query] >= keys.places[key])
    return functools.reduce(jnp.logical_and, terms) if terms else None


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _slice(x: jax.Array, block: jax.Array, size: int, dim: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, block * size, size, dim)


def _add_block(sum_BKTE: jax.Array, block_BKJE: jax.Array, block: jax.Array) -> jax.Array:
    size = block_BKJE.shape[2]
    return lax.dynamic_update_slice_in_dim(sum_BKTE, _slice(sum_BKTE, block, size, 2) + block_BKJE, block * size, 2)


def _group_heads(x_BSHE: jax.Array, num_kv_heads: int) -> jax.Array:
    batch, length, heads, size = x_BSHE.shape
    return x_BSHE.reshape(batch, length, num_kv_heads, heads // num_kv_heads, size).transpose(0, 2, 1, 3, 4)


def _ungroup_heads(x_BKSGE: jax.Array) -> jax.Array:
    batch, kv_heads, length, group, size = x_BKSGE.shape
    return x_BKSGE.transpose(0, 2, 1, 3, 4).reshape(batch, length, kv_heads * group, size)


def _rows_of(x_BKSGE: jax.Array, block: jax.Array, size: int) -> jax.Array:
    """Block number `block` of the queries as rows [B, K, M, E]: positions outer, group inner."""
    x_BKCGE = _slice(x_BKSGE, block, size, 2)
    return x_BKCGE.reshape(*x_BKCGE.shape[:2], -1, x_BKCGE.shape[-1])


def _ungroup_rows(x_BKME: jax.Array, group: int) -> jax.Array:
    """Rows [..., M, E] back to positions and group [..., C, G, E]."""
    return x_BKME.reshape(*x_BKME.shape[:-2], -1, group, x_BKME.shape[-1])


def _join_blocks(blocks: jax.Array) -> jax.Array:
    """Stacked blocks [I, B, K, C, ...] joined along the sequence: [B, K, I*C, ...]."""
    joined = jnp.moveaxis(blocks, 0, 2)
    return joined.reshape(*joined.shape[:2], -1, *joined.shape[4:])
