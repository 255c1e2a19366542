"""What a run compiles: model, objective, optimizer and the train step on one mesh.

A `Program` allocates nothing and touches no disk, so the very step that trains can also be compiled for devices that
are not there (plan/).
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from llama3_jax.core.params import abstract_params, init_params, letters_of, split_module
from llama3_jax.core.sharding import Layout, batch_sharding
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.ops.attention import default_implementation
from llama3_jax.train.objective import BATCH_DTYPES, make_next_token_objective
from llama3_jax.train.optim import make_optimizer
from llama3_jax.train.recipe import Plan, Segment
from llama3_jax.train.run_config import PretrainConfig
from llama3_jax.train.step import TrainState, abstract_state, init_state, make_train_step


class Program:
    """The compiled side of a run.

    Raises ValueError at construction when the model or any stage's batch does not fit the mesh.
    """

    def __init__(self, config: PretrainConfig, mesh: Mesh):
        self.config, self.mesh, self.plan = config, mesh, Plan(config.recipe)
        self.layout = Layout.of(mesh)
        check_layout(config, self.plan, self.layout)
        self.compute = resolve_compute(config.compute, mesh)
        self.model = Llama(config.model, self.compute, self.layout)
        self.optimizer = make_optimizer(config.optimizer, letters_of(self.model))
        self.objective = make_next_token_objective(config.z_loss)
        self.abstract = abstract_params(self.model, mesh)
        self._steps: dict[Any, Any] = {}

    def batch_shape(self, segment: Segment) -> tuple[int, int, int]:
        """`(A, B, S)` of this segment's batches: micro-batches, rows of one over the whole mesh, sequence length."""
        return batch_shape(self.config, segment, self.layout)

    def graphdef(self, rope_scaling: bool) -> Any:
        """The model's code as a stage with or without rotary scaling runs it."""
        return split_module(Llama(stage_model(self.config.model, rope_scaling), self.compute, self.layout))[0]

    def fresh_state(self) -> TrainState:
        """Initial parameters and moments, created sharded."""
        params = init_params(self.model, self.config.seed, self.mesh)
        with jax.set_mesh(self.mesh):
            return jax.jit(lambda p: init_state(p, self.optimizer), donate_argnums=0)(params)

    def abstract_state(self) -> TrainState:
        """The state as `ShapeDtypeStruct`s with shardings."""
        return abstract_state(self.abstract, self.optimizer, self.mesh)

    def abstract_batch(self, segment: Segment) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch `[A, B, S]` of this segment as `ShapeDtypeStruct`s with shardings."""
        shape, sharding = self.batch_shape(segment), batch_sharding(self.mesh, 3, leading=1)
        return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in BATCH_DTYPES.items()}

    def lower(self, segment: Segment) -> jax.stages.Lowered:
        """The train step of this segment, traced and lowered for the mesh's devices."""
        step = make_train_step(self.graphdef(segment.rope_scaling), self.objective, self.optimizer)
        with jax.set_mesh(self.mesh):
            return jax.jit(step, donate_argnums=0).lower(
                self.abstract_state(), self.abstract_batch(segment), np.float32(0)
            )

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
    """Raises ValueError when model or batches do not split evenly over the mesh, or an axis is not supported."""
    for axis in ("stage", "context"):
        if layout.size(axis) > 1:
            raise ValueError(f"mesh.{axis} {layout.size(axis)}: this version splits over data, fsdp and tensor only")
    layout.check_divides(config.model.sizes, ("VD", "DHE", "DKE", "DF"))
    for segment in plan.segments:
        batch_shape(config, segment, layout)
