"""Measures of classifiers against plain counts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.classify.held_out import area_under_curve, measure
from llama3_jax.curation.classify.linear import LinearConfig, train


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_the_area_counts_pairs(examples):
    scores = np.array([score for score, _ in examples], float)
    is_positive = np.array([positive for _, positive in examples], bool)
    pairs = list(itertools.product(scores[is_positive], scores[~is_positive]))
    found = area_under_curve(scores, is_positive)
    if pairs:
        assert found == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    else:
        assert np.isnan(found)


def test_a_classifier_is_measured_label_by_label():
    model = train(["a a", "b b", "c c"] * 5, ["x", "y", "z"] * 5, LinearConfig())
    assert measure(model, ["a", "b", "c"], ["x", "y", "z"]) == {"accuracy": 1, "auc.x": 1, "auc.y": 1, "auc.z": 1}
    found = measure(model, ["a", "b", ""], ["x", "x", "x"])
    assert found["accuracy"] == pytest.approx(2 / 3) and np.isnan(found["auc.x"])  # no words: the first label
    assert np.isnan(measure(model, [], [])["accuracy"])
