"""Downsampling of categories: the shares are reached, by draws that no order changes."""

import collections
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.classify.knowledge import category_tokens, downsample, keep_rates


def make_corpus(count: int = 40_000):
    rng = np.random.default_rng(0)
    categories = rng.choice(["arts", "entertainment", "science", "history"], count, p=[0.4, 0.3, 0.2, 0.1])
    tokens = rng.integers(50, 1500, count)
    ids = [hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in range(count)]
    return categories, tokens, ids


@pytest.mark.parametrize(
    "shares",
    [
        {"arts": 0.1, "entertainment": 0.1},  # the rest is kept whole
        {"arts": 0.25, "entertainment": 0.25, "science": 0.25, "history": 0.25},
    ],
)
def test_the_categories_have_their_shares_of_what_is_kept(shares):
    categories, tokens, ids = make_corpus()
    rates = keep_rates(category_tokens(categories, tokens), shares)
    kept = downsample(categories, ids, rates)
    left = category_tokens(categories[kept], tokens[kept])
    for name, share in shares.items():
        assert left[name] / left.total() == pytest.approx(share, abs=0.01)
    for name in {"science", "history"} - shares.keys():
        assert rates[name] == 1
        assert kept[categories == name].all()


def test_draws_do_not_depend_on_the_order_or_on_the_other_documents():
    categories, tokens, ids = make_corpus(2000)
    rates = keep_rates(category_tokens(categories, tokens), {"arts": 0.1})
    kept = downsample(categories, ids, rates)
    assert 0 < kept.sum() < 2000
    assert np.array_equal(downsample(categories[::-1], ids[::-1], rates)[::-1], kept)
    parts = [
        downsample(categories[start : start + 100], ids[start : start + 100], rates) for start in range(0, 2000, 100)
    ]
    assert np.array_equal(np.concatenate(parts), kept)
    assert not np.array_equal(downsample(categories, ids, rates, seed=1), kept)


def test_a_lower_rate_keeps_a_part_of_what_a_higher_one_keeps():
    categories, _, ids = make_corpus(2000)
    less, more = (downsample(categories, ids, dict.fromkeys(categories.tolist(), rate)) for rate in (0.2, 0.6))
    assert less.sum() < more.sum() and not (less & ~more).any()


def test_tokens_of_parts_add_up():
    assert category_tokens(["a", "b", "a"], [1, 2, 3]) + category_tokens(["b"], [4]) == {"a": 4, "b": 6}


def test_a_category_too_small_for_its_share_is_whole_and_the_others_follow():
    rates = keep_rates({"small": 10, "big": 900, "rest": 80}, {"small": 0.5, "big": 0.1})
    assert rates == pytest.approx({"small": 1, "rest": 1, "big": 10 / 900})  # 10 of 10 + 10 + 80


@given(
    tokens=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10**6), min_size=1),
    weights=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 100), min_size=1),
    slack=st.floats(0.1, 0.9),
)
def test_no_share_is_exceeded_and_only_what_exceeds_it_is_cut(tokens, weights, slack):
    tokens = {**tokens, "rest": 1000}
    shares = {name: weight / sum(weights.values()) * slack for name, weight in weights.items()}
    rates = keep_rates(tokens, shares)
    kept = {name: rates[name] * count for name, count in tokens.items()}
    total = sum(kept.values())
    for name, count in tokens.items():
        assert 0 <= rates[name] <= 1
        if name in shares and rates[name] < 1:
            assert kept[name] / total == pytest.approx(shares[name])
        elif name in shares:
            assert count <= shares[name] * total * (1 + 1e-9)


@pytest.mark.parametrize("shares", [{"a": 0}, {"a": 1.5}, {"a": 0.7, "b": 0.7}, {"a": 0.3, "b": 0.3}])
def test_senseless_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares"):
        keep_rates({"a": 10, "b": 10}, shares)


def test_a_category_without_a_rate_is_refused():
    with pytest.raises(ValueError, match="'b'"):
        downsample(["a", "b"], [b"\0" * 16, b"\1" * 16], {"a": 1.0})


def test_counts_are_exact_integers():
    found = category_tokens(["a", "a"], np.array([2**53, 1]))
    assert found == collections.Counter({"a": 2**53 + 1})
