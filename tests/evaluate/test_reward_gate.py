"""The gate on known scores, and on a model with planted outliers: it passes FP8 with the bound, fails it without."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread

from llama3_jax.core.params import init_params, split_module
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.evaluate.reward_gate import GateConfig, compare_scores, draw, reward_gate
from llama3_jax.model import layers
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.model.quantized import quantize_params

FP32 = ComputeConfig(compute_dtype="float32", remat="none", attention="reference")
MODEL = LlamaConfig(
    vocab_size=64, num_layers=3, embed_dim=64, num_heads=4, num_kv_heads=2, head_dim=16, mlp_dim=128, max_length=64
)
DATES = 3  # tokens 0, 1, 2: those that a date is made of, say
ANSWERS, LENGTH = 2000, 12
SMALL = GateConfig(max_distance=0.06, max_shift=0.1, max_low=0.03)


@functools.cache
def planted():
    """Parameters, layers apart, in which DATES give the middle feed-forward an activation of a few millions.

    Its first channel answers to one direction of the residual stream, in which only those tokens lie, and leads
    nowhere: the model itself does not care. All its other channels are of ordinary size, and matter.
    """
    params = init_params(Llama(MODEL, FP32, layers_apart=True), 0, make_mesh(MeshConfig(), jax.devices()[:1]))
    params = jax.tree.map(np.array, params)
    embedding_VD, mlp = params["embedding_VD"], params["layers"][1]["mlp"]
    for layer, name, array in ((0, "attention", "wo_HED"), (0, "mlp", "w2_FD"), (1, "attention", "wo_HED")):
        params["layers"][layer][name][array][..., 0] = 0  # the first direction stays what the embedding put there
    embedding_VD[:, 0] = 0
    embedding_VD[:DATES, 0] = 4 * np.abs(embedding_VD).max()
    mlp["w1_DF"][:, 0] = mlp["w3_DF"][:, 0] = 0
    mlp["w1_DF"][0] = mlp["w3_DF"][0] = 0
    mlp["w1_DF"][0, 0] = mlp["w3_DF"][0, 0] = 1000
    mlp["w2_FD"] *= 8
    mlp["w2_FD"][0] = 0
    params["head_DV"] *= 4
    return params


def model(quantized: str | None, bounded: bool = True):
    """`(graphdef, params)` of the planted model."""
    module = Llama(MODEL, FP32, layers_apart=True, quantized=quantized)
    if not bounded:
        module.layers[1].mlp.activation_bound = None
    params = jax.tree.map(jnp.array, planted())
    return split_module(module)[0], params if quantized is None else quantize_params(params, quantized)


def answers(quantized: str | None, bounded: bool = True, seed: int = 0) -> np.ndarray:
    """Sampled token by token, each after the whole prefix; int32 `[ANSWERS, LENGTH]`, the first is the prompt."""
    graphdef, params = model(quantized, bounded)

    @jax.jit
    def step(params, tokens_BS, place, key):
        logits_BV = nnx.merge(graphdef, params)(tokens_BS)[:, place]
        return tokens_BS.at[:, place + 1].set(jax.random.categorical(key, logits_BV).astype(jnp.int32))

    prompts = np.random.default_rng(0).integers(0, MODEL.vocab_size, ANSWERS)
    tokens_BS = jnp.zeros((ANSWERS, LENGTH), jnp.int32).at[:, 0].set(prompts)
    for place in range(LENGTH - 1):
        tokens_BS = step(params, tokens_BS, place, jax.random.fold_in(jax.random.key(seed), place))
    return np.asarray(tokens_BS)


@functools.cache
def likelihood():
    """The unquantised model's mean log-likelihood of an answer's tokens: the reward."""
    graphdef, params = model(None)

    @jax.jit
    def score(params, tokens_BS):
        log_probs_BSV = jax.nn.log_softmax(nnx.merge(graphdef, params)(tokens_BS)[:, :-1])
        return jnp.mean(jnp.take_along_axis(log_probs_BSV, tokens_BS[:, 1:, None], axis=-1), axis=(1, 2))

    return lambda tokens_BS: np.asarray(score(params, tokens_BS))


@pytest.fixture(scope="module")
def reference():
    return answers(None)


def test_the_plant_is_what_it_says(reference, monkeypatch):
    """Millions in one channel after DATES, ordinary sizes elsewhere; a third of the answers have one."""
    seen, product = [], layers.swiglu
    monkeypatch.setattr(layers, "swiglu", lambda gate, up: seen.append(product(gate, up)) or seen[-1])
    graphdef, params = model(None)
    nnx.merge(graphdef, params)(reference[:64])
    z_BSF, dates_BS = np.abs(np.asarray(seen[1])), reference[:64] < DATES
    assert z_BSF[dates_BS][:, 0].min() > 1e6 and z_BSF[~dates_BS][:, 0].max() == 0
    assert 0.1 < z_BSF[..., 1:].mean() < 1 and z_BSF[..., 1:].max() < 100
    assert 0.2 < (reference < DATES).any(axis=1).mean() < 0.5


def test_the_gate_passes_fp8_with_the_bound_and_fails_it_without(reference, tmp_path):
    same = reward_gate(likelihood(), reference, answers(None, seed=1), SMALL)
    assert same.passed, str(same)
    bounded = reward_gate(likelihood(), reference, answers("fp8", seed=2), SMALL)
    assert bounded.passed, str(bounded)
    unbounded = reward_gate(likelihood(), reference, answers("fp8", bounded=False, seed=2), SMALL)
    assert not unbounded.passed and len(unbounded.reasons) == 3
    assert unbounded.distance > 0.1 and unbounded.shift < -0.3 and unbounded.low_share > 0.05
    draw(unbounded, str(tmp_path / "rewards.png"))
    assert np.ptp(imread(tmp_path / "rewards.png")[..., :3]) > 0.5


def test_the_gate_fails_int8_on_these_outliers_even_with_the_bound(reference):
    """Its values are evenly spaced: in a row scaled for 1,200 they are 9 apart, and ordinary sizes are lost."""
    comparison = reward_gate(likelihood(), reference, answers("int8", seed=2), SMALL)
    assert not comparison.passed


@pytest.mark.parametrize(("count", "other", "moved"), [(4000, 4000, 0.0), (4000, 2500, 0.3), (2000, 9000, -0.05)])
def test_distance_and_shift_are_what_they_are_called(count, other, moved):
    rng = np.random.default_rng(count)
    left, right = rng.normal(size=count), rng.gumbel(size=other) * 0.8 + moved
    found = compare_scores(left, right, SMALL)
    below = [(scores[:, None] <= np.linspace(-4, 6, 4001)).mean(0) for scores in (left, right)]
    np.testing.assert_allclose(found.distance, np.abs(below[0] - below[1]).max(), atol=2e-3)
    np.testing.assert_allclose(found.shift, (right.mean() - left.mean()) / left.std(), rtol=1e-12)
    assert (found.distance_p < 1e-9, found.shift_p < 0.01) == (True, abs(right.mean() - left.mean()) > 0.06)


def test_scores_of_few_values_are_compared_too():
    """A reward that counts: ties everywhere."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 3, 3000), rng.integers(0, 3, 3000)
    assert compare_scores(left, right, SMALL).passed
    np.testing.assert_allclose(
        compare_scores(left, right, SMALL).distance,
        max(abs(np.mean(left <= k) - np.mean(right <= k)) for k in range(3)),
    )
    assert not compare_scores(left, np.zeros(3000), SMALL).passed
    assert compare_scores(np.ones(3000), np.ones(3000), SMALL).passed
    assert not compare_scores(np.ones(3000), np.zeros(3000), SMALL).passed


