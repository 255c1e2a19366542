"""Packing: against a naive reference in plain Python, and every token once, whatever the row lengths."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data.packing import (
    ROW_DTYPES,
    BestFitPacker,
    ConcatPacker,
    best_fit_decreasing,
    hash_permutation,
    pack_rows,
    sequential_rows,
)
from llama3_jax.data.token_store import TokenStore, TokenStoreWriter


class ListStore:
    """What packers ask of a TokenStore, over lists of document lengths; every token in it is unique, from 1."""

    path = "memory"

    def __init__(self, shards):
        self.shard_tokens = np.array([sum(lengths) for lengths in shards], np.int64)
        self.num_tokens = int(self.shard_tokens.sum())
        names = [SimpleNamespace(num_tokens=sum(lengths), name=f"shard-{i}") for i, lengths in enumerate(shards)]
        self.manifest = SimpleNamespace(shards=names)
        self._offsets = [np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64) for lengths in shards]
        bounds = np.cumsum([0, *self.shard_tokens])
        self._tokens = [np.arange(a + 1, b + 1) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    def document_offsets(self, shard):
        return self._offsets[shard]

    def document_lengths(self, shard):
        return np.diff(self._offsets[shard])

    def start_reads(self, shards, starts, stops):
        ranges = zip(shards, starts, stops, strict=True)
        return lambda: np.concatenate([self._tokens[shard][start:stop] for shard, start, stop in ranges])

    def documents(self, shard):
        offsets = self._offsets[shard]
        return [self._tokens[shard][a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


stores = st.lists(st.lists(st.integers(1, 30), max_size=8), min_size=1, max_size=4).filter(any).map(ListStore)
seeds = st.integers(-(2**63), 2**63 - 1)
cheap = settings(deadline=None, max_examples=80)


def python_permutation(count, *key):
    """hash_permutation in Python's integers."""

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    state = 0
    for part in key:
        state = mix((state + part + 0x9E3779B97F4A7C15) % 2**64)
    hashes = [mix((state + 0x9E3779B97F4A7C15 * (i + 1)) % 2**64) for i in range(count)]
    return sorted(range(count), key=lambda i: (hashes[i], i))


def python_stream(store, seed, epochs):
    """The endless stream's first epochs: a list of documents, each a list of tokens."""
    stream = []
    for epoch in range(epochs):
        shards = range(len(store.shard_tokens))
        for shard in shards if seed is None else python_permutation(len(shards), seed, epoch, 1, 0):
            documents = store.documents(shard)
            order = range(len(documents)) if seed is None else python_permutation(len(documents), seed, epoch, 2, shard)
            stream += [documents[i] for i in order]
    return stream


def python_rows(stream, cursor, num_rows, size):
    """Rows by the rules as the module states them, token by token."""
    flat = [(d, i, token) for d, document in enumerate(stream) for i, token in enumerate(document)]
    rows = {name: np.zeros((num_rows, size), dtype) for name, dtype in ROW_DTYPES.items()}
    for row in range(num_rows):
        segment = position = 0
        for column in range(size):
            document, index, token = flat[cursor + row * size + column]
            starts = column == 0 or index == 0
            segment, position = (segment + 1, 0) if starts else (segment, position + 1)
            has_target = index + 1 < len(stream[document])
            rows["tokens"][row, column] = token
            rows["targets"][row, column] = stream[document][index + 1] if has_target else 0
            rows["loss_weights"][row, column] = has_target
            rows["segment_ids"][row, column] = segment
            rows["positions"][row, column] = position
    return rows


def assert_rows_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@cheap
@given(count=st.integers(0, 50), key=st.lists(seeds, min_size=1, max_size=4))
def test_permutation_equals_plain_integers(count, key):
    assert hash_permutation(count, *key).tolist() == python_permutation(count, *key)


def test_permutations_look_random():
    moved = [hash_permutation(1000, seed) for seed in range(50)]
    assert np.mean([np.abs(p - np.arange(1000)).mean() for p in moved]) == pytest.approx(333, rel=0.03)
    firsts = np.bincount([hash_permutation(8, 5, epoch)[0] for epoch in range(8000)], minlength=8)
    assert firsts.min() > 880 and firsts.max() < 1120


