"""What a run compiles: model, objective, optimizer and the train step on one mesh.

A `Program` allocates nothing and touches no disk, so the very step that trains can also be compiled for devices that
are not there (plan/).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from llama3_jax.core.params import Params, abstract_params, init_params, letters_of, split_module
from llama3_jax.core.sharding import Layout, batch_sharding
from llama3_jax.data.packing import ROW_DTYPES
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.ops.attention import default_implementation
from llama3_jax.parallel.balance import INDEX, batch_imbalance, chunk_order, document_order, split_order
from llama3_jax.parallel.pipeline import STAGE
from llama3_jax.parallel.project import gather_weights
from llama3_jax.parallel.schedule import stage_rows
from llama3_jax.train.gradients import make_gradients, make_sums
from llama3_jax.train.objective import make_next_token_objective
from llama3_jax.train.optim import make_optimizer
from llama3_jax.train.pipelined import Pipelined
from llama3_jax.train.recipe import Plan, Segment
from llama3_jax.train.run_config import PretrainConfig, layout_of
from llama3_jax.train.step import Gradients, TrainState, abstract_state, init_state, make_train_step


class Program:
    """The compiled side of a run.

    Raises ValueError at construction when the model or any stage's batch does not fit the mesh.
    """

    empty = 0.0  # what a pipeline's empty slots hold (tests use NaN)

    def __init__(self, config: PretrainConfig, mesh: Mesh):
        self.config, self.mesh, self.plan = config, mesh, Plan(config.recipe)
        self.layout = layout_of(config, mesh.shape)
        check_layout(config, self.plan, self.layout)
        self.compute = resolve_compute(config.compute, mesh)
        self.model = self._model(config.model)
        self.optimizer = make_optimizer(config.optimizer, letters_of(self.model))
        self.objective = make_next_token_objective(config.z_loss)
        self.abstract = abstract_params(self.model, mesh, self.layout)
        self._steps: dict[Any, Any] = {}

    def batch_shape(self, segment: Segment) -> tuple[int, int, int]:
        """`(A, B, S)` of this segment's batches: micro-batches, rows of one over the whole mesh, sequence length."""
        return batch_shape(self.config, segment, self.layout)

    def graphdef(self, rope_scaling: bool) -> Any:
        """The model's code as a stage with or without rotary scaling runs it."""
        return split_module(self._model(stage_model(self.config.model, rope_scaling)))[0]

    def _model(self, model: LlamaConfig) -> Llama:
        layout = self.layout.local_replica() if self.pipelined else self.layout
        return Llama(model, self.compute, layout, self.layer_rows)

    @property
    def pipelined(self) -> bool:
        """True on a mesh with a stage axis."""
        return self.layout.size(STAGE) > 1

    @property
    def layer_rows(self) -> tuple[int, ...]:
        """The layer that each row of the stacked parameters holds."""
        if not self.pipelined:
            return tuple(range(self.config.model.num_layers))
        return stage_rows(self.config.model.num_layers, self.layout.size(STAGE), self.config.pipeline.chunks)

    def fresh_state(self) -> TrainState:
        """Initial parameters and moments, created sharded."""
        params = init_params(self.model, self.config.seed, self.mesh, self.layout)
        with jax.set_mesh(self.mesh):
            return jax.jit(lambda p: init_state(p, self.optimizer), donate_argnums=0)(params)

    def abstract_state(self) -> TrainState:
        """The state as `ShapeDtypeStruct`s with shardings."""
        return abstract_state(self.abstract, self.optimizer, self.mesh)

    def abstract_batch(self, segment: Segment) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch `[A, B, S]` of this segment as `ShapeDtypeStruct`s with shardings."""
        shape, sharding = self.batch_shape(segment), batch_sharding(self.mesh, 3, leading=1)
        dtypes = ROW_DTYPES | ({INDEX: np.int32} if self._split_by_cost else {})
        return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in dtypes.items()}

    @property
    def _split_by_cost(self) -> bool:
        return self.layout.size("context") > 1 and self.compute.context_split == "documents"

    def split(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Host arrays `[..., S]` of whole rows in the order in which the context axis splits them."""
        if self.layout.size("context") == 1:
            return dict(batch)
        batch = split_order(batch, self._order(batch["segment_ids"]))
        if self._split_by_cost:
            return batch
        return {name: array for name, array in batch.items() if name != INDEX}  # known from the device's place

    def context_imbalance(self, segment_ids: np.ndarray) -> float:
        """Attention work (mask area) of the busiest context rank over the mean, for rows `[..., S]` not yet split."""
        ranks = self.layout.size("context")
        return 1.0 if ranks == 1 else batch_imbalance(segment_ids, self._order(segment_ids), ranks)

    def _order(self, segment_ids: np.ndarray) -> np.ndarray:
        ranks = self.layout.size("context")
        if self._split_by_cost:
            return document_order(segment_ids, ranks, self.compute.context_block)
        return chunk_order(segment_ids.shape[-1], ranks)

    def lower(self, segment: Segment) -> jax.stages.Lowered:
        """The train step of this segment, traced and lowered for the mesh's devices."""
        step = make_train_step(self.gradients(segment.rope_scaling), self.optimizer)
        with jax.set_mesh(self.mesh):
            return jax.jit(step, donate_argnums=0).lower(
                self.abstract_state(), self.abstract_batch(segment), np.float32(0)
            )

    def gradients(self, rope_scaling: bool) -> Gradients:
        """Gradients of a batch, for the train step of a stage with or without rotary scaling."""
        if self.pipelined:
            return self._pipelined(rope_scaling).gradients
        return make_gradients(self.graphdef(rope_scaling), self.objective, self._gather())

    def sums(self, rope_scaling: bool) -> Callable[[Params, Mapping[str, jax.Array]], Mapping[str, jax.Array]]:
        """`sums(params, rows)` of the objective, without gradients, for evaluation."""
        if self.pipelined:
            return self._pipelined(rope_scaling).sums
        return make_sums(self.graphdef(rope_scaling), self.objective)

    def _pipelined(self, rope_scaling: bool) -> Pipelined:
        return Pipelined(
            graphdef=self.graphdef(rope_scaling),
            objective=self.objective,
            letters=letters_of(self.model),
            layout=self.layout,
            config=self.config.pipeline,
            layer_rows=self.layer_rows,
            empty=self.empty,
        )

    def _gather(self) -> Callable[[Params], Any] | None:
        if self.compute.reshard_after_forward:
            return None
        letters = letters_of(self.model)
        return lambda params: gather_weights(params, letters, self.layout, self.compute.compute_dtype)

    def compiled(self, segment: Segment) -> jax.stages.Compiled:
        """The compiled train step of this segment, made on first use and shared by segments of the same shape."""
        key = (self.batch_shape(segment), segment.rope_scaling)
        if key not in self._steps:
            self._steps[key] = self.lower(segment).compile()
        return self._steps[key]


