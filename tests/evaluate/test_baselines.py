"""The baselines against slow references that follow the papers word by word."""

import collections
import itertools
import lzma
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data.token_store import TokenStore
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.evaluate.baselines import bigram_bits, bits_per_byte, documents, pairs, unigram_bits, xz_bits
from tests.train.runs import write_store

VOCAB = 7
TOKENS = st.integers(0, VOCAB - 1)
STREAM = st.lists(TOKENS, min_size=2, max_size=40)


def pairs_of(stream: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(stream[:-1], np.int64), np.array(stream[1:], np.int64)


def slow_unigram(train: list[int], token: int) -> float:
    return (train.count(token) + 1) / (len(train) + VOCAB)


def slow_kneser_ney(train: list[tuple[int, int]], previous: int, token: int) -> float:
    """p = (c(h, w) - d) / c(h) + d · kinds(h) / c(h) · (kinds of histories of w + 1) / (all kinds + V)."""
    count = collections.Counter(train)
    once, twice = list(count.values()).count(1), list(count.values()).count(2)
    discount = once / (once + 2 * twice) if once else 0.5
    continuation = (sum(second == token for _, second in count) + 1) / (len(count) + VOCAB)
    total = sum(n for (first, _), n in count.items() if first == previous)
    if total == 0:
        return continuation
    kinds = sum(first == previous for first, _ in count)
    return max(count[previous, token] - discount, 0) / total + discount * kinds / total * continuation


@settings(deadline=None, max_examples=60)
@given(train=STREAM, held_out=STREAM)
def test_unigram_and_bigram_equal_their_definitions(train, held_out):
    previous, following = pairs_of(held_out)
    expected = -sum(math.log2(slow_unigram(train, int(token))) for token in following)
    assert unigram_bits(np.array(train), following, VOCAB) == pytest.approx(expected)
    listed = list(itertools.pairwise(train))
    expected = -sum(
        math.log2(slow_kneser_ney(listed, int(h), int(w))) for h, w in zip(previous, following, strict=True)
    )
    assert bigram_bits(pairs_of(train), (previous, following), VOCAB) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(train=STREAM, history=TOKENS)
def test_bigram_probabilities_sum_to_one_after_every_history(train, history):
    bits = [bigram_bits(pairs_of(train), (np.array([history]), np.array([token])), VOCAB) for token in range(VOCAB)]
    assert sum(2.0**-b for b in bits) == pytest.approx(1.0)


def test_an_unseen_history_falls_back_to_the_continuation_counts():
    train = pairs_of([0, 1, 0, 1, 0, 2])  # kinds: 01, 10, 02; nothing follows 5
    bits = bigram_bits(train, (np.array([5]), np.array([1])), VOCAB)
    assert 2.0**-bits == pytest.approx((1 + 1) / (3 + VOCAB))


def test_xz_is_lzma_and_shrinks_what_repeats():
    text = b"the cat sat on the mat; " * 50
    assert xz_bits(text) == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    assert xz_bits(text) < 8 * len(text) / 5


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """`(tokenizer, training store, held-out store)` of bytes as tokens."""
    folder = tmp_path_factory.mktemp("stores")
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)})
    texts = ["abracadabra", "", "abra", "cadabra cadabra", "é"]
    write_store(folder / "train", tokenizer, texts)
    write_store(folder / "held_out", tokenizer, ["cadabra", "bra"])
    return tokenizer, TokenStore.open(str(folder / "train")), TokenStore.open(str(folder / "held_out"))


def test_pairs_stay_within_documents(stores):
    tokenizer, train, _ = stores
    texts = [tokenizer.decode_bytes(document[1:-1]).decode() for document in documents(train)]
    assert sorted(texts) == sorted(["abracadabra", "", "abra", "cadabra cadabra", "é"])
    previous, following = pairs([train, train])
    assert len(previous) == 2 * (train.num_tokens - len(texts))
    assert tokenizer.bos_id not in following and tokenizer.eos_id not in previous


def test_the_table_is_per_byte_of_held_out_text(stores):
    tokenizer, train, held_out = stores
    text = b"cadabrabra"
    table = bits_per_byte([train], held_out, tokenizer.token_bytes(), text)
    train_pairs, held_out_pairs = pairs([train]), pairs([held_out])
    unigram = unigram_bits(train_pairs[1], held_out_pairs[1], tokenizer.vocab_size)
    bigram = bigram_bits(train_pairs, held_out_pairs, tokenizer.vocab_size)
    assert table == {
        "unigram": pytest.approx(unigram / len(text)),
        "bigram (Kneser-Ney)": pytest.approx(bigram / len(text)),
        "xz -9e": pytest.approx(xz_bits(text) / len(text)),
    }
    assert table["bigram (Kneser-Ney)"] < table["unigram"] < table["xz -9e"]


def test_a_held_out_store_without_text_is_refused(stores, tmp_path):
    tokenizer, train, _ = stores
    write_store(tmp_path / "empty", tokenizer, ["", ""])
    with pytest.raises(ValueError, match="empty has no text to predict"):
        bits_per_byte([train], TokenStore.open(str(tmp_path / "empty")), tokenizer.token_bytes(), b"x")
