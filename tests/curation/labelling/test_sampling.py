"""Samples: spread over the strata, the same whatever the order, and more of them contain fewer."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.labelling.sampling import choose, strata_of


def ids_of(num):
    return [hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in range(num)]


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.one_of(st.integers(0, 5).map(float), st.floats(0, 1), st.just(float("nan"))), max_size=80),
    count=st.integers(1, 90),
    seed=st.integers(0, 9),
)
def test_the_order_of_the_documents_does_not_matter(scores, count, seed):
    ids, scores = ids_of(len(scores)), np.array(scores, np.float64)
    chosen = [ids[index] for index in choose(ids, scores, count, num_strata=4)]
    order = np.random.default_rng(seed).permutation(len(ids))
    again = choose([ids[index] for index in order], scores[order], count, num_strata=4)
    assert [ids[order[index]] for index in again] == chosen
    assert len(chosen) == len(set(chosen)) == min(count, len(ids))


def test_every_stratum_gives_its_share_of_a_skewed_corpus():
    rng = np.random.default_rng(0)
    scores = rng.pareto(1.0, 10_000)
    chosen = choose(ids_of(10_000), scores, 500, num_strata=10)
    assert np.bincount(strata_of(scores, 10)[chosen], minlength=11).tolist() == [50] * 10 + [0]
    assert set(choose(ids_of(10_000), scores, 500, salt="other").tolist()) != set(chosen.tolist())
    fewer = choose(ids_of(10_000), scores, 200, num_strata=10)
    assert set(fewer.tolist()) < set(chosen.tolist())


def test_what_small_strata_lack_comes_from_the_others():
    scores = np.array([np.nan] * 3 + [0.0] * 97)  # ties are one stratum, no score another
    chosen = choose(ids_of(100), scores, 20)
    assert (chosen < 3).sum() == 3 and len(chosen) == 20


def test_a_document_that_is_there_twice_is_taken_once():
    ids = ids_of(10) * 2
    chosen = choose(ids, np.arange(20) % 10, 20)
    assert len(chosen) == 10 == len({ids[index] for index in chosen})


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="count and num_strata must be positive, got 0"):
        choose(ids_of(1), np.zeros(1), 0)
    with pytest.raises(ValueError, match="2 ids have 1 scores"):
        choose(ids_of(2), np.zeros(1), 1)
    assert choose([], np.zeros(0), 5).shape == (0,)
