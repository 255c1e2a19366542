"""Hashes against a plain reference, and what a hash must not depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation import hashing
from llama3_jax.curation.text_batch import TextBatch

WORD = 2**64 - 1


def mix64(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WORD
    return x ^ x >> 31


def plain_sequence(units, length, seed):
    h = (length * 0x9E3779B97F4A7C15 + mix64(seed)) & WORD
    for unit in units or [0]:
        h = mix64(h ^ unit)
    return h


def plain_units(units, seed):
    if len(units) <= 32:
        return plain_sequence(units, len(units), seed)
    return plain_units([plain_units(units[i : i + 32], seed) for i in range(0, len(units), 32)], seed)


def plain_bytes(text, seed):
    if len(text) <= 256:
        units = [int.from_bytes(text[i : i + 8], "little") for i in range(0, len(text), 8)]
        return plain_sequence(units, len(text), seed)
    return plain_units([plain_bytes(text[i : i + 256], seed) for i in range(0, len(text), 256)], seed)


def hash_texts(texts, seed=0):
    batch = TextBatch.of(texts)
    return hashing.hash_ranges(batch.data, batch.offsets[:-1], batch.offsets[1:], seed=seed)


LENGTHS = [0, 1, 7, 8, 9, 16, 255, 256, 257, 8191, 8192, 8193, 262144, 262145, 600000]


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_ranges_hash_as_written(seed):
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0, 128, length))) for length in LENGTHS]
    assert hash_texts(texts, seed).tolist() == [plain_bytes(text.encode(), seed) for text in texts]


def test_sequences_hash_as_written():
    units = np.random.default_rng(1).integers(0, 2**64, 70000, np.uint64)
    end = np.array([0, 1, 31, 32, 33, 1024, 1025, 70000])
    start = np.array([0, 0, 5, 0, 0, 0, 0, 70000 - 40000])
    expected = [plain_units(units[a:b].tolist(), 7) for a, b in zip(start, end, strict=True)]
    assert hashing.hash_sequences(units, start, end, seed=7).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.text(max_size=30).map(lambda text: text * 12), max_size=8), st.randoms())
def test_a_hash_depends_on_no_neighbour(texts, random):
    alone = {text: int(hash_texts([text])[0]) for text in texts}
    random.shuffle(texts)
    assert hash_texts(texts).tolist() == [alone[text] for text in texts]


def test_more_hashes_than_one_chunk():
    texts = [str(number) for number in range(hashing._CHUNK * 2 + 3)]
    hashes = hash_texts(texts)
    assert hashes[-1] == hash_texts(texts[-1:])[0] and hashes[hashing._CHUNK] == hash_texts([str(hashing._CHUNK)])[0]
    assert len(set(hashes.tolist())) == len(texts)


def thue_morse(length):
    """Two texts of two letters that collide modulo 2^64 under any polynomial, from 2,048 letters on."""
    bits = [number.bit_count() & 1 for number in range(length)]
    return "".join("ab"[bit] for bit in bits), "".join("ba"[bit] for bit in bits)


@pytest.mark.parametrize("length", [2048, 4096, 1 << 15])
def test_texts_that_collide_in_polynomial_hashes_do_not(length):
    first, second = thue_morse(length)
    values = []
    for text in (first, second):
        value = 0
        for byte in text.encode():
            value = (value * 0x5851F42D4C957F2D + byte) & WORD
        values.append(value)
    assert values[0] == values[1]
    assert len(set(hash_texts([first, second]).tolist())) == 2


def test_similar_texts_do_not_collide_even_in_few_bits():
    """Half of each hash, top or bottom, of counting texts collides as often as random numbers do."""
    texts = [f"row {number:>9} of {number % 977:08x} and the rest of the line" for number in range(60_000)]
    hashes = hash_texts(texts)
    assert len(np.unique(hashes)) == len(texts)
    expected = len(texts) ** 2 / 2 / 2**32  # 0.42 pairs
    for half in (hashes >> np.uint64(32), hashes & np.uint64(WORD >> 32)):
        assert len(texts) - len(np.unique(half)) <= expected + 6
    flipped = hash_texts(["x" + text for text in texts]) ^ hashes
    for bit in range(64):
        share = ((flipped >> np.uint64(bit)) & np.uint64(1)).mean()
        assert abs(share - 0.5) < 5 * 0.5 / len(texts) ** 0.5


def test_trailing_zeros_and_empty_ranges_are_told_apart():
    texts = ["", "\0", "\0\0", "a", "a\0", "a" * 8, "a" * 8 + "\0", "a" * 256, "a" * 256 + "\0"]
    assert len(set(hash_texts(texts).tolist())) == len(texts)


def plain_ngram(words, n):
    value = n
    for word in words:
        value = (value * 0xD6E8FEB86659FD93 + word) & WORD
    return mix64(value)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=7), st.integers(1, 4))
def test_ngrams_stay_inside_documents(lengths, n):
    splits = np.cumsum([0, *lengths])
    words = hashing.mix64(np.arange(splits[-1], dtype=np.uint64))
    grams = hashing.ngram_hashes(words, splits, n)
    expected, first = [], []
    for begin, end in zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True):
        first += list(range(begin, end - n + 1))
        expected += [plain_ngram(words[i : i + n].tolist(), n) for i in range(begin, end - n + 1)]
    assert grams.hash.tolist() == expected and grams.word.tolist() == first
    assert np.diff(grams.splits).tolist() == [max(length - n + 1, 0) for length in lengths]


def test_ngrams_of_more_words_than_one_chunk(monkeypatch):
    splits = np.array([0, 50, 52, 52, 300])
    words = hashing.mix64(np.arange(300, dtype=np.uint64))
    whole = hashing.ngram_hashes(words, splits, 3)
    monkeypatch.setattr(hashing, "_CHUNK", 7)
    assert hashing.ngram_hashes(words, splits, 3).hash.tolist() == whole.hash.tolist()


def test_order_counts_in_an_ngram_and_n_must_be_positive():
    words = hashing.mix64(np.arange(3, dtype=np.uint64))
    forward, back = (hashing.ngram_hashes(w, np.array([0, 3]), 3).hash for w in (words, words[::-1]))
    assert forward != back
    with pytest.raises(ValueError, match="n must be positive"):
        hashing.ngram_hashes(words, np.array([0, 3]), 0)


def test_a_salt_keeps_hashes_apart():
    hashes = np.arange(100, dtype=np.uint64)
    both = np.concatenate([hashing.salted(hashes, np.array(salt, np.uint64)) for salt in (0, 1)])
    assert len(np.unique(both)) == 200
