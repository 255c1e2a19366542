"""The chunked loss against plain log-softmax, on one device and split over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.ops.losses import next_token_loss

B, S, D, V = 4, 8, 16, 40


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x_BSD = jax.random.normal(keys[0], (B, S, D), dtype)
    head_DV = jax.random.normal(keys[1], (D, V), jnp.float32)
    targets_BS = jax.random.randint(keys[2], (B, S), 0, V)
    weights_BS = (jax.random.uniform(keys[3], (B, S)) > 0.3).astype(jnp.float32) * 0.5
    return x_BSD, head_DV, targets_BS, weights_BS


def plain(x_BSD, head_DV, targets_BS, weights_BS, z_loss):
    logits = jnp.einsum("BSD,DV->BSV", x_BSD, head_DV)
    lse = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, targets_BS[:, :, None], axis=-1)[:, :, 0]
    return jnp.sum(weights_BS * (lse - target + z_loss * lse**2))


@pytest.mark.parametrize("chunk", [1, 5, 32, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_loss_and_gradients_equal_log_softmax(chunk, z_loss):
    arrays = inputs()
    chunked = lambda x, w: next_token_loss(x, w, *arrays[2:], chunk=chunk, z_loss=z_loss)[0] * 3.0
    reference = lambda x, w: plain(x, w, *arrays[2:], z_loss) * 3.0
    loss, grads = jax.value_and_grad(chunked, (0, 1))(*arrays[:2])
    expected, expected_grads = jax.value_and_grad(reference, (0, 1))(*arrays[:2])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(chunked(*arrays[:2]), expected, rtol=1e-6)  # without differentiation: another program
    for got, want in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_sums():
    x_BSD, head_DV, targets_BS, weights_BS = inputs()
    total, sums = next_token_loss(x_BSD, head_DV, targets_BS, weights_BS, chunk=7, z_loss=0.5)
    logits = jnp.einsum("BSD,DV->BSV", x_BSD, head_DV)
    np.testing.assert_allclose(sums["tokens"], weights_BS.sum())
    np.testing.assert_allclose(sums["correct"], jnp.sum(weights_BS * (logits.argmax(-1) == targets_BS)))
    np.testing.assert_allclose(sums["nll"] + 0.5 * sums["z"], total, rtol=1e-6)


def test_what_does_not_count_may_be_poisoned():
    x_BSD, head_DV, targets_BS, weights_BS = inputs()
    poisoned = jnp.where(weights_BS[:, :, None] == 0, jnp.nan, x_BSD)
    loss_of = lambda x, w: next_token_loss(x, w, targets_BS, weights_BS, chunk=8)[0]
    clean = jnp.where(weights_BS[:, :, None] == 0, 0.0, x_BSD)
    loss, (dx, _) = jax.value_and_grad(loss_of, (0, 1))(poisoned, head_DV)
    expected, (expected_dx, _) = jax.value_and_grad(loss_of, (0, 1))(clean, head_DV)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_array_equal(dx, expected_dx)


@pytest.mark.parametrize(
    "sizes", [{"data": 2, "tensor": 4}, {"fsdp": 2, "tensor": 2, "data": 2}, {"tensor": 8}, {"fsdp": 4, "data": 2}]
)
def test_split_over_a_mesh(sizes):
    mesh = make_mesh(MeshConfig(**({"fsdp": 1} | sizes)))
    layout = Layout.of(mesh)
    arrays = jax.tree.map(lambda x: jnp.concatenate([x, x]) if x.shape[0] == B else x, inputs())
    expected, expected_grads = jax.value_and_grad(lambda x, w: plain(x, w, *arrays[2:], 0.01), (0, 1))(*arrays[:2])
    with jax.set_mesh(mesh):
        specs = (layout.used("BSD"), layout.stored("DV"), layout.used("BS"), layout.used("BS"))
        placed = [jax.device_put(array, spec) for array, spec in zip(arrays, specs, strict=True)]
        loss_of = lambda x, w, *rest: next_token_loss(x, w, *rest, chunk=5, z_loss=0.01, layout=layout)[0]
        loss, grads = jax.jit(jax.value_and_grad(loss_of, (0, 1)))(*placed)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert [grad.sharding.spec for grad in grads] == [specs[0], specs[1]]
    for got, want in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_logits_are_never_whole():
    x_BSD, head_DV, targets_BS, weights_BS = jax.tree.map(
        lambda x: jnp.tile(x, (4, 8, 1)[: x.ndim]) if x.shape[0] == B else x, inputs()
    )
    step = jax.jit(jax.grad(lambda x, w: next_token_loss(x, w, targets_BS, weights_BS, chunk=16)[0], (0, 1)))
    compiled = step.lower(x_BSD, head_DV).compile()
    full_logits = x_BSD.shape[0] * x_BSD.shape[1] * V * 4
    gradients = 4 * (x_BSD.size + head_DV.size)
    assert compiled.memory_analysis().temp_size_in_bytes < full_logits / 4 + gradients
