"""Which rank holds which part of a sequence: the host side of context parallelism (Llama 3, 3.3.2).

Part of the input pipeline, NumPy only. The paper cuts a sequence in 2R chunks and gives rank i chunks i and 2R-1-i,
which balances one causal document exactly. Packed documents do not see each other, so there one rank may hold the ends
of the long documents, and all wait for it. `document_order` deals out smaller blocks by what they cost, never worse
than the paper's order. An order depends on its row alone, so a batch stays a pure function of its address.

Eight blocks or more a rank balance well (benchmarks/context_balance.py). A block should not be smaller than the query
block of the attention kernel, which would join queries from distant places and visit all keys between.

The cost of a query is its mask area, the number of keys it sees: its place in its document, from 1. A document is a run
of one segment id; padding (0) costs nothing. Rows of a batch may differ in order; `parallel/context.py` undoes it.

Letters: B batch, S positions, R ranks, I blocks.
"""

import heapq
from collections.abc import Mapping

import numpy as np

INDEX = "index"  # the key that `split_order` adds to a batch
GOOD_ENOUGH = 1.001  # max/mean area at which swapping stops: less than kernels' and clocks' noise
SWAPS_PER_RANK = 8


def chunk_order(length: int, ranks: int) -> np.ndarray:
    """The paper's order, int32 [S]: entry j is the place in the sequence of position j of the split array.

    Rank r owns positions [r S/R, (r+1) S/R): chunks r and 2R-1-r of the 2R chunks.
    Raises ValueError when 2R does not divide S, or there are no ranks.
    """
    chunk = _chunk(length, ranks)
    chunks_R2 = np.stack([np.arange(ranks), 2 * ranks - 1 - np.arange(ranks)], axis=1)
    return _places(chunks_R2.reshape(-1), chunk)


def document_order(segment_ids_BS: np.ndarray, ranks: int, block: int) -> np.ndarray:
    """An order for each row, int32 [B, S] as in `chunk_order`, that gives the ranks nearly the same mask area.

    Every rank gets as many blocks of `block` tokens, in increasing place. Costliest block first, each goes to the rank
    with the least area that still has room; then swaps lower the highest area. Where that is no better than the paper's
    order, a row has the paper's order. Leading dims may be several, as in [micro-batches, B, S].

    Raises ValueError when 2R does not divide S, or `block` does not divide S/2R, or the ids are no integers [.., S].
    """
    length = _checked(segment_ids_BS).shape[-1]
    chunk = _chunk(length, ranks)
    if block < 1 or chunk % block:
        divisors = [size for size in range(1, chunk + 1) if chunk % size == 0]
        nearest = min(divisors, key=lambda size: abs(size - block))
        raise ValueError(
            f"blocks of {block} tokens do not divide the {2 * ranks} chunks of {chunk} that {ranks} ranks cut {length} "
            f"tokens into; the nearest block that does is {nearest}"
        )
    paper_I = chunk_order(length, ranks)[::block] // block
    rows = segment_ids_BS.reshape(-1, length)
    order_BS = np.empty(rows.shape, np.int32)
    for row in range(rows.shape[0]):  # one by one: its temporaries stay in the cache
        cost_I = mask_area(rows[row : row + 1]).reshape(-1, block).sum(axis=1)
        order_BS[row] = _places(_balanced_blocks(cost_I, paper_I, ranks), block)
    return order_BS.reshape(segment_ids_BS.shape)


