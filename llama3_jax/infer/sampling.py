"""Choosing the next token from logits, every row by its own settings.

Filters are thresholds found by bisection over the bits of the probabilities: exact, without a sort of the vocabulary,
which on every platform costs more. A row's draw depends on its seed and the number of the draw only, so an answer does
not change with what runs beside it.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.infer.request import SamplingConfig

COLDEST = 1e-5  # temperatures below are this one: greedy but for ties, and logits divided by it stay finite


@dataclasses.dataclass(frozen=True)
class Needs:
    """What any row of a step asks for: programs leave out the rest."""

    drawn: bool = False  # a temperature above 0
    filtered: bool = False
    penalised: bool = False
    scores: bool = False  # log-probabilities of the tokens
    top: int = 0  # and of this many of the likeliest
    prompt_scores: bool = False


def needs_of(samplings: Iterable[SamplingConfig]) -> Needs:
    """The needs of rows with these settings. Numbers of alternatives are rounded up, so that few programs are made."""
    needs = Needs()
    for s in samplings:
        asked = [count for count in (s.logprobs, s.prompt_logprobs) if count is not None]
        needs = Needs(
            drawn=needs.drawn or s.temperature > 0,
            filtered=needs.filtered or (s.temperature > 0 and (s.top_k > 0 or s.top_p < 1 or s.min_p > 0)),
            penalised=needs.penalised or is_penalised(s),
            scores=needs.scores or bool(asked),
            top=max([needs.top, *(next(most for most in (0, 1, 5, 20) if count <= most) for count in asked)]),
            prompt_scores=needs.prompt_scores or s.prompt_logprobs is not None,
        )
    return needs


def is_penalised(s: SamplingConfig) -> bool:
    """Whether drawing looks at tokens that were there before."""
    return s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settings:
    """`SamplingConfig`s of rows as arrays `[B]`."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array
    presence_penalty: jax.Array
    frequency_penalty: jax.Array
    seed: jax.Array  # uint32 [B, 2]: low and high half


def settings_of(samplings: Iterable[SamplingConfig]) -> Settings:
    """Settings of these rows, on the host."""
    samplings = list(samplings)
    arrays = {
        field.name: np.array(
            [getattr(s, field.name) for s in samplings], np.int32 if field.name == "top_k" else np.float32
        )
        for field in dataclasses.fields(Settings)
        if field.name != "seed"
    }
    seeds = [divmod(s.seed % 2**64, 2**32) for s in samplings]
    return Settings(seed=np.array([(low, high) for high, low in seeds], np.uint32).reshape(-1, 2), **arrays)  # pyright: ignore


def sample(logits_BV: jax.Array, settings: Settings, draw_B: jax.Array, needs: Needs) -> jax.Array:
    """One token per row, int32 `[B]`: the likeliest where the temperature is 0, else the row's draw number `draw_B`."""
    likeliest_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    if not needs.drawn:
        return likeliest_B
    temperature_B1 = jnp.maximum(settings.temperature, COLDEST)[:, None]
    scaled_BV = logits_BV.astype(jnp.float32) / temperature_B1
    if needs.filtered:
        scaled_BV = jnp.where(kept(scaled_BV, settings), scaled_BV, -jnp.inf)
    noise_BV = jax.vmap(lambda seed, draw: _noise(seed, draw, logits_BV.shape[1]))(settings.seed, draw_B)
    drawn_B = jnp.argmax(scaled_BV + noise_BV, axis=-1).astype(jnp.int32)
    return jnp.where(settings.temperature > 0, drawn_B, likeliest_B)


def _noise(seed: jax.Array, draw: jax.Array, size: int) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed[0]), seed[1]), draw)
    return jax.random.gumbel(key, (size,), jnp.float32)


def kept(scaled_BV: jax.Array, settings: Settings) -> jax.Array:
    """Boolean `[B, V]`: tokens that top_k, then top_p of what that leaves, then min_p let through.

    Tokens as likely as the last one that is let through are let through as well; the likeliest always is.
    """
    probs_BV = jax.nn.softmax(scaled_BV.astype(jnp.float32), axis=-1)
    k_B = jnp.where(settings.top_k > 0, settings.top_k, probs_BV.shape[1])
    probs_BV = jnp.where(probs_BV >= _threshold(probs_BV, jnp.ones_like(probs_BV), k_B)[:, None], probs_BV, 0.0)
    mass_B = settings.top_p * probs_BV.sum(axis=-1)
    nucleus_B = jnp.where(settings.top_p < 1, _threshold(probs_BV, probs_BV, mass_B), 0.0)
    least_B = jnp.maximum(nucleus_B, settings.min_p * probs_BV.max(axis=-1))
    return (probs_BV >= least_B[:, None]) & (probs_BV > 0)


def _threshold(probs_BV: jax.Array, weight_BV: jax.Array, wanted_B: jax.Array) -> jax.Array:
    """The largest p such that tokens with a probability of at least p weigh at least `wanted_B` together; or 0.

    Probabilities order like their bits read as integers, so 31 halvings find it exactly.
    """
    bits_BV = jax.lax.bitcast_convert_type(probs_BV, jnp.int32)

    def narrow(step, low_B):
        tried_B = low_B | (1 << (30 - step))
        weighs_B = jnp.sum(jnp.where(bits_BV >= tried_B[:, None], weight_BV, 0.0), axis=-1)
        return jnp.where(weighs_B >= wanted_B, tried_B, low_B)

    bits_B = jax.lax.fori_loop(0, 31, narrow, jnp.zeros(probs_BV.shape[:1], jnp.int32))
    return jax.lax.bitcast_convert_type(bits_B, jnp.float32)


def penalised(logits_BV: jax.Array, seen_BV: jax.Array, count_BV: jax.Array, settings: Settings) -> jax.Array:
    """Logits after the penalties. `seen_BV`: the token is in prompt or answer; `count_BV`: how often in the answer."""
    logits_BV = logits_BV.astype(jnp.float32)
    factor_B1 = settings.repetition_penalty[:, None]
    repeated_BV = jnp.where(logits_BV > 0, logits_BV / factor_B1, logits_BV * factor_B1)
    logits_BV = jnp.where(seen_BV, repeated_BV, logits_BV)
    presence_BV = settings.presence_penalty[:, None] * (count_BV > 0)
    return logits_BV - presence_BV - settings.frequency_penalty[:, None] * count_BV


def scores(logits_BV: jax.Array, token_B: jax.Array, top: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probability of each row's token `[B]`, and tokens and log-probabilities of the `top` likeliest `[B, top]`."""
    logits_BV = logits_BV.astype(jnp.float32)
    total_B = jax.nn.logsumexp(logits_BV, axis=-1)
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0] - total_B
    best_BX, token_BX = jax.lax.top_k(logits_BV, top) if top else (logits_BV[:, :0], jnp.zeros((len(token_B), 0), int))
    return chosen_B, token_BX.astype(jnp.int32), best_BX - total_B[:, None]
