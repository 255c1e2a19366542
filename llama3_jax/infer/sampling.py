"""Choosing the next token from logits."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Temperature 0 is greedy; `top_p` keeps the smallest set of tokens whose probability reaches it."""

    max_new_tokens: int = 256
    temperature: float = 0.6
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampling needs max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1, got {self}")


def sample(
    logits_BV: jax.Array, key: jax.Array, temperature: jax.typing.ArrayLike, top_p: jax.typing.ArrayLike
) -> jax.Array:
    """One token per row, int32 `[B]`, drawn from softmax(logits / temperature) cut to its nucleus.

    `temperature` and `top_p` are float32 scalars, so changing them compiles nothing. Temperature 0 takes the argmax.
    """
    greedy_B = jnp.argmax(logits_BV, axis=-1)
    scaled_BV = logits_BV.astype(jnp.float32) / jnp.maximum(temperature, 1e-6)
    kept_BV = jnp.where(in_nucleus(scaled_BV, top_p), scaled_BV, -jnp.inf)
    drawn_B = jax.random.categorical(key, kept_BV, axis=-1)
    return jnp.where(temperature == 0, greedy_B, drawn_B).astype(jnp.int32)


def in_nucleus(logits_BV: jax.Array, top_p: jax.typing.ArrayLike) -> jax.Array:
    """Boolean `[B, V]`: the most likely tokens whose probability, summed before each of them, stays below `top_p`.

    The most likely token is always in. Tokens of equal probability at the border are all kept, and with `top_p` 1 every
    token is: float32 sums reach 1 before the least likely ones.
    """
    probs_BV = jax.nn.softmax(logits_BV, axis=-1)
    ordered_BV = jnp.sort(probs_BV, axis=-1, descending=True)
    before_BV = jnp.cumsum(ordered_BV, axis=-1) - ordered_BV
    kept_B = jnp.maximum(1, jnp.sum(before_BV < top_p, axis=-1, keepdims=True))
    threshold_B1 = jnp.take_along_axis(ordered_BV, kept_B - 1, axis=-1)
    return (probs_BV >= threshold_B1) | (jnp.asarray(top_p) >= 1)
