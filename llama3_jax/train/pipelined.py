"""Gradients of a batch through a pipeline: a model and its objective, cut for `parallel/pipeline.py` (3.3.2).

One `shard_map` over the whole mesh. Weights are gathered over fsdp once a step, in the compute dtype, and gradients are
reduced once a step, in float32: between the two, stages exchange only activations.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec

from llama3_jax.core.params import EMPTY_ROW, Params
from llama3_jax.core.sharding import Layout, is_matrix
from llama3_jax.model.llama import Llama
from llama3_jax.model.remat import rematerialised
from llama3_jax.parallel.moves import gather_stored, reduce_gradient
from llama3_jax.parallel.pipeline import STAGE, Parts, Pipeline, schedule_rows
from llama3_jax.parallel.project import Gathered
from llama3_jax.parallel.schedule import PipelineConfig
from llama3_jax.train.layer_rows import LAYERS
from llama3_jax.train.objective import Objective
from llama3_jax.train.step import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipelined:
    """A model and its objective on a mesh with a stage axis.

    `graphdef` is that of a model with `layout.local_replica()`, `letters` the dim letters of its parameters, and
    `layer_rows` says which layer each row of the stacked ones holds. `empty` fills what holds nothing (tests use NaN).
    """

    graphdef: Any
    objective: Objective
    letters: Params
    layout: Layout
    config: PipelineConfig
    layer_rows: tuple[int, ...]
    empty: float = 0.0

    def gradients(self, params: Params, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array], Params]:
        """Loss sum, sums and gradient sums over batches `[A, B, S]`, for `make_train_step`."""

        def local(params, batch):
            pipeline, rows = self._pipeline(params, batch, self.config)
            loss, sums, outer, layers = pipeline.run(*rows)
            outer_letters, _ = _apart(self.letters)
            outer = jax.tree.map(functools.partial(reduce_gradient, self.layout), outer, outer_letters)
            layers = jax.tree.map(lambda gradient: gradient.reshape(-1, *gradient.shape[2:]), layers)
            return *lax.psum((loss, sums), self.layout.split_axes("BS")), {**outer, LAYERS: layers}

        return self._on_mesh(local, batch, (PartitionSpec(), PartitionSpec(), self._specs()))(params, batch)

    def sums(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """The objective's sums over rows `[B, S]`, without gradients."""
        batch = jax.tree.map(lambda rows: rows[None], batch)
        forwards = dataclasses.replace(self.config, schedule="gpipe", group=None)

        def local(params, batch):
            pipeline, rows = self._pipeline(params, batch, forwards)
            return lax.psum(pipeline.evaluate(*rows)[1], self.layout.split_axes("BS"))

        return self._on_mesh(local, batch, PartitionSpec())(params, batch)

    def _on_mesh(self, local: Any, batch: Batch, outputs: Any) -> Any:
        rows = jax.tree.map(lambda _: PartitionSpec(None, *self.layout.used("BS")), batch)
        return jax.shard_map(local, in_specs=(self._specs(), rows), out_specs=outputs, check_vma=False)

    def _specs(self) -> Params:
        return jax.tree.map(self.layout.stored, self.letters)

    def _pipeline(self, params: Params, batch: Batch, config: PipelineConfig) -> tuple[Pipeline, Any]:
        """This device's share, and its rows of the schedule."""
        stages, rank, layout = self.layout.size(STAGE), lax.axis_index(STAGE), self.layout
        schedule = config.schedule_of(stages, jax.tree.leaves(batch)[0].shape[0])
        rank_rows, shared_rows = jax.tree.map(jnp.asarray, schedule_rows(schedule))
        compute = _hollow(self.graphdef, self.letters).compute
        outer, layers = _apart(params)
        outer_letters, layer_letters = _apart(self.letters)
        use = lambda array, names: _chunked(_use(array, names, layout, compute.compute_dtype), config.chunks)
        real_PVC = (np.array(self.layer_rows) != EMPTY_ROW).reshape(stages, config.chunks, -1)
        pipeline = Pipeline(
            parts=_cut(self.graphdef, self.objective, self.letters, layout),
            schedule=schedule,
            outer=jax.tree.map(functools.partial(gather_stored, layout), outer, outer_letters),
            weights=jax.tree.map(use, layers, layer_letters),
            real=jnp.asarray(real_PVC)[rank],
            batch=batch,
            keep=compute.remat != "full",
            empty=self.empty,
        )
        return pipeline, (jax.tree.map(lambda column_TP: column_TP[:, rank], rank_rows), shared_rows)


def _cut(graphdef: Any, objective: Objective, letters: Params, layout: Layout) -> Parts:
    """The model and its objective in the parts that a pipeline runs."""
    hollow = _hollow(graphdef, letters)
    layer_letters = letters[LAYERS]
    run_layer = rematerialised(hollow.run_layer, hollow.compute.remat)

    def with_outer(outer: Params) -> Llama:
        return nnx.merge(graphdef, {**outer, LAYERS: jax.tree.map(lambda _: None, layer_letters)})

    def embed(outer, batch):
        tokens, _, mask = objective.inputs(batch)
        return with_outer(outer).embed(tokens, mask)

    def head(outer, x, batch):
        model = with_outer(outer)
        return objective.loss(model, model.norm(x), batch)

    def layer(places, weights, x, shared):
        return run_layer(jax.tree.map(_with_place, places, weights, layer_letters), x, shared)

    def reduce(gradients_C):
        return jax.tree.map(functools.partial(reduce_gradient, layout), gradients_C, layer_letters)

    return Parts(
        embed=embed,
        shared=lambda batch: hollow.shared_inputs(*objective.inputs(batch)),
        layer=layer,
        head=head,
        reduce=reduce,
    )


def _hollow(graphdef: Any, letters: Params) -> Llama:
    """The model without its parameters: its settings, and code that is given them."""
    return nnx.merge(graphdef, jax.tree.map(lambda _: None, letters))


def _apart(params: Params) -> tuple[Params, Params]:
    """`(outer, layers)`: the stacked layers among a model's parameters, and the others."""
    return {name: tree for name, tree in params.items() if name != LAYERS}, params[LAYERS]


def _chunked(rows: jax.Array, chunks: int) -> jax.Array:
    """[V·C, ...] as [V, C, ...]."""
    return rows.reshape(chunks, -1, *rows.shape[1:])


def _with_place(place: jax.Array, weight: jax.Array, names: str) -> Any:
    """A layer's parameter whose gradient goes to `place`, in float32."""
    return Gathered(place, weight) if is_matrix(names) else weight + place


def _use(array: jax.Array, names: str, layout: Layout, dtype: str) -> jax.Array:
    """A layer's parameter as products take it: whole over fsdp, matrices in the compute dtype."""
    return gather_stored(layout, array.astype(dtype) if is_matrix(names) else array, names)
