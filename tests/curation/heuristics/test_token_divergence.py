"""Divergence from the corpus: its definition, no bias by length, planted outliers, and counts that add up."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.heuristics.token_divergence import (
    ANY_LANGUAGE,
    DivergenceConfig,
    TokenDivergence,
    add_counts,
    count_tokens,
    word_buckets,
)

V = 2000
CONFIG = DivergenceConfig(num_tokens=V, min_corpus_tokens=1000)
Q = 1 / np.arange(1, V + 1)
Q /= Q.sum()
CORPUS = np.round(Q * 5_000_000).astype(np.int64)


def drawn(lengths: np.ndarray, q: np.ndarray = Q) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.choice(V, lengths.sum(), p=q), np.concatenate([[0], np.cumsum(lengths)])


DIVERGENCE = TokenDivergence({ANY_LANGUAGE: CORPUS}, CONFIG)


def scores(
    tokens: np.ndarray, splits: np.ndarray, divergence: TokenDivergence = DIVERGENCE, language: str = "en"
) -> dict[str, np.ndarray]:
    return dict(divergence.scores(tokens, splits, [language] * (splits.size - 1)))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, V - 1), max_size=30), min_size=1, max_size=5))
def test_kl_is_the_definition(documents):
    splits = np.cumsum([0, *map(len, documents)])
    found = scores(np.array([t for d in documents for t in d], np.int64), splits)["kl"]
    q = (CORPUS + CONFIG.smoothing) / (CORPUS.sum() + CONFIG.smoothing * V)
    for row, document in enumerate(documents):
        if document:
            p = {token: count / len(document) for token, count in Counter(document).items()}
            assert found[row] == pytest.approx(sum(p[t] * math.log(p[t] / q[t]) for t in p), abs=1e-5)
        else:
            assert math.isnan(found[row])


@pytest.mark.parametrize("length", [1, 5, 20, 100, 1000, 10_000])
def test_documents_of_the_corpus_have_no_excess_at_any_length(length):
    """Plain divergence falls from 6 nats to nothing; the excess stays at minus the margin."""
    margin = CONFIG.margin * np.sqrt(Q @ np.log(Q) ** 2 - (Q @ np.log(Q)) ** 2)
    found = scores(*drawn(np.full(max(200_000 // length, 50), length)))["kl_excess"]
    assert found.mean() + margin / np.sqrt(length) == pytest.approx(0, abs=0.03)
    assert found.max() < 2.0


def test_plain_divergence_is_largest_for_the_shortest():
    short, long = (scores(*drawn(np.full(100, length)))["kl"].mean() for length in (5, 5000))
    assert short > 4 and long < 0.5


@pytest.mark.parametrize("length", [30, 300, 3000])
def test_outliers_stand_out_at_every_length(length):
    rare = np.zeros(V)
    rare[V // 2 :] = 2 / V
    typical = scores(*drawn(np.full(200, length)))["kl_excess"]
    outliers = scores(*drawn(np.full(200, length), rare))["kl_excess"]
    assert outliers.min() > typical.max() + 1


def test_half_a_document_of_outliers_is_between():
    rare = np.zeros(V)
    rare[V // 2 :] = 2 / V
    half = scores(*drawn(np.full(100, 1000), (Q + rare) / 2))["kl_excess"].mean()
    assert 0.3 < half < scores(*drawn(np.full(100, 1000), rare))["kl_excess"].mean()


def test_a_language_is_scored_against_its_own_counts_if_there_are_enough():
    german = CORPUS[::-1].copy()
    tokens, splits = drawn(np.full(50, 500), german / german.sum())
    assert scores(tokens, splits)["kl_excess"].min() > 1
    enough = TokenDivergence({ANY_LANGUAGE: CORPUS, "de": german}, CONFIG)
    assert scores(tokens, splits, enough, "de")["kl_excess"].max() < 0.5
    too_few = TokenDivergence({ANY_LANGUAGE: CORPUS, "de": german // 10_000}, CONFIG)
    assert np.array_equal(scores(tokens, splits, too_few, "de")["kl_excess"], scores(tokens, splits)["kl_excess"])


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(6)))
def test_counts_add_up_in_any_order_and_scores_do_not_depend_on_the_batch(order):
    tokens, splits = drawn(np.array([3, 0, 17, 20, 1, 40]))
    languages = ["en", "de", "en", "th", "de", "en"]
    whole = count_tokens(tokens, splits, languages, V)
    total: dict[str, np.ndarray] = {}
    for row in order:
        part = slice(splits[row], splits[row + 1])
        total = add_counts(
            total, count_tokens(tokens[part], np.array([0, part.stop - part.start]), [languages[row]], V)
        )
    assert sorted(total) == sorted(whole) == ["", "de", "en", "th"]
    for language, counts in whole.items():
        np.testing.assert_array_equal(counts, total[language])
    found = scores(tokens, splits)
    for row in order:
        part = slice(splits[row], splits[row + 1])
        alone = scores(tokens[part], np.array([0, part.stop - part.start]))
        for name, values in found.items():
            np.testing.assert_array_equal(values[row : row + 1], alone[name])


def test_buckets_are_spread_over_all_tokens():
    hashes = np.random.default_rng(0).integers(0, 1 << 64, 100_000, np.uint64)
    buckets = word_buckets(hashes, 128)
    assert buckets.min() == 0 and buckets.max() == 127
    assert np.bincount(buckets).std() < 50


def test_what_does_not_fit_says_so():
    with pytest.raises(ValueError, match="num_tokens is 2000"):
        TokenDivergence({ANY_LANGUAGE: CORPUS[:-1]}, CONFIG)
    with pytest.raises(ValueError, match="ANY_LANGUAGE"):
        TokenDivergence({"en": CORPUS}, CONFIG)
    for field, value in {"num_tokens": 1, "smoothing": 0.0, "margin": -1.0}.items():
        with pytest.raises(ValueError, match=field):
            DivergenceConfig(**{field: value})
