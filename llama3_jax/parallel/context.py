"""Context parallelism: any local attention over a sequence that is split over devices (Llama 3, 3.3.2).

Keys and values are all-gathered over the context axis and put back into the order of the sequence; queries stay where
they are and bring their places. So the mask may be anything, grouped heads keep the gathered arrays small, and any
attention that takes places of queries works unchanged. The backward pass reduce-scatters the gradients of keys and
values in float32. Everything here runs inside `shard_map` (`parallel/manual.py`), with the context axis bound.

The split is the paper's (`balance.chunk_order`: rank i of R holds chunks i and 2R-1-i), undone by slices fixed at
compile time, or one by document cost that differs from row to row (`balance.document_order`), undone block by block
with a `BlockOrder`. Which one it is must agree with how the batch was split: nothing on the device can tell.

Letters: B batch, S a rank's positions, T the sequence's positions, H heads, K kv heads, E head size, R ranks, I blocks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class BlockOrder(NamedTuple):
    """Where the blocks of a sequence lie once the ranks' parts are gathered, one row a sequence. Int32 [B, I] both.

    source_BI: for each block of the sequence, its number among the gathered blocks.
    place_BI: for each gathered block, its number in the sequence. The inverse, which the backward pass needs.
    """

    source_BI: jax.Array
    place_BI: jax.Array


def gather_block_order(index_BS: jax.Array, axis_name: str, block: int) -> BlockOrder:
    """The order of a batch split by `balance.document_order` in blocks of `block`; the same in all layers of a step.

    `index_BS`: places of this rank's tokens, the batch's `index`. Raises ValueError when `block` does not divide S.
    """
    length = index_BS.shape[1]
    if block < 1 or length % block:
        raise ValueError(f"blocks of {block} tokens do not divide the {length} that each rank holds")
    place_BI = lax.all_gather(index_BS[:, ::block] // block, axis_name, axis=1, tiled=True)
    return BlockOrder(jnp.argsort(place_BI, axis=1).astype(jnp.int32), place_BI.astype(jnp.int32))


def gather_ids(ids_BS: jax.Array, axis_name: str, order: BlockOrder | None = None) -> jax.Array:
    """Integers of the whole sequence, [B, T] in its own order, from each rank's part: segment ids of the keys.

    Without an `order` the split is the paper's. Raises ValueError for a length that the split cannot have.
    """
    return _gather(ids_BS, order, axis_name)


def gather_keys(x_BSKE: jax.Array, axis_name: str, order: BlockOrder | None = None) -> jax.Array:
    """Keys or values of the whole sequence, [B, T, K, E] in its own order, from each rank's part.

    The gradient is summed over the ranks in float32, whatever the dtype, and only then rounded to it. Without an
    `order` the split is the paper's. Raises ValueError for a length that the split cannot have.
    """
    return _gather_keys(x_BSKE, order, axis_name)


def context_attention(
    q_BSHE: jax.Array,
    k_BSKE: jax.Array,
    v_BSKE: jax.Array,
    mask: Any,
    attend: Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array],
    axis_name: str,
    order: BlockOrder | None = None,
) -> jax.Array:
    """`attend(q, k, v, mask)` of this rank's queries over the keys of the whole sequence: [B, S, H, E].

    `mask`: an `AttentionMask` of this rank's part, [B, S]. Its `query_index_BS` may be left out under the paper's split
    (no `order`). Its `key_segment_ids_BT` is gathered here unless it is there already, [B, T] in the sequence's order:
    what layers share, `gather_ids` and `gather_block_order` can make once for all of them.

    Raises ValueError for a mask with `key_index_BT`, for an `order` without `query_index_BS`, and as `gather_keys`.
    """
    if mask.key_index_BT is not None:
        raise ValueError("context attention lays the keys in the order of the sequence: leave key_index_BT out")
    if mask.query_index_BS is None:
        if order is not None:
            raise ValueError("context attention with a block order needs query_index_BS, the batch's index")
        mask = dataclasses.replace(mask, query_index_BS=_chunk_places(q_BSHE.shape[0], q_BSHE.shape[1], axis_name))
    if mask.query_segment_ids_BS is not None and mask.key_segment_ids_BT is None:
        key_ids_BT = gather_ids(mask.query_segment_ids_BS, axis_name, order)
        mask = dataclasses.replace(mask, key_segment_ids_BT=key_ids_BT)
    k_BTKE, v_BTKE = gather_keys(k_BSKE, axis_name, order), gather_keys(v_BSKE, axis_name, order)
    return attend(q_BSHE, k_BTKE, v_BTKE, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather_keys(x_BSKE: jax.Array, order: BlockOrder | None, axis_name: str) -> jax.Array:
    return _gather(x_BSKE, order, axis_name)


def _gather_keys_forward(x_BSKE, order, axis_name):
    return _gather(x_BSKE, order, axis_name), order


def _gather_keys_backward(axis_name, order, grad_BTKE):
    parts_BRSKE = _split(grad_BTKE, order, lax.axis_size(axis_name)).astype(jnp.float32)
    sum_BSKE = lax.psum_scatter(parts_BRSKE, axis_name, scatter_dimension=1)
    return sum_BSKE.astype(grad_BTKE.dtype), None


_gather_keys.defvjp(_gather_keys_forward, _gather_keys_backward)


def _gather(x_BS: jax.Array, order: BlockOrder | None, axis_name: str) -> jax.Array:
    """[B, S, ...] of every rank to [B, T, ...]."""
    _check_length(x_BS.shape[1], order, lax.axis_size(axis_name))
    return _join(lax.all_gather(x_BS, axis_name, axis=1), order)


def _join(parts_BRS: jax.Array, order: BlockOrder | None) -> jax.Array:
    """The ranks' parts [B, R, S, ...] as the sequence [B, R*S, ...]."""
    batch, ranks, length, *rest = parts_BRS.shape
    if order is None:
        first, second = jnp.split(parts_BRS, 2, axis=2)
        blocks_BI = jnp.concatenate([first, jnp.flip(second, axis=1)], axis=1)
    else:
        num_blocks = order.source_BI.shape[1]
        blocks_BI = _take_blocks(parts_BRS.reshape(batch, num_blocks, -1, *rest), order.source_BI)
    return blocks_BI.reshape(batch, ranks * length, *rest)