def test_rare_corruptions_show_among_the_low_scores_first():
    """One answer in 40 is ruined: distributions and means differ by less than is allowed, but not where it happens."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 20_000))
    scores[1, ::40] = -3
    found = compare_scores(*scores, SMALL)
    assert found.distance < SMALL.max_distance and found.low_share > 0.03
    (reason,) = found.reasons
    assert reason == "3.5% of the answers score as low as the reference's lowest 1.0%, more than 3.0%"


def test_chance_does_not_fail_it_and_answers_alone_do_not_either():
    rng = np.random.default_rng(1)
    count = SMALL.min_answers
    failed = [not compare_scores(*rng.normal(size=(2, count)), SMALL).passed for _ in range(500)]
    assert np.mean(failed) < 2 * SMALL.significance
    many = compare_scores(rng.normal(size=200_000), rng.normal(size=200_000) + 0.03, SMALL)
    assert many.passed and many.distance_p < 1e-3  # a difference for sure, and a small one


def test_it_fails_when_a_difference_can_just_be_told():
    rng = np.random.default_rng(2)
    count = SMALL.min_answers
    for moved in (-0.3, 0.3):  # better answers are not the same answers
        assert not compare_scores(rng.normal(size=count), rng.normal(size=count) + moved, SMALL).passed


def test_what_cannot_be_judged_is_refused():
    scores = np.zeros(SMALL.min_answers)
    with pytest.raises(
        ValueError, match="1471 and 1472 answers cannot tell a distance of 0.06 from chance; it takes 1472"
    ):
        compare_scores(scores[1:], scores, SMALL)
    with pytest.raises(ValueError, match="0 and 0 answers cannot tell"):
        compare_scores([], [], SMALL)
    with pytest.raises(ValueError, match="a score is not finite"):
        compare_scores(scores, np.append(scores[1:], np.nan), SMALL)
    with pytest.raises(ValueError, match=r"the reward gave scores of shape \(2,\) to 1472 answers"):
        reward_gate(lambda answers: [1.0, 2.0], list(scores), list(scores), SMALL)
    for wrong in ({"max_distance": 0.0}, {"low": 0.05}, {"significance": 1.0}, {"max_shift": -1.0}):
        with pytest.raises(ValueError, match="the gate needs"):
            dataclasses.replace(SMALL, **wrong)
