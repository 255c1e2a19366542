"""Sampling: the nucleus against a NumPy reference, and the draws against the probabilities they should have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.infer.sampling import SamplingConfig, in_nucleus, sample

VOCAB = 12
BORDER = 1e-5  # float32 sums of probabilities may fall on either side of a top_p this close to them
LOGITS = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=VOCAB, max_size=VOCAB)  # with many ties

nucleus_of = jax.jit(in_nucleus)
draw = jax.jit(sample)


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exp / exp.sum()


@settings(deadline=None, max_examples=200)
@given(logits=LOGITS, top_p=st.floats(1e-3, 1.0))
def test_a_token_is_in_the_nucleus_when_what_is_likelier_stays_below_top_p(logits, top_p):
    probs = softmax(np.array(logits))
    above = np.array([probs[np.array(logits) > logit].sum() for logit in logits])
    clear = np.abs(above - top_p) > BORDER
    kept = np.asarray(nucleus_of(np.array([logits], np.float32), np.float32(top_p)))[0]
    np.testing.assert_array_equal(kept[clear], (above < top_p)[clear])
    assert kept[np.argmax(logits)]


def test_top_p_one_keeps_every_token_however_unlikely():
    logits_BV = np.stack([np.linspace(0, -60, VOCAB), np.zeros(VOCAB), np.eye(VOCAB)[3] * 80]).astype(np.float32)
    assert np.asarray(nucleus_of(logits_BV, np.float32(1.0))).all()
    many_1V = np.random.default_rng(0).normal(0, 3, (1, 50_000)).astype(np.float32)  # sums of float32 pass 1 on the way
    assert np.asarray(nucleus_of(many_1V, np.float32(1.0))).all()


def test_a_tiny_top_p_and_temperature_zero_are_both_greedy():
    logits_BV = np.random.default_rng(1).normal(0, 1, (64, VOCAB)).astype(np.float32)
    best_B = logits_BV.argmax(axis=-1)
    key = jax.random.key(0)
    for temperature, top_p in ((1.0, 1e-6), (5.0, 1e-6), (0.0, 1.0), (0.0, 0.5)):
        drawn_B = draw(logits_BV, key, np.float32(temperature), np.float32(top_p))
        np.testing.assert_array_equal(drawn_B, best_B)
        assert drawn_B.dtype == jnp.int32


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.6)])
def test_frequencies_of_draws_are_the_probabilities(temperature, top_p):
    logits_V, num_draws = np.linspace(-1.5, 1.5, VOCAB).astype(np.float32), 20_000
    probs = softmax(logits_V / temperature)
    above = np.array([probs[logits_V > logit].sum() for logit in logits_V])
    probs = np.where(above < top_p, probs, 0.0) / probs[above < top_p].sum()
    logits_BV = np.broadcast_to(logits_V, (num_draws, VOCAB))
    drawn_B = draw(logits_BV, jax.random.key(7), np.float32(temperature), np.float32(top_p))
    counts = np.bincount(np.asarray(drawn_B), minlength=VOCAB)
    assert (counts[probs == 0] == 0).all()
    possible = probs > 0
    chi_square = (((counts - num_draws * probs) ** 2)[possible] / (num_draws * probs[possible])).sum()
    assert chi_square < 35  # 11 degrees of freedom at most: one sound sampler in 4,000 fails, and the seed is fixed


@pytest.mark.parametrize(
    "settings_",
    [{"max_new_tokens": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.01}, {"top_p": float("nan")}],
)
def test_impossible_settings_are_refused(settings_):
    with pytest.raises(ValueError, match="sampling needs"):
        SamplingConfig(**settings_)
