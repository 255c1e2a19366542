"""The one train step (house idea 4).

It applies gradients; where they come from is a function it is given. Pre-training, SFT, reward modelling and DPO differ
in their objective (train/objective.py), batch and which parameters train; nothing else.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama3_jax.core.params import Params

Batch = Mapping[str, jax.Array]  # every array [A, B, ...], A micro-batches, or [B, ...], one of them
Gradients = Callable[[Params, Batch], tuple[jax.Array, dict[str, jax.Array], Params]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes: float32 master weights, optimizer moments and the count of skipped steps."""

    params: Params
    moments: Any
    skipped: jax.Array  # int32, steps skipped for non-finite gradients so far
    skipped_in_a_row: jax.Array  # int32


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state around `params`; moments take the parameters' shardings."""
    return TrainState(
        params=params,
        moments=optimizer.init(params),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def make_train_step(
    gradients: Gradients, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """`step(state, batch, learning_rate) -> (state, metrics)`, pure and ready for `jax.jit`.

    `gradients(params, batch) -> (loss_sum, sums, gradient sums)` over all micro-batches, in float32
    (train/gradients.py, train/pipelined.py). They are divided by the number of counted tokens, clipped and applied.
    When the loss or any gradient is not finite the state stays as it was and the skip is counted. Metrics are float32
    scalars: `loss` (per token), every sum of the objective per token, `tokens`, `grad_norm`, `skipped`,
    `skipped_in_a_row`.
    """

    def step(state: TrainState, batch: Batch, learning_rate: jax.Array):
        loss, sums, grads = gradients(state.params, batch)
        count = jnp.maximum(sums["tokens"], 1.0)
        grads = jax.tree.map(lambda g: g / count, grads)
        grad_norm = optax.tree.norm(grads)
        updates, moments = optimizer.update(grads, state.moments, state.params)
        params = jax.tree.map(lambda p, u: (p - learning_rate * u).astype(p.dtype), state.params, updates)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
        keep = lambda new, old: jnp.where(finite, new, old)
        missed = 1 - finite.astype(jnp.int32)
        state = TrainState(
            params=jax.tree.map(keep, params, state.params),
            moments=jax.tree.map(keep, moments, state.moments),
            skipped=state.skipped + missed,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * missed,
        )
        metrics = {name: value / count for name, value in sums.items() if name != "tokens"}
        metrics |= {"loss": loss / count, "tokens": sums["tokens"], "grad_norm": grad_norm}
        return state, metrics | {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}

    return step


def abstract_state(abstract: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state around `abstract` parameters as `ShapeDtypeStruct`s with shardings, to restore or compile against."""

    def placed(leaf):
        spec = leaf.sharding.spec if leaf.sharding is not None else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        return jax.tree.map(placed, jax.eval_shape(lambda params: init_state(params, optimizer), abstract))
