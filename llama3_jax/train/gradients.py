"""Gradients of a batch, micro-batch after micro-batch, all of the mesh working on each.

`loss_fn(model, micro_batch) -> (loss_sum, sums)`: sums, not means, so micro-batches and shards add exactly, in float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llama3_jax.core.params import Params
from llama3_jax.parallel.project import with_gathered
from llama3_jax.train.step import Batch, Gradients

LossFn = Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]


def make_gradients(graphdef: Any, loss_fn: LossFn, gather: Callable[[Params], Any] | None = None) -> Gradients:
    """`gradients(params, batch)` for `make_train_step`: loss sum, sums and gradient sums over batches `[A, B, ...]`.

    `gather`, when given, makes the copies of the weights that all micro-batches use (`parallel.project`).
    """

    def gradients(params: Params, batch: Batch):
        copies = gather(params) if gather else None

        def loss_of(params, micro_batch):
            params = with_gathered(params, copies) if gather else params
            return loss_fn(nnx.merge(graphdef, params), micro_batch)

        return _accumulate(loss_of, params, batch)

    return gradients


def make_sums(graphdef: Any, loss_fn: LossFn) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """`sums(params, batch)`: the objective's sums over rows `[B, S]`, without gradients."""
    return lambda params, batch: loss_fn(nnx.merge(graphdef, params), batch)[1]


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
