"""Orders of a split sequence: permutations, equal counts, never worse than the paper's, and what they refuse."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.ops.attention_mask import AttentionMask, visible
from llama3_jax.parallel.balance import (
    batch_imbalance,
    chunk_order,
    document_order,
    mask_area,
    rank_area,
    row_imbalance,
    split_order,
)


def ids(*runs):
    """Segment ids [S] from (id, length) runs."""
    return np.concatenate([np.full(length, number, np.int32) for number, length in runs])


def packed(rng, length, mean):
    """Documents of about `mean` tokens, geometric, in a row that may end in padding, [S]."""
    cuts = np.cumsum(rng.geometric(1 / mean, length))
    row = np.searchsorted(cuts, np.arange(length), side="right").astype(np.int32) + 1
    row[length - rng.integers(0, length // 4 + 1) :] = 0
    return row


@st.composite
def split_rows(draw):
    """(segment ids [B, S], ranks, block) that fit each other."""
    ranks, block = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    length = 2 * ranks * block * draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mean = draw(st.sampled_from([1.5, 5, 40]))
    return np.stack([packed(rng, length, mean) for _ in range(draw(st.integers(1, 3)))]), ranks, block


def test_chunks_as_in_the_paper():
    np.testing.assert_array_equal(chunk_order(16, 4), [0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9])
    assert chunk_order(16, 4).dtype == np.int32
    np.testing.assert_array_equal(chunk_order(6, 1), np.arange(6))


def test_chunks_balance_one_document_exactly():
    one = np.ones((1, 512), np.int32)
    assert row_imbalance(one, chunk_order(512, 8), 8) == 1
    np.testing.assert_array_equal(document_order(one, 8, 8)[0], chunk_order(512, 8))


def test_area_counts_the_keys_that_the_mask_shows():
    rows = np.stack([ids((1, 1), (2, 7), (3, 1), (4, 15)), ids((1, 20), (0, 4))])
    seen_BST = visible(AttentionMask(query_segment_ids_BS=jnp.asarray(rows)), 24, 24)
    np.testing.assert_array_equal(mask_area(rows), np.asarray(seen_BST).sum(axis=2))
    order = chunk_order(24, 2)
    np.testing.assert_array_equal(
        rank_area(rows, order, 2), np.asarray(seen_BST)[:, order].reshape(2, 2, 12, 24).sum(axis=(2, 3))
    )


def test_imbalance_of_rows_and_of_their_batch():
    """Two rows that lean to different ranks: less so together."""
    rows = np.stack([ids((1, 1), (2, 1), (3, 3), (4, 1), (5, 1), (6, 1)), ids((1, 3), (2, 1), (3, 1), (4, 1), (5, 2))])
    order = np.arange(8)
    np.testing.assert_array_equal(rank_area(rows, order, 2), [[5, 6], [7, 5]])
    np.testing.assert_allclose(row_imbalance(rows, order, 2), [6 / 5.5, 7 / 6])
    assert batch_imbalance(rows, order, 2) == pytest.approx(12 / 11.5)
    padding = np.zeros((1, 8), np.int32)
    assert row_imbalance(padding, order, 2) == batch_imbalance(padding, order, 2) == 1


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(split_rows())
def test_document_order(rows):
    segment_ids_BS, ranks, block = rows
    batch, length = segment_ids_BS.shape
    order_BS = document_order(segment_ids_BS, ranks, block)
    assert order_BS.dtype == np.int32 and order_BS.shape == (batch, length)
    np.testing.assert_array_equal(np.sort(order_BS, axis=1), np.broadcast_to(np.arange(length), (batch, length)))
    blocks_BRI = order_BS.reshape(batch, ranks, -1, block)
    assert (blocks_BRI[..., 0] % block == 0).all(), "blocks stay whole"
    assert (np.diff(blocks_BRI, axis=3) == 1).all(), "blocks stay whole"
    assert (np.diff(blocks_BRI[..., 0], axis=2) > 0).all(), "increasing places within a rank"
    paper_BR = rank_area(segment_ids_BS, chunk_order(length, ranks), ranks)
    assert (rank_area(segment_ids_BS, order_BS, ranks).max(axis=1) <= paper_BR.max(axis=1)).all()
    for row in range(batch):  # each row's order is its own
        np.testing.assert_array_equal(document_order(segment_ids_BS[row], ranks, block), order_BS[row])


def test_documents_are_balanced_where_chunks_are_not():
    rng = np.random.default_rng(0)
    rows = np.stack([packed(rng, 16384, mean) for mean in (300, 1000, 3000, 10000)])
    assert (row_imbalance(rows, chunk_order(16384, 8), 8) > 1.05).all()
    assert (row_imbalance(rows, document_order(rows, 8, 128), 8) < 1.02).all()


def test_swaps_repair_what_dealing_leaves():
    """Blocks that cost 6, 6, 4, 4, 4: the costliest first gives 6+4+4 and 6+4; swapping a 6 for a 4 gives 12 each."""
    row = ids((1, 3), (0, 3), (2, 3), *[(2 * n + 1 + part, 2 - part) for n in (1, 2, 3) for part in (0, 1)], (0, 6))
    np.testing.assert_array_equal(mask_area(row).reshape(8, 3).sum(axis=1), [6, 0, 6, 4, 4, 4, 0, 0])
    np.testing.assert_array_equal(rank_area(row, document_order(row, 2, 3), 2), [12, 12])


def test_split_order_moves_every_array_alike():
    rng = np.random.default_rng(0)
    rows = np.stack([packed(rng, 64, 9) for _ in range(6)])
    batch = {"segment_ids": rows, "weights": rng.random((6, 64)).astype(np.float32)}
    by_document_BS = document_order(rows, 4, 4)
    for order in (chunk_order(64, 4), by_document_BS):
        split = split_order(batch, order)
        assert list(split) == ["segment_ids", "weights", "index"] and split["index"].dtype == np.int32
        for row, places in enumerate(np.broadcast_to(order, (6, 64))):
            np.testing.assert_array_equal(split["index"][row], places)
            for name, array in batch.items():
                np.testing.assert_array_equal(split[name][row], array[row, places])
    folded = {name: array.reshape(3, 2, 64) for name, array in batch.items()}
    np.testing.assert_array_equal(document_order(folded["segment_ids"], 4, 4), by_document_BS.reshape(3, 2, 64))
    for name, array in split_order(folded, by_document_BS).items():
        np.testing.assert_array_equal(array, split[name].reshape(3, 2, 64))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: chunk_order(100, 8), "100 tokens .* 16 equal chunks.* 8 ranks.* is 96"),
        (lambda: chunk_order(3, 8), "is 16"),
        (lambda: chunk_order(0, 2), "is 4"),
        (lambda: chunk_order(8, 0), "not 0"),
        (lambda: document_order(np.ones((1, 60), np.int32), 8, 4), "60 tokens .* is 64"),
        (lambda: document_order(np.ones((1, 192), np.int32), 8, 8), "blocks of 8 .* chunks of 12 .* is 6"),
        (lambda: document_order(np.ones((1, 64), np.float32), 2, 4), "float32"),
        (lambda: split_order({"a": np.zeros((2, 8)), "b": np.zeros(2)}, np.arange(8)), r"b \(2,\)"),
        (lambda: split_order({"a": np.zeros((2, 8))}, np.arange(4)), r"\(4,\)"),
        (lambda: split_order({"a": np.zeros((2, 8))}, np.zeros((3, 8), int)), r"\(3, 8\)"),
        (lambda: split_order({"index": np.zeros((2, 8))}, np.arange(8)), "split before"),
        (lambda: split_order({}, np.arange(8)), "none at all"),
    ],
)
def test_refusals_name_the_numbers(call, words):
    with pytest.raises(ValueError, match=words):
        call()
