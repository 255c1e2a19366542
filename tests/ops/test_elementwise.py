"""Norms, bias and activations: values and gradients of the plain formulas, on one device and split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.ops.elementwise import add_bias, gelu, layer_norm, rms_norm, swiglu


def plain_norm(x_BSD, scale_D, eps):
    return x_BSD / jnp.sqrt(jnp.mean(x_BSD**2, axis=-1, keepdims=True) + eps) * scale_D[None, None, :]


def plain_layer_norm(x_BSD, scale_bias_TD, eps):
    scale_D, bias_D = scale_bias_TD
    centred = x_BSD - jnp.mean(x_BSD, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred / jnp.sqrt(variance + eps) * scale_D[None, None, :] + bias_D[None, None, :]


def plain_swiglu(gate, up):
    return jax.nn.silu(gate) * up


def arrays(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


CASES = {
    "rms_norm": (
        lambda x, scale: rms_norm(x, scale, 1e-5),
        lambda x, scale: plain_norm(x, scale, 1e-5),
        (2, 3, 8),
        (8,),
    ),
    "layer_norm": (
        lambda x, both: layer_norm(x, both[0], both[1], 1e-5),
        lambda x, both: plain_layer_norm(x, both, 1e-5),
        (2, 3, 8),
        (2, 8),
    ),
    "add_bias": (add_bias, lambda x, bias: x + bias[None, None], (2, 3, 4, 2), (4, 2)),
    "swiglu": (swiglu, plain_swiglu, (2, 3, 8), (2, 3, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name):
    function, plain, *shapes = CASES[name]
    inputs, (weights,) = arrays(*shapes), arrays(shapes[0])
    got, want = (
        jax.value_and_grad(lambda *a, f=f: jnp.sum(f(*a) * weights), (0, 1))(*inputs) for f in (function, plain)
    )
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-6), got, want)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_rounded_once(name):
    function, plain, *shapes = CASES[name]
    inputs = [x.astype(jnp.bfloat16) for x in arrays(*shapes)]
    got, want = function(*inputs), plain(*(x.astype(jnp.float32) for x in inputs)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(got, want)


def test_gelu_is_the_exact_one():
    (x,) = arrays((4, 5, 8))
    exact = lambda x: jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    got, want = (jax.value_and_grad(lambda x, f=f: jnp.sum(f(x) ** 2))(3 * x) for f in (gelu, exact))
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-6), got, want)
    rounded = x.astype(jnp.bfloat16)
    np.testing.assert_array_equal(gelu(rounded), exact(rounded).astype(jnp.bfloat16))


def test_a_bias_s_gradient_is_summed_in_float32():
    x_BSD, (bias_D,) = jnp.ones((1, 4096, 8), jnp.bfloat16), arrays((8,))
    gradient = jax.grad(lambda bias: jnp.sum(add_bias(x_BSD, bias).astype(jnp.float32)))(bias_D)
    np.testing.assert_array_equal(gradient, 4096.0)


def test_the_scale_s_gradient_is_summed_in_float32():
    x_BSD, (scale_D,) = jnp.ones((1, 4096, 8), jnp.bfloat16), arrays((8,))
    gradient = jax.grad(lambda scale: jnp.sum(rms_norm(x_BSD, scale, 0.0).astype(jnp.float32)))(scale_D)
    np.testing.assert_allclose(gradient, 4096.0, rtol=1e-6)
