"""The one train step (house idea 4).

`loss_fn(model, micro_batch) -> (loss_sum, sums)`: sums, not means, so micro-batches and shards add exactly, in float32.
Pre-training, SFT, reward modelling and DPO differ in `loss_fn`, batch and which parameters train; nothing else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama3_jax.core.params import Params
from llama3_jax.parallel.project import with_gathered

Batch = dict[str, jax.Array]  # every array [A, B, ...]: A micro-batches
LossFn = Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]


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
    graphdef: Any,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    gather: Callable[[Params], Any] | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """`step(state, batch, learning_rate) -> (state, metrics)`, pure and ready for `jax.jit`.

    Gradients of the micro-batches are summed in float32, divided by the number of counted tokens, clipped and applied.
    When the loss or any gradient is not finite the state stays as it was and the skip is counted. Metrics are float32
    scalars: `loss` (per token), every sum of `loss_fn` per token, `tokens`, `grad_norm`, `skipped`, `skipped_in_a_row`.
    `gather`, when given, makes the copies of the weights that all micro-batches use (`parallel.project`).
    """

    def step(state: TrainState, batch: Batch, learning_rate: jax.Array):
        copies = gather(state.params) if gather else None

        def loss_of(params, micro_batch):
            params = with_gathered(params, copies) if gather else params
            return loss_fn(nnx.merge(graphdef, params), micro_batch)

        loss, sums, grads = _accumulate(loss_of, state.params, batch)
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


def _accumulate(loss_of: Callable, params: Params, batch: Batch):
    """Loss sum, sums and float32 gradient sums over the leading micro-batch dim.

    One loop over all of them: a first one outside would be compiled again, and its activations could live beside the
    loop's.
    """

    def of_one(micro_batch):
        (loss, sums), grads = jax.value_and_grad(loss_of, has_aux=True)(params, micro_batch)
        return jax.tree.map(lambda x: x.astype(jnp.float32), (loss, sums, grads))

    first = jax.tree.map(lambda x: x[0], batch)
    if jax.tree.leaves(batch)[0].shape[0] == 1:
        return of_one(first)
    zero = jax.tree.map(lambda _: jnp.zeros((), jnp.float32), jax.eval_shape(loss_of, params, first))
    start = (*zero, jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params))
    return jax.lax.scan(lambda total, micro: (jax.tree.map(jnp.add, total, of_one(micro)), None), start, batch)[0]


def abstract_state(abstract: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state around `abstract` parameters as `ShapeDtypeStruct`s with shardings, to restore or compile against."""

    def placed(leaf):
        spec = leaf.sharding.spec if leaf.sharding is not None else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        return jax.tree.map(placed, jax.eval_shape(lambda params: init_state(params, optimizer), abstract))
