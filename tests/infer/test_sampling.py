"""Sampling: the filters against NumPy, the draws against the probabilities they should have, penalties by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.infer.request import SamplingConfig
from llama3_jax.infer.sampling import Needs, kept, needs_of, penalised, sample, scores, settings_of

VOCAB = 12
BORDER = 1e-5  # float32 sums of probabilities may fall on either side of a top_p this close to them
LOGITS = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=VOCAB, max_size=VOCAB)  # with many ties

kept_jit = jax.jit(kept)
sample_jit = jax.jit(sample, static_argnums=3)


def rows_of(count: int = 1, **changes):
    return settings_of([SamplingConfig(**({"temperature": 1.0, "top_p": 1.0} | changes))] * count)


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def kept_by(logits, **changes) -> np.ndarray:
    return np.asarray(kept_jit(np.array([logits], np.float32), rows_of(**changes)))[0]


@settings(deadline=None, max_examples=200)
@given(
    logits=LOGITS, top_p=st.floats(1e-3, 1.0), top_k=st.integers(0, VOCAB + 1), min_p=st.sampled_from([0, 0.1, 0.5, 1])
)
def test_what_the_filters_let_through(logits, top_p, top_k, min_p):
    logits = np.array(logits)
    probs = softmax(logits)
    of_k = np.array([(logits > logit).sum() < (top_k or VOCAB) for logit in logits])
    left = probs * of_k / (probs * of_k).sum()
    above = np.array([left[logits > logit].sum() for logit in logits])
    clear = np.abs(above - top_p) > BORDER
    expected = of_k & (above < top_p) & (probs >= min_p * probs.max() * (1 - 1e-6))
    found = kept_by(logits, top_p=top_p, top_k=top_k, min_p=min_p)
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert found[np.argmax(logits)]


def test_top_p_one_keeps_every_token_however_unlikely():
    for logits_V in (np.linspace(0, -60, VOCAB), np.zeros(VOCAB), np.eye(VOCAB)[3] * 80):
        assert kept_by(logits_V).all()
    many_V = np.random.default_rng(0).normal(0, 3, 50_000)  # sums of float32 pass 1 on the way
    assert kept_by(many_V).all()


def test_temperature_zero_is_greedy_beside_rows_that_draw():
    logits_BV = np.random.default_rng(1).normal(0, 1, (64, VOCAB)).astype(np.float32)
    mixed = [SamplingConfig(temperature=float(row % 2), top_p=1e-6 if row % 4 == 1 else 1.0) for row in range(64)]
    token_B = np.asarray(sample_jit(logits_BV, settings_of(mixed), np.zeros(64, np.int32), needs_of(mixed)))
    greedy_B = logits_BV.argmax(axis=-1)
    frozen = [SamplingConfig(temperature=1e-38, top_p=0.9)] * 64
    frozen_B = sample_jit(logits_BV, settings_of(frozen), np.zeros(64, np.int32), needs_of(frozen))
    np.testing.assert_array_equal(frozen_B, greedy_B)
    np.testing.assert_array_equal(token_B[::2], greedy_B[::2])
    np.testing.assert_array_equal(token_B[1::4], greedy_B[1::4])
    assert (token_B[3::4] != greedy_B[3::4]).any() and token_B.dtype == np.int32


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.6)])
def test_frequencies_of_draws_are_the_probabilities(temperature, top_p):
    logits_V, num_draws = np.linspace(-1.5, 1.5, VOCAB).astype(np.float32), 20_000
    probs = softmax(logits_V / temperature)
    above = np.array([probs[logits_V > logit].sum() for logit in logits_V])
    probs = np.where(above < top_p, probs, 0.0) / probs[above < top_p].sum()
    config = SamplingConfig(temperature=temperature, top_p=top_p, seed=7)
    logits_BV = np.broadcast_to(logits_V, (num_draws, VOCAB))
    rows = settings_of([config] * num_draws)
    drawn_B = sample_jit(logits_BV, rows, np.arange(num_draws, dtype=np.int32), needs_of([config]))
    counts = np.bincount(np.asarray(drawn_B), minlength=VOCAB)
    assert (counts[probs == 0] == 0).all()
    possible = probs > 0
    chi_square = (((counts - num_draws * probs) ** 2)[possible] / (num_draws * probs[possible])).sum()
    assert chi_square < 35  # 11 degrees of freedom at most: one sound sampler in 4,000 fails, and the seed is fixed


def test_a_draw_depends_on_seed_and_number_and_not_on_the_row():
    logits_BV = np.zeros((400, 1000), np.float32)
    seeds = [0, 1, 2**32, 2**33 + 1, -1, 2**63 - 1]
    rows = settings_of([SamplingConfig(temperature=1.0, top_p=1.0, seed=seeds[row % 6]) for row in range(400)])
    draws = np.arange(400, dtype=np.int32) % 7
    token_B = np.asarray(sample_jit(logits_BV, rows, draws, Needs(drawn=True)))
    by_key = {(row % 6, row % 7): token_B[row] for row in range(42)}
    assert all(token_B[row] == by_key[row % 6, row % 7] for row in range(400))
    assert len(set(by_key.values())) > 35


def test_penalties():
    logits_BV = jnp.array([[2.0, -2.0, 1.0, 0.5]])
    seen_BV, count_BV = jnp.array([[True, True, False, False]]), jnp.array([[0, 3, 0, 1]])
    found = lambda **changes: np.asarray(penalised(logits_BV, seen_BV, count_BV, rows_of(**changes)))[0]
    np.testing.assert_allclose(found(repetition_penalty=2.0), [1.0, -4.0, 1.0, 0.5])
    np.testing.assert_allclose(found(presence_penalty=0.25), [2.0, -2.25, 1.0, 0.25])
    np.testing.assert_allclose(found(frequency_penalty=0.5), [2.0, -3.5, 1.0, 0.0])


def test_scores_are_log_probabilities_of_the_model_itself():
    logits_BV = np.random.default_rng(2).normal(0, 2, (3, VOCAB)).astype(np.float32)
    token_B = np.array([4, 0, 11])
    expected_BV = np.log(softmax(logits_BV))
    chosen_B, top_BX, top_logprob_BX = scores(logits_BV, token_B, 3)
    np.testing.assert_allclose(chosen_B, expected_BV[np.arange(3), token_B], atol=1e-5)
    np.testing.assert_array_equal(top_BX, np.argsort(-logits_BV, axis=1)[:, :3])
    np.testing.assert_allclose(top_logprob_BX, -np.sort(-expected_BV, axis=1)[:, :3], atol=1e-5)
    assert scores(logits_BV, token_B, 0)[1].shape == (3, 0)


def test_programs_leave_out_what_no_row_needs():
    greedy = SamplingConfig(temperature=0.0)
    assert needs_of([greedy]) == Needs()
    assert needs_of([greedy, SamplingConfig(temperature=0.5, top_p=1.0)]) == Needs(drawn=True)
    assert needs_of([SamplingConfig()]) == Needs(drawn=True, filtered=True)
    assert needs_of([dataclasses.replace(greedy, presence_penalty=0.1)]) == Needs(penalised=True)
    assert needs_of([dataclasses.replace(greedy, logprobs=3)]) == Needs(scores=True, top=5)
    assert needs_of([dataclasses.replace(greedy, prompt_logprobs=0)]) == Needs(scores=True, prompt_scores=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_k": -1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"logprobs": 21},
        {"seed": 2**63},
        {"stop": ("", "a")},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