def batch_shape(config: PretrainConfig, segment: Segment, layout: Layout) -> tuple[int, int, int]:
    """`(A, B, S)`: micro-batches, rows of one over the whole mesh, sequence length.

    Raises ValueError when a batch does not split evenly into micro-batches or over the mesh.
    """
    rows = segment.batch_rows
    micro_tokens = min(config.micro_batch_tokens or segment.batch_tokens, segment.batch_tokens)
    micro_rows = micro_tokens // segment.sequence_length
    split = layout.size("data") * layout.size("fsdp")
    if micro_rows == 0 or rows % micro_rows or micro_rows % split:
        raise ValueError(
            f"stage {segment.stage}: a batch of {rows} rows of {segment.sequence_length} tokens does not divide into "
            f"micro-batches of {micro_tokens} tokens over data x fsdp = {split} devices; micro_batch_tokens must be a "
            f"multiple of {split * segment.sequence_length} that divides {segment.batch_tokens}"
        )
    return rows // micro_rows, micro_rows, segment.sequence_length


def stage_model(model: LlamaConfig, rope_scaling: bool) -> LlamaConfig:
    """The model as a stage trains it: without its rotary scaling where the plan has not brought that in yet."""
    return model if rope_scaling else dataclasses.replace(model, rope_scaling=None)


def resolve_compute(compute: ComputeConfig, mesh: Mesh) -> ComputeConfig:
    """`compute` with attention "auto" replaced by the best implementation for the mesh's devices."""
    if compute.attention != "auto":
        return compute
    return dataclasses.replace(compute, attention=default_implementation(mesh.devices.flat[0].platform))


def check_layout(config: PretrainConfig, plan: Plan, layout: Layout) -> None:
    """Raises ValueError when model, batches or sequences do not split evenly over the mesh."""
    if layout.size(STAGE) > 1:
        stage_rows(config.model.num_layers, layout.size(STAGE), config.pipeline.chunks)
    layout.check_divides(config.model.sizes, ("VD", "DHE", "DKE", "DF"))
    for segment in plan.segments:
        num_micro, _, _ = batch_shape(config, segment, layout)
        if layout.size(STAGE) > 1:
            config.pipeline.check(layout.size(STAGE), num_micro)
        check_sequence(config.compute, segment, layout)


def check_sequence(compute: ComputeConfig, segment: Segment, layout: Layout) -> None:
    """Raises ValueError when the stage's sequences do not split over context and tensor; names the nearest length."""
    context, tensor = layout.size("context"), layout.size("tensor") if compute.sequence_parallel else 1
    reasons = {context * tensor: f"context {context} x tensor {tensor} (sequence parallelism)"}
    if context > 1:
        by_cost = compute.context_split == "documents"
        blocks = f" x context_block {compute.context_block}" if by_cost else ""
        reasons[2 * context * (compute.context_block if by_cost else 1)] = f"2 x context {context}{blocks}"
    for unit, reason in reasons.items():
        if segment.sequence_length % unit:
            nearest = max(1, round(segment.sequence_length / unit)) * unit
            raise ValueError(
                f"stage {segment.stage}: sequences of {segment.sequence_length} tokens do not divide by {reason}; "
                f"nearest legal length: {nearest}"
            )
