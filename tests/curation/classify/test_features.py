"""Hashed n-grams: which there are, against a plain count of strings; independence of the batch."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.classify import features
from llama3_jax.curation.classify.features import FeatureConfig, hashed_features
from llama3_jax.curation.text_batch import TextBatch

TEXTS = st.lists(st.text(st.sampled_from("abCé中ก 🙂.\n\t"), max_size=30), max_size=5)


def counts(found: features.Features, row: int) -> list[int]:
    """How often each n-gram occurs, without saying which it is."""
    columns = found.columns[found.splits[row] : found.splits[row + 1]]
    return sorted(np.unique(columns, return_counts=True)[1].tolist())


def char_ngrams(text: str, sizes: range) -> collections.Counter:
    padded = [f" {token} " for token in text.split()]
    return collections.Counter(
        word[start : start + size] for size in sizes for word in padded for start in range(len(word) - size + 1)
    )


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_ngrams_of_characters_are_those_of_padded_words(texts):
    config = FeatureConfig(word_ngrams=0, min_chars=2, max_chars=4, bits=30, lower_case=False)
    found = hashed_features(TextBatch.of(texts), config)
    for row, text in enumerate(texts):
        assert counts(found, row) == sorted(char_ngrams(text, range(2, 5)).values())


def test_ngrams_of_words_are_in_lower_case_and_without_punctuation():
    config = FeatureConfig(word_ngrams=3, bits=30)
    found = hashed_features(TextBatch.of(["The cat, the CAT!", "the cat the cat", "cat the"]), config)
    assert counts(found, 0) == sorted([2, 2, 2, 1, 1, 1])  # the, cat, the cat; cat the, the cat the, cat the cat
    columns = [found.columns[a:b].tolist() for a, b in zip(found.splits[:-1], found.splits[1:], strict=True)]
    assert columns[0] == columns[1]
    assert len(columns[2]) == 3 and len(set(columns[2]) - set(columns[0])) == 0


def test_vowel_signs_of_hindi_and_thai_tell_words_apart():
    texts = ["में", "मैं", "म", "ดี", "ดุ", "ด"]
    found = hashed_features(TextBatch.of(texts), FeatureConfig(word_ngrams=1, bits=30))
    assert np.unique(found.columns).size == found.columns.size == len(texts)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_features_do_not_depend_on_the_batch(texts):
    config = FeatureConfig(word_ngrams=2, min_chars=1, max_chars=3)
    together = hashed_features(TextBatch.of(texts), config)
    alone = [hashed_features(TextBatch.of([text]), config).columns for text in texts]
    assert [len(part) for part in alone] == np.diff(together.splits).tolist()
    assert np.array_equal(np.concatenate([np.empty(0, np.int32), *alone]), together.columns)


def test_parts_of_a_batch_make_the_same_features(monkeypatch):
    batch = TextBatch.of(["the cat sat on the mat"] * 3 + ["", "кот", "a"])
    whole = hashed_features(batch, FeatureConfig())
    monkeypatch.setattr(features, "PART_BYTES", 10)
    parts = hashed_features(batch, FeatureConfig())
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_rows_are_gathered_in_any_order():
    texts = ["a b c", "", "d e", "f"]
    config = FeatureConfig()
    order = np.array([3, 0, 1, 2, 0])
    gathered = hashed_features(TextBatch.of(texts), config).rows(order)
    expected = hashed_features(TextBatch.of([texts[row] for row in order]), config)
    assert all(np.array_equal(a, b) for a, b in zip(gathered, expected, strict=True))


@pytest.mark.parametrize(
    "settings", [{"word_ngrams": 0}, {"word_ngrams": -1}, {"min_chars": 0}, {"bits": 0}, {"bits": 31}]
)
def test_a_senseless_config_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        FeatureConfig(**settings)
