"""Norms, biases and activations with backward passes that keep little (Llama 3, 3.2).

Differentiated as written, each would keep several float32 arrays of its input's size for the backward pass. They need
only their inputs: the rest is cheaper to compute again than to write and read. Arithmetic is float32 inside, whatever
the dtype outside.
"""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def rms_norm(x_BSD: jax.Array, scale_D: jax.Array, eps: jax.Array) -> jax.Array:
    """`x / sqrt(mean(x²) + eps) * scale` over the last dim, in x's dtype. The gradient of the scale is float32."""
    return _rms_norm_forward(x_BSD, scale_D, eps)[0]


def _rms_norm_forward(x_BSD, scale_D, eps):
    x32 = x_BSD.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    out = x32 * inverse * scale_D.astype(jnp.float32)[None, None, :]
    return out.astype(x_BSD.dtype), (x_BSD, scale_D, inverse)


def _rms_norm_backward(residuals, dy_BSD):
    x_BSD, scale_D, inverse = residuals
    normed = x_BSD.astype(jnp.float32) * inverse
    dy32 = dy_BSD.astype(jnp.float32)
    scaled = dy32 * scale_D.astype(jnp.float32)[None, None, :]
    dx = inverse * (scaled - normed * jnp.mean(scaled * normed, axis=-1, keepdims=True))
    dscale_D = jnp.sum(dy32 * normed, axis=(0, 1))
    return dx.astype(x_BSD.dtype), dscale_D.astype(scale_D.dtype), None


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


@jax.custom_vjp
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`silu(gate) * up` in their dtype."""
    return _swiglu_forward(gate, up)[0]


def _swiglu_forward(gate, up):
    gate32 = gate.astype(jnp.float32)
    return (gate32 * jax.nn.sigmoid(gate32) * up.astype(jnp.float32)).astype(gate.dtype), (gate, up)


def _swiglu_backward(residuals, dy):
    gate32, up32 = (x.astype(jnp.float32) for x in residuals)
    dy32, sigmoid = dy.astype(jnp.float32), jax.nn.sigmoid(gate32)
    dgate = dy32 * up32 * sigmoid * (1.0 + gate32 * (1.0 - sigmoid))
    dup = dy32 * gate32 * sigmoid
    return dgate.astype(dy.dtype), dup.astype(dy.dtype)


swiglu.defvjp(_swiglu_forward, _swiglu_backward)


@jax.custom_vjp
def layer_norm(x_BSD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, eps: jax.Array) -> jax.Array:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last dim, in x's dtype."""
    return _layer_norm_forward(x_BSD, scale_D, bias_D, eps)[0]


def _normed(x_BSD, eps):
    x32 = x_BSD.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    return centred * inverse, inverse


def _layer_norm_forward(x_BSD, scale_D, bias_D, eps):
    normed, _ = _normed(x_BSD, eps)
    out = normed * scale_D.astype(jnp.float32)[None, None, :] + bias_D.astype(jnp.float32)[None, None, :]
    return out.astype(x_BSD.dtype), (x_BSD, scale_D, bias_D, eps)


def _layer_norm_backward(residuals, dy_BSD):
    x_BSD, scale_D, bias_D, eps = residuals
    normed, inverse = _normed(x_BSD, eps)
    dy32 = dy_BSD.astype(jnp.float32)
    scaled = dy32 * scale_D.astype(jnp.float32)[None, None, :]
    mean = jnp.mean(scaled, axis=-1, keepdims=True)
    dx = inverse * (scaled - mean - normed * jnp.mean(scaled * normed, axis=-1, keepdims=True))
    dscale_D, dbias_D = jnp.sum(dy32 * normed, axis=(0, 1)), jnp.sum(dy32, axis=(0, 1))
    return dx.astype(x_BSD.dtype), dscale_D.astype(scale_D.dtype), dbias_D.astype(bias_D.dtype), None


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x [B, S, ...] + bias [...]` in x's dtype; the gradient of the bias is summed in float32."""
    return _add_bias_forward(x, bias)[0]


def _add_bias_forward(x, bias):
    return x + bias.astype(x.dtype)[None, None], bias


def _add_bias_backward(bias, dy):
    return dy, jnp.sum(dy.astype(jnp.float32), axis=(0, 1)).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """`x * Phi(x)`, Phi the normal distribution function by erf (Hendrycks and Gimpel 2016), in x's dtype."""
    return _gelu_forward(x)[0]


def _gelu_forward(x):
    x32 = x.astype(jnp.float32)
    return (x32 * _normal_cdf(x32)).astype(x.dtype), x


def _gelu_backward(x, dy):
    x32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * x32 * x32) * (2 * math.pi) ** -0.5
    return ((_normal_cdf(x32) + x32 * density) * dy.astype(jnp.float32)).astype(x.dtype)


def _normal_cdf(x32):
    return 0.5 * (1.0 + jax.lax.erf(x32 * 0.5**0.5))


gelu.defvjp(_gelu_forward, lambda x, dy: (_gelu_backward(x, dy),))
