"""AdamW as the paper trains with it (3.4.1), from optax.

The learning rate is not in here: the plan gives it to every step, so the optimizer has no clock of its own and skipping
a step cannot shift a schedule. Moments and master weights are float32. The paper does not state betas, epsilon, decay
and clipping; the defaults are Llama 2's, with the decay of 0.1 × learning rate that 3.2.1 gives.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from llama3_jax.core.params import Params
from llama3_jax.core.sharding import is_matrix


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW settings; decay and updates are multiplied by the step's learning rate."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-5
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    max_skipped: int = 10  # stop after this many steps in a row with non-finite gradients

    def __post_init__(self):
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0):
            raise ValueError(f"AdamW needs 0 <= beta < 1 and epsilon > 0, got {self}")
        if self.clip_norm <= 0 or self.weight_decay < 0 or self.max_skipped < 1:
            raise ValueError(f"clip_norm and max_skipped must be positive and weight_decay not negative, got {self}")


def make_optimizer(config: OptimizerConfig, letters: Params) -> optax.GradientTransformation:
    """AdamW without its learning rate: updates are to be multiplied by minus the learning rate.

    `letters` are the parameters' dim letters; arrays whose letters include M (norm scales) are not decayed.
    """
    decayed = jax.tree.map(is_matrix, letters)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon, mu_dtype=jnp.float32),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
    )
