"""Mixtures: exact shares, evenly spread, and row counts by arithmetic that equal counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data.mixture import Mixture, quantise_weights, spread_rows

parts_lists = st.lists(st.integers(0, 50), min_size=1, max_size=7).filter(any)


def test_paper_mixture():
    parts = quantise_weights({"general": 0.50, "maths": 0.25, "code": 0.17, "multilingual": 0.08})
    assert parts == {"general": 512, "maths": 256, "code": 174, "multilingual": 82}


def test_largest_remainder_and_any_unit():
    assert quantise_weights({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert quantise_weights({"c": 200, "b": 200, "a": 200}, 10) == {"a": 4, "b": 3, "c": 3}
    assert quantise_weights({"a": 0.1, "b": 0.7, "c": 0.0, "d": 1.2}, 10) == {"a": 1, "b": 3, "c": 0, "d": 6}


@given(parts=parts_lists, scale=st.floats(1e-6, 1e6))
def test_quantised_within_one_part(parts, scale):
    weights = {str(i): scale * part for i, part in enumerate(parts)}
    found = quantise_weights(weights, 1024)
    assert sum(found.values()) == 1024
    for name, part in found.items():
        assert abs(part - 1024 * weights[name] / sum(weights.values())) < 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"web": 1, "code": -0.1}, "'code' is -0.1"),
        ({"web": float("nan")}, "'web' is nan"),
        ({"web": float("inf")}, "'web' is inf"),
        ({"web": 0, "code": 0}, "sum to 0"),
        ({}, "sum to 0"),
        ({"web": 1, "rare": 1e-5}, r"\['rare'\]: a share of 1e-05 rounds to 0 of 1024"),
    ],
)
def test_refused_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(weights)


@settings(deadline=None, max_examples=60)
@given(parts=parts_lists)
def test_spread_is_exact_and_even(parts):
    table = spread_rows(np.array(parts))
    assert np.bincount(table, minlength=len(parts)).tolist() == parts
    taken = np.cumsum(table[:, None] == np.arange(len(parts)), axis=0)
    share = np.arange(1, table.size + 1)[:, None] * np.array(parts) / sum(parts)
    assert np.all(taken - share < 1)
    assert np.all(share - taken < max(1, len(parts) - 1))


@settings(deadline=None, max_examples=30)
@given(parts=parts_lists.filter(lambda p: sum(p) <= 64), first=st.integers(0, 300))
def test_rows_before_is_counting(parts, first):
    mixture = Mixture({str(i): part for i, part in enumerate(parts)}, denominator=sum(parts))
    rows = np.arange(first + 70)
    source = mixture.source_of(rows)
    for row in (0, 1, first, first + 69):
        assert mixture.rows_before(row).tolist() == np.bincount(source[:row], minlength=len(parts)).tolist()
    np.testing.assert_array_equal(mixture.rows_before(rows)[first], mixture.rows_before(first))


def test_far_rows_and_order_of_names():
    mixture = Mixture({"web": 3, "code": 1})
    assert mixture.names == ("code", "web")
    assert mixture.rows_before(10**13).tolist() == [10**13 // 4, 3 * 10**13 // 4]
    swapped = Mixture({"code": 1, "web": 3})
    rows = np.arange(2000)
    np.testing.assert_array_equal(mixture.source_of(rows), swapped.source_of(rows))
