"""The train step against plain NumPy, over micro-batches, and when numbers go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from llama3_jax.core.params import Constant, Normal, abstract_params, declare, init_params, letters_of, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.train.gradients import make_gradients
from llama3_jax.train.objective import make_next_token_objective
from llama3_jax.train.optim import OptimizerConfig, make_optimizer
from llama3_jax.train.step import abstract_state, init_state, make_train_step

TINY = LlamaConfig(
    vocab_size=32, num_layers=1, embed_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24, max_length=16
)


class Linear(nnx.Module):
    """A matrix behind a scale: the least that has a decayed and an undecayed array."""

    def __init__(self):
        sizes = {"D": 6, "F": 4, "M": 6}
        self.w_DF = declare("DF", sizes, Normal(0.5))
        self.scale_M = declare("M", sizes, Constant(1.0))

    def __call__(self, x_BD):
        return (x_BD * self.scale_M[...][None, :]) @ self.w_DF[...]


def squared_error(model, batch):
    """Weighted squared errors. `bad_loss` is added to the loss alone, `bad_grad` 0 makes gradients alone infinite."""
    error_BF = model(batch["x"]) - batch["y"]
    loss = jnp.sum(batch["weights"][:, None] * error_BF**2) + jnp.sum(batch["bad_loss"])
    loss += jnp.sum(jnp.sqrt(batch["bad_grad"] * model.scale_M[...][0]))
    return loss, {"squared": loss, "tokens": jnp.sum(batch["weights"])}


def linear_batch(seed: int = 0, micro: int = 1, **changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    batch = {
        "x": rng.normal(size=(micro, 5, 6)),
        "y": rng.normal(size=(micro, 5, 4)),
        "weights": rng.integers(0, 3, (micro, 5)) / 2,
        "bad_loss": np.zeros((micro, 1)),
        "bad_grad": np.ones((micro, 1)) * 1e-12,
    }
    return {name: np.asarray(changes.get(name, array), np.float32) for name, array in batch.items()}


def single_mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def ready(module, loss_fn, **settings):
    """`(state, step)` for a module on one device."""
    optimizer = make_optimizer(OptimizerConfig(**settings), letters_of(module))
    state = init_state(init_params(module, 0, single_mesh()), optimizer)
    return state, jax.jit(make_train_step(make_gradients(split_module(module)[0], loss_fn), optimizer))


def adam(state) -> optax.ScaleByAdamState:
    return next(part for part in state.moments if isinstance(part, optax.ScaleByAdamState))


def assert_same_bits(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def numpy_adamw(params, batches, rates, config: OptimizerConfig):
    """Clipped AdamW on the weighted mean squared error, in float64."""
    w, s = (np.asarray(params[name], np.float64) for name in ("w_DF", "scale_M"))
    moments = [[np.zeros_like(w), np.zeros_like(s)] for _ in range(2)]
    for t, (batch, rate) in enumerate(zip(batches, rates, strict=True), 1):
        x, y, weights = (batch[name][0].astype(np.float64) for name in ("x", "y", "weights"))
        error = 2 * weights[:, None] * ((x * s) @ w - y) / weights.sum()
        grads = [(x * s).T @ error, (x * (error @ w.T)).sum(axis=0)]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        grads = [g * min(1.0, config.clip_norm / norm) for g in grads]
        new = []
        for i, (value, decay) in enumerate(((w, config.weight_decay), (s, 0.0))):
            moments[0][i] = config.beta1 * moments[0][i] + (1 - config.beta1) * grads[i]
            moments[1][i] = config.beta2 * moments[1][i] + (1 - config.beta2) * grads[i] ** 2
            mean, square = moments[0][i] / (1 - config.beta1**t), moments[1][i] / (1 - config.beta2**t)
            new.append(value - rate * (mean / (np.sqrt(square) + config.epsilon) + decay * value))
        w, s = new
    return {"w_DF": w, "scale_M": s}


@pytest.mark.parametrize("clip_norm", [1e9, 0.5])
def test_updates_are_clipped_adamw(clip_norm):
    settings = {"clip_norm": clip_norm, "weight_decay": 0.3, "beta2": 0.9}
    state, step = ready(Linear(), squared_error, **settings)
    batches, rates = [linear_batch(seed, bad_grad=np.full((1, 1), 1e-20)) for seed in range(4)], [0.1, 0.05, 0.2, 0.0]
    expected = numpy_adamw(state.params, batches, rates, OptimizerConfig(**settings))
    for batch, rate in zip(batches, rates, strict=True):
        state, _ = step(state, batch, np.float32(rate))
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6), state.params, expected)


def test_the_norm_is_reported_before_clipping_and_moments_hold_what_is_left():
    for clip_norm in (0.01, 1e6):
        state, step = ready(Linear(), squared_error, clip_norm=clip_norm, beta1=0.0)
        state, metrics = step(state, linear_batch(), np.float32(0.1))
        assert 0.01 < metrics["grad_norm"] < 1e6
        applied = float(optax.tree.norm(adam(state).mu))
        assert applied == pytest.approx(min(clip_norm, float(metrics["grad_norm"])), rel=1e-5)


@pytest.fixture(scope="module")
def llama():
    """`(dim letters, state, step)` of a tiny model with the objective of pre-training."""
    compute = ComputeConfig(compute_dtype="float32", remat="none", attention="reference", loss_chunk=16)
    model = Llama(TINY, compute)
    return letters_of(model), *ready(model, make_next_token_objective(z_loss=0.01), epsilon=1e-3, weight_decay=0.5)


def test_matrices_decay_and_norm_scales_do_not(llama):
    """Nothing counts in this batch, so gradients are exactly zero and decay is all that is left of the update."""
    letters, state, step = llama
    batch = packed_batch(micro=1)
    batch["loss_weights"] = np.zeros_like(batch["loss_weights"])
    after, metrics = step(state, batch, np.float32(0.1))
    assert metrics["loss"] == metrics["grad_norm"] == metrics["tokens"] == 0

    def check(letters, before, after):
        want = before if "M" in letters else before * np.float32(1 - 0.1 * 0.5)
        np.testing.assert_allclose(after, want, rtol=1e-6)

    jax.tree.map(check, letters, state.params, after.params)
    scales = {name for name in jax.tree.leaves(letters) if "M" in name}
    assert scales == {"NM", "M"}


def packed_batch(micro: int) -> dict[str, np.ndarray]:
    """Eight rows of 12 tokens in `micro` micro-batches; rows count very different numbers of tokens."""
    rng = np.random.default_rng(0)
    rows, length = 8, 12
    segments = np.sort(rng.integers(1, 4, (rows, length)), axis=1)
    starts = np.diff(segments, axis=1, prepend=0) != 0
    positions = np.arange(length) - np.maximum.accumulate(np.where(starts, np.arange(length), 0), axis=1)
    weights = (np.arange(length)[None, :] < rng.integers(1, length, (rows, 1))) * rng.uniform(0.5, 2, (rows, length))
    batch = {
        "tokens": rng.integers(0, TINY.vocab_size, (rows, length)).astype(np.int32),
        "targets": rng.integers(0, TINY.vocab_size, (rows, length)).astype(np.int32),
        "segment_ids": segments.astype(np.int32),
        "positions": positions.astype(np.int32),
        "loss_weights": weights.astype(np.float32),
    }
    return {name: array.reshape(micro, rows // micro, length) for name, array in batch.items()}


def test_micro_batches_change_nothing_however_unevenly_tokens_count(llama):
    _, state, step = llama
    expected, expected_metrics = step(state, packed_batch(1), np.float32(1e-2))
    got, metrics = step(state, packed_batch(4), np.float32(1e-2))
    assert expected_metrics["tokens"] == pytest.approx(packed_batch(1)["loss_weights"].sum())
    for name in expected_metrics:
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-6, err_msg=name)
    close = lambda atol: lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-6, atol=atol)
    jax.tree.map(close(1e-6), got.params, expected.params)  # of updates of 1e-2
    jax.tree.map(close(1e-8), adam(got).mu, adam(expected).mu)


POISONS = {
    "an infinite input": {"x": np.full((2, 5, 6), np.inf)},
    "a nan input in the second micro-batch": {"x": np.stack([np.ones((5, 6)), np.full((5, 6), np.nan)])},
    "a loss that is nan, gradients being finite": {"bad_loss": np.array([[0.0], [np.nan]])},
    "gradients that are infinite, the loss being finite": {"bad_grad": np.array([[1e-12], [0.0]])},
    "nan weights": {"weights": np.full((2, 5), np.nan)},
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_a_step_that_is_not_finite_leaves_every_bit_and_is_counted(poison):
    state, step = ready(Linear(), squared_error)
    state, metrics = step(state, linear_batch(micro=2), np.float32(0.1))
    assert metrics["skipped"] == 0
    before = state
    for count in (1, 2):
        state, metrics = step(state, linear_batch(1, micro=2, **poison), np.float32(0.1))
        assert_same_bits((state.params, state.moments), (before.params, before.moments))
        assert metrics["skipped"] == metrics["skipped_in_a_row"] == count
    state, metrics = step(state, linear_batch(2, micro=2), np.float32(0.1))
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 0)
    without, _ = step(before, linear_batch(2, micro=2), np.float32(0.1))
    assert_same_bits(state.params, without.params)  # as if the bad batches had never been


def test_the_abstract_state_is_that_of_a_real_one():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    model = Llama(TINY, ComputeConfig(), Layout.of(mesh))
    optimizer = make_optimizer(OptimizerConfig(), letters_of(model))
    with jax.set_mesh(mesh):
        state = jax.jit(lambda p: init_state(p, optimizer))(init_params(Llama(TINY), 0, mesh))
    abstract = abstract_state(abstract_params(model, mesh), optimizer, mesh)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for real, declared in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert (real.shape, real.dtype) == (declared.shape, declared.dtype)
        assert real.sharding.is_equivalent_to(declared.sharding, real.ndim)
    assert {leaf.dtype for leaf in jax.tree.leaves((adam(state).mu, adam(state).nu))} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "settings",
    [{"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}, {"clip_norm": 0}, {"weight_decay": -1}, {"max_skipped": 0}],
)
def test_impossible_optimizers_are_refused(settings):
    with pytest.raises(ValueError, match="AdamW needs|must be positive"):
        OptimizerConfig(**settings)