def _split(x_BT: jax.Array, order: BlockOrder | None, ranks: int) -> jax.Array:
    """The sequence [B, R*S, ...] as the ranks' parts [B, R, S, ...]: the inverse of `_join`."""
    batch, length, *rest = x_BT.shape
    if order is None:
        first, second = jnp.split(x_BT.reshape(batch, 2 * ranks, -1, *rest), 2, axis=1)
        return jnp.concatenate([first, jnp.flip(second, axis=1)], axis=2)
    blocks_BI = _take_blocks(x_BT.reshape(batch, order.place_BI.shape[1], -1, *rest), order.place_BI)
    return blocks_BI.reshape(batch, ranks, length // ranks, *rest)


def _take_blocks(blocks_BI: jax.Array, numbers_BI: jax.Array) -> jax.Array:
    """Whole blocks [B, I, block, ...] in the order of `numbers_BI`, a permutation of each row's."""
    return jax.vmap(lambda blocks_I, numbers_I: jnp.take(blocks_I, numbers_I, axis=0, mode="clip"))(
        blocks_BI, numbers_BI
    )


def _chunk_places(batch: int, length: int, axis_name: str) -> jax.Array:
    """Places of this rank's tokens under the paper's split, int32 [B, S]."""
    ranks, rank = lax.axis_size(axis_name), lax.axis_index(axis_name).astype(jnp.int32)
    _check_length(length, None, ranks)
    inside = jnp.arange(length // 2, dtype=jnp.int32)
    chunk = length // 2
    places_S = jnp.concatenate([rank * chunk + inside, (2 * ranks - 1 - rank) * chunk + inside])
    return jnp.broadcast_to(places_S, (batch, length))


def _check_length(length: int, order: BlockOrder | None, ranks: int) -> None:
    if order is None and length % 2:
        raise ValueError(f"each of {ranks} ranks holds two chunks of one size, which {length} tokens cannot be")
    if order is not None and length * ranks % order.source_BI.shape[1]:
        raise ValueError(f"{length} tokens on each of {ranks} ranks are no {order.source_BI.shape[1]} equal blocks")