@cheap
@given(store=stores, seed=st.none() | seeds, size=st.integers(1, 40), rows=st.integers(1, 5), data=st.data())
def test_concat_equals_reference(store, seed, size, rows, data):
    cursor = data.draw(st.integers(0, 2 * store.num_tokens))
    epochs = -(-(cursor + rows * size) // store.num_tokens)
    expected = python_rows(python_stream(store, seed, epochs), cursor, rows, size)
    assert_rows_equal(pack_rows(ConcatPacker(store, seed=seed), cursor, rows, size), expected)


@cheap
@given(store=stores, seed=seeds, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_rows_of_changing_length_tile_the_stream(store, seed, sizes):
    packer = ConcatPacker(store, seed=seed)
    cursor, seen = 0, []
    while cursor < 2 * store.num_tokens:
        size = sizes[len(seen) % len(sizes)]
        seen.append(pack_rows(packer, cursor, 1, size)["tokens"][0])
        cursor += packer.stride(size)
    tokens = np.concatenate(seen)
    for epoch in range(2):
        part = tokens[epoch * store.num_tokens : (epoch + 1) * store.num_tokens]
        assert sorted(part.tolist()) == list(range(1, store.num_tokens + 1))


@cheap
@given(store=stores, seed=seeds, size=st.integers(1, 40))
def test_targets_lost_only_at_document_ends(store, seed, size):
    """An epoch has one target for each token that is not its document's first, wherever rows end."""
    num_rows = -(-store.num_tokens // size)
    rows = pack_rows(ConcatPacker(store, seed=seed), 0, num_rows, size)
    weights = rows["loss_weights"].ravel()[: store.num_tokens]
    num_documents = sum(store.document_lengths(s).size for s in range(len(store.shard_tokens)))
    assert weights.sum() == store.num_tokens - num_documents
    # Tokens are consecutive within a document, so a target is its token plus one.
    has_target = rows["loss_weights"] == 1
    np.testing.assert_array_equal(rows["targets"][has_target], rows["tokens"][has_target] + 1)
    assert not rows["targets"][~has_target].any()


def test_epochs_are_shuffled_differently():
    store = ListStore([[3] * 40] * 8)
    packer = ConcatPacker(store, seed=1)
    epochs = [pack_rows(packer, e * store.num_tokens, 1, store.num_tokens)["tokens"][0] for e in range(6)]
    shard_orders = {tuple(dict.fromkeys((epoch - 1) // 120)) for epoch in epochs}
    assert len(shard_orders) == 6
    assert len({tuple(epoch) for epoch in epochs}) == 6
    in_first_shard = [epoch[epoch <= 120][::3].tolist() for epoch in epochs]
    assert all(order != sorted(order) for order in in_first_shard)
    assert len({tuple(order) for order in in_first_shard}) == 6


@cheap
@given(store=stores, seed=seeds, size=st.integers(1, 40))
def test_best_fit_keeps_every_token_once(store, seed, size):
    packer = BestFitPacker(store, seed=seed, sequence_length=size)
    for epoch in range(2):
        rows = pack_rows(packer, epoch * packer.epoch_length, packer.epoch_length, size)
        real = rows["segment_ids"] > 0
        assert sorted(rows["tokens"][real].tolist()) == list(range(1, store.num_tokens + 1))
        assert (~real).sum() == packer.num_padding
        for array in rows.values():
            assert not array[~real].any()
        # Padding only on the right, segments counted from 1 without a gap.
        steps = np.diff(np.where(real, rows["segment_ids"], size + 1), axis=1)
        assert np.all((steps >= 0) & ((steps <= 1) | ~real[:, 1:]))
        assert np.all(rows["segment_ids"][:, 0] == 1)
        has_target = rows["loss_weights"] == 1
        np.testing.assert_array_equal(rows["targets"][has_target], rows["tokens"][has_target] + 1)
        lengths = np.concatenate([store.document_lengths(s) for s in range(len(store.shard_tokens))])
        assert has_target.sum() == store.num_tokens - lengths.size
        # Documents are cut only where one is longer than a row.
        assert (rows["positions"][real] == 0).sum() == (-(-lengths // size)).sum()


@cheap
@given(store=stores, seed=seeds, size=st.integers(1, 40), data=st.data())
def test_best_fit_rows_are_addressable(store, seed, size, data):
    packer = BestFitPacker(store, seed=seed, sequence_length=size)
    whole = pack_rows(packer, 0, 2 * packer.epoch_length, size)
    cursor = data.draw(st.integers(0, 2 * packer.epoch_length - 1))
    num_rows = data.draw(st.integers(1, 2 * packer.epoch_length - cursor))
    part = pack_rows(pickle.loads(pickle.dumps(packer)), cursor, num_rows, size)
    assert_rows_equal(part, {name: array[cursor : cursor + num_rows] for name, array in whole.items()})


@cheap
@given(lengths=st.lists(st.integers(1, 20), max_size=60))
def test_best_fit_decreasing(lengths):
    lengths = np.array(lengths, np.int64)
    row, column = best_fit_decreasing(lengths, 20)
    taken = np.bincount(row, weights=lengths)
    assert taken.size == 0 or taken.max() <= 20
    for r in range(taken.size):
        inside = np.argsort(column[row == r])
        sizes = lengths[row == r][inside]
        np.testing.assert_array_equal(column[row == r][inside], np.cumsum(sizes) - sizes)
    # No two rows could have shared one: any two hold more than a row.
    assert taken.size < 2 or np.sort(taken)[:2].sum() > 20
    shuffled = best_fit_decreasing(lengths[::-1].copy(), 20)[0]
    assert shuffled.max(initial=-1) == row.max(initial=-1)


def test_best_fit_prefers_the_fullest_row():
    row, column = best_fit_decreasing(np.array([2, 6, 5, 4, 3]), 10)
    # 6 | 5 | 4 fits both and goes to the 6; 3 goes to the 5, and so does 2.
    assert row.tolist() == [1, 0, 1, 0, 1]
    assert column.tolist() == [8, 0, 0, 6, 5]


def test_best_fit_refusals():
    store = ListStore([[3, 11], [2]])
    with pytest.raises(ValueError, match="memory/shard-0 has a document of 11 tokens; a row holds 10"):
        BestFitPacker(store, seed=0, sequence_length=10, long_documents="error")
    BestFitPacker(store, seed=0, sequence_length=11, long_documents="error")
    with pytest.raises(ValueError, match="long_documents 'cut' is not one of split, error"):
        BestFitPacker(store, seed=0, sequence_length=10, long_documents="cut")
    with pytest.raises(ValueError, match="packed for 10 tokens, not 12"):
        BestFitPacker(store, seed=0, sequence_length=10).fragments(0, 0, 1, 12)


@cheap
@given(store=stores, size=st.integers(1, 40), batch_rows=st.integers(1, 4))
def test_sequential_rows(store, size, batch_rows):
    batches = list(sequential_rows(store, size, batch_rows))
    assert len(batches) == -(-store.num_tokens // (size * batch_rows))
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in ROW_DTYPES}
    total = rows["tokens"].size
    stream = python_stream(store, None, 1)
    padded = [*stream, *[[0]] * (total - store.num_tokens)]
    expected = python_rows(padded, 0, total // size, size)
    expected["segment_ids"].ravel()[store.num_tokens :] = 0
    assert_rows_equal(rows, expected)


@pytest.mark.parametrize(
    "make", [lambda s: ConcatPacker(s, seed=3), lambda s: BestFitPacker(s, seed=3, sequence_length=64)]
)
def test_on_disk_equals_in_memory(tmp_path, make):
    """A real store, whose documents are consecutive integers, reads as the list store does."""
    rng = np.random.default_rng(0)
    with TokenStoreWriter(tmp_path / "s", tokenizer_fingerprint="t", vocab_size=70000, num_shards=3) as writer:
        for length in rng.integers(1, 200, 60):
            writer.add(np.arange(length) + rng.integers(1, 60000), num_bytes=1)
    store = TokenStore.open(tmp_path / "s")
    memory = ListStore([store.document_lengths(shard).tolist() for shard in range(3)])
    memory._tokens = [store.read(shard, 0, int(size)) for shard, size in enumerate(store.shard_tokens)]
    assert_rows_equal(pack_rows(make(store), 50, 70, 64), pack_rows(make(memory), 50, 70, 64))