def split_order(batch: Mapping[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    """Every array [.., S] of a batch with its last dim in `order`, and `index`: the places, int32, shaped like them.

    `order` is [S], or has one row for each row of the arrays, as [B, S] has for arrays [B, S] and [M, B/M, S].
    Raises ValueError for an array that does not fit the order or the others, and for a batch that has an `index`.
    """
    if INDEX in batch:
        raise ValueError(f"the batch has an array {INDEX!r} already: it was split before")
    if len({array.shape for array in batch.values()}) != 1:
        raise ValueError(f"the arrays of a batch must have one shape, not {_shapes(batch)}")
    shape = next(iter(batch.values())).shape
    if order.ndim == 1 and order.shape == shape[-1:]:
        index = np.broadcast_to(order, shape)
    elif order.shape[-1:] == shape[-1:] and order.size == np.prod(shape):
        index = order.reshape(shape)
    else:
        raise ValueError(f"an order of shape {order.shape} does not fit arrays of shape {shape}")
    split = {name: np.take_along_axis(array, index, axis=-1) for name, array in batch.items()}
    return split | {INDEX: np.ascontiguousarray(index, np.int32)}


def mask_area(segment_ids_BS: np.ndarray) -> np.ndarray:
    """Keys that each query sees under the causal document mask, int64 [.., S]; 0 for padding."""
    place_S = np.arange(_checked(segment_ids_BS).shape[-1])
    begins_BS = np.ones(segment_ids_BS.shape, bool)
    np.not_equal(segment_ids_BS[..., 1:], segment_ids_BS[..., :-1], out=begins_BS[..., 1:])
    begin_BS = np.maximum.accumulate(np.where(begins_BS, place_S, 0), axis=-1)
    return np.where(segment_ids_BS != 0, place_S - begin_BS + 1, 0)


def rank_area(segment_ids_BS: np.ndarray, order: np.ndarray, ranks: int) -> np.ndarray:
    """Mask area of each rank in each row, int64 [B, R], under an order [S] or [B, S]."""
    area_BS = mask_area(segment_ids_BS)
    split_BS = np.take_along_axis(area_BS, np.broadcast_to(order, area_BS.shape), axis=-1)
    return split_BS.reshape(*split_BS.shape[:-1], ranks, -1).sum(axis=-1)


def row_imbalance(segment_ids_BS: np.ndarray, order: np.ndarray, ranks: int) -> np.ndarray:
    """Highest over mean mask area of the ranks, row by row, float64 [B]; 1 is perfect, also for a row of padding."""
    return _imbalance(rank_area(segment_ids_BS, order, ranks))


def batch_imbalance(segment_ids_BS: np.ndarray, order: np.ndarray, ranks: int) -> float:
    """The same of the ranks' sums over all rows: what counts where a rank works through its parts of all rows."""
    return float(_imbalance(rank_area(segment_ids_BS, order, ranks).reshape(-1, ranks).sum(axis=0)))


def _imbalance(area_BR: np.ndarray) -> np.ndarray:
    mean_B = area_BR.mean(axis=-1)
    return np.where(mean_B > 0, area_BR.max(axis=-1) / np.where(mean_B > 0, mean_B, 1), 1.0)


def _balanced_blocks(cost_I: np.ndarray, paper_I: np.ndarray, ranks: int) -> np.ndarray:
    """Blocks in the order of the split array, [I]: rank by rank, in increasing place; the paper's where no worse."""
    rank_I, area_R = _deal(cost_I, ranks)
    _swap(cost_I, rank_I, area_R)
    if area_R.max() >= cost_I[paper_I].reshape(ranks, -1).sum(axis=1).max():
        return paper_I
    # Number the ranks by the first block they hold: dealt in order of cost, rank 0 would be the costliest of every row.
    first_R = np.full(ranks, rank_I.size)
    np.minimum.at(first_R, rank_I, np.arange(rank_I.size))
    return np.argsort(np.argsort(first_R)[rank_I], kind="stable")


def _deal(cost_I: np.ndarray, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Costliest first to the rank with the least area that has room, ties by number: (rank [I], area [R])."""
    costs = cost_I.tolist()
    room = [len(costs) // ranks] * ranks
    least = [(0, rank) for rank in range(ranks)]
    rank_I, area_R = np.empty(len(costs), np.int64), np.zeros(ranks, np.int64)
    for block in np.argsort(-cost_I, kind="stable").tolist():
        area, rank = heapq.heappop(least)
        area += costs[block]
        rank_I[block], area_R[rank] = rank, area
        room[rank] -= 1
        if room[rank]:
            heapq.heappush(least, (area, rank))
    return rank_I, area_R


def _swap(cost_I: np.ndarray, rank_I: np.ndarray, area_R: np.ndarray) -> None:
    """Swaps a block of the costliest rank for another's, the best pair each time, while that helps. Works in place."""
    enough = GOOD_ENOUGH * area_R.mean()
    for _ in range(SWAPS_PER_RANK * area_R.size):
        heavy = int(np.argmax(area_R))
        if area_R[heavy] <= enough:
            return
        mine, others = np.flatnonzero(rank_I == heavy), np.flatnonzero(rank_I != heavy)
        if not others.size:
            return
        moved = cost_I[mine][:, None] - cost_I[others][None, :]
        higher = np.maximum(area_R[heavy] - moved, area_R[rank_I[others]][None, :] + moved)
        give, take = np.unravel_index(np.argmin(higher), higher.shape)
        if higher[give, take] >= area_R[heavy]:
            return
        light = rank_I[others[take]]
        area_R[heavy] -= moved[give, take]
        area_R[light] += moved[give, take]
        rank_I[mine[give]], rank_I[others[take]] = light, heavy


def _places(blocks_I: np.ndarray, block: int) -> np.ndarray:
    """Places of the tokens of blocks in turn, int32 [I * block]."""
    return (blocks_I[:, None] * block + np.arange(block)).reshape(-1).astype(np.int32)


def _chunk(length: int, ranks: int) -> int:
    """Tokens of one of 2R chunks; ValueError where they do not come out even."""
    if ranks < 1:
        raise ValueError(f"a sequence is split over 1 rank or more, not {ranks}")
    chunks = 2 * ranks
    if length < 1 or length % chunks:
        nearest = max(1, (length + ranks) // chunks) * chunks
        raise ValueError(
            f"{length} tokens cannot be cut in {chunks} equal chunks, two for each of {ranks} ranks; the nearest "
            f"length that can is {nearest}"
        )
    return length // chunks


def _checked(segment_ids_BS: np.ndarray) -> np.ndarray:
    if segment_ids_BS.ndim < 1 or not np.issubdtype(segment_ids_BS.dtype, np.integer):
        raise ValueError(f"segment ids are integers [.., S], not {segment_ids_BS.dtype} {segment_ids_BS.shape}")
    return segment_ids_BS


def _shapes(batch: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in batch.items()) or "none at all"
