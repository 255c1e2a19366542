"""A model in pipeline stages for generation: tensor parallelism within a host, stages across (6.1).

One program, a tick, runs on all stages at once: each takes what the one before sent in the tick before, runs its
layers on it and sends it on. A batch comes out after as many ticks as there are stages less one, and meanwhile others,
micro-batches of the running rows, are under way: with two stages and two of them no stage ever waits, in decoding and
in prompts alike. Embedding and output head are split over all devices, as in training.

A tick's shape is fixed for decoding and for pieces of prompts, each a pipeline of its own through the same stages.
Where nothing enters, a batch without rows does: it writes nothing and what it computes is thrown away.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama3_jax.core.params import EMPTY_ROW, Params, abstract_params, letters_of, stacked
from llama3_jax.core.sharding import Layout
from llama3_jax.infer.packing import HEAD, last_of, pack, rows_of, tokens_of
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.infer.whole import Result, empty_table, implementation, put_rows
from llama3_jax.model.cache import copy_pages
from llama3_jax.model.layers import ComputeConfig, Layer
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.model.quantized import absent_from, feed_forward_of

STAGE = "stage"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flow:
    """What is between the stages: for each, the states that it works on next, and whose they are. Z: stages."""

    x_ZBSD: jax.Array
    packed_ZBX: jax.Array


def declare_staged(config: LlamaConfig, compute: ComputeConfig, layout: Layout, quantized: str | None = None) -> Llama:
    """The model with its layers apart, a stack of one layer for each stage: stage z's n-th is layer z * L + n of all.

    Where the layers do not divide, the last stage's last ones hold none: arrays of zeros add nothing to the residual
    stream. Of a `quantized` model (model/quantized.py) the stacks that the first and the last layer are in hold both
    kinds of feed-forward, with zeros for the one that a layer does not have.
    """
    model = Llama(config, compute, layout, layers_apart=True, quantized=quantized)
    model.layers = nnx.List(
        stacked(_layer_of(rows, model, layout), rows, absent_from(rows, config.num_layers) if quantized else None)
        for rows in _rows_of_stacks(config.num_layers, layout.size(STAGE))
    )
    return model


def _rows_of_stacks(num_layers: int, stages: int) -> list[list[int]]:
    """For each stack the numbers of its layers, one for each stage."""
    per_stage = -(-num_layers // stages)
    number = lambda layer: layer if layer < num_layers else EMPTY_ROW
    return [[number(stage * per_stage + n) for stage in range(stages)] for n in range(per_stage)]


def _layer_of(rows: Sequence[int], model: Llama, layout: Layout) -> Layer:
    """One layer that can be any of these."""
    c = model.config
    feed_forward = feed_forward_of([row for row in rows if row != EMPTY_ROW], c.num_layers, model.quantized)
    return Layer(c.sizes, c.norm_eps, model.compute, layout, c.num_layers, feed_forward)


@dataclasses.dataclass(frozen=True, eq=False)
class StagedProgram:
    """The functions that run on all stages: no arrays, so they compile for devices that are not there."""

    module: Llama  # of `declare_staged`
    config: SchedulerConfig
    attention: str  # an implementation of ops/paged_attention.py

    def __post_init__(self):
        layout = self.module.layout
        if any(layout.size(axis) > 1 for axis in ("data", "fsdp", "context")) or layout.sequence_parallel_axes:
            raise ValueError(f"stages take a tensor axis beside them and no other, and no sequence_parallel: {layout}")
        if self.config.num_slots % self.config.num_groups:
            raise ValueError(
                f"num_slots {self.config.num_slots} does not divide by num_groups {self.config.num_groups}"
            )

    @property
    def stages(self) -> int:
        """Stages, and ticks until a batch has been through all of them."""
        return self.module.layout.size(STAGE)

    def rows_for(self, piece: int) -> int:
        """Rows of a tick: those of a group when decoding, else as many pieces as a step may compute."""
        if piece == 1:
            return self.config.num_slots // self.config.num_groups
        return max(1, self.config.prefill_tokens // piece)

    def declare(self, mesh: Mesh, piece: int) -> tuple[Any, ...]:
        """What `tick` takes for one shape, declared: parameters, pages, table, tokens, flow, rows."""
        c, sizes, dtype = self.module.config, self.config, self.module.compute.compute_dtype
        rows, slots = self.rows_for(piece), sizes.num_slots + 1

        def array(shape: tuple[int, ...], dtype: Any, *spec: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

        page_shape = (self.stages, sizes.num_pages, sizes.page_size, 2 * c.num_kv_heads, c.head_dim)
        pages = [array(page_shape, dtype, *self._page_spec())] * len(self._layers)
        states = array((self.stages, rows, piece, c.embed_dim), dtype, STAGE)
        flow = Flow(states, array((self.stages, rows, HEAD + piece), jnp.int32, STAGE))  # pyright: ignore
        table, tokens = array((slots, sizes.table_width), jnp.int32), array((slots,), jnp.int32)
        params = abstract_params(self.module, mesh, self.module.layout)
        return params, pages, table, tokens, flow, array((rows, HEAD + piece), jnp.int32)

    def tick(self, params, pages, table_XW, token_X, flow, packed_BX, keep_hidden):
        """One tick: `packed_BX` enters; logits and hidden states of the batch that leaves, pages, flow."""
        whole, staged = PartitionSpec(), PartitionSpec(STAGE)
        page_specs = [self._page_spec()] * len(pages)
        flow_specs = Flow(staged, staged)  # pyright: ignore[reportArgumentType]
        specs = (self._param_specs(), page_specs, whole, whole, flow_specs, whole)
        outputs = (whole, whole, page_specs, flow_specs)
        local = functools.partial(self._tick_of_stage, keep_hidden)
        run = jax.shard_map(local, in_specs=specs, out_specs=outputs, check_vma=False)
        return run(params, pages, table_XW, token_X, flow, packed_BX)

    def logits_of(self, params, x_BSD):
        """Logits `[B, S, V]` of hidden states."""
        whole = PartitionSpec()
        local = lambda params, x_BSD: self._model(params).whole_logits(x_BSD)
        specs = (self._param_specs(), whole)
        return jax.shard_map(local, in_specs=specs, out_specs=whole, check_vma=False)(params, x_BSD)

    def copy_pages(self, pages, source_C, target_C):
        """See `model.cache.copy_pages`; of all stages."""

        def local(pages, source_C, target_C):
            copied = copy_pages([page[0] for page in pages], source_C, target_C)
            return [page[None] for page in copied]

        whole, page_specs = PartitionSpec(), [self._page_spec()] * len(pages)
        run = jax.shard_map(local, in_specs=(page_specs, whole, whole), out_specs=page_specs, check_vma=False)
        return run(pages, source_C, target_C)

    def _tick_of_stage(self, keep_hidden, params, pages, table_XW, token_X, flow, packed_BX):
        """What one device does in a tick; arrays split over stages have a leading dim of one."""
        model, stage = self._model(params), lax.axis_index(STAGE)
        first, last = stage == 0, stage == self.stages - 1
        entering_BSD = model.embed_tokens(tokens_of(packed_BX, token_X))
        x_BSD = jnp.where(first, entering_BSD, flow.x_ZBSD[0])
        packed_BX = jnp.where(first, packed_BX, flow.packed_ZBX[0])
        rows = rows_of(packed_BX, table_XW)
        x_BSD, new_pages = model.layers_paged(x_BSD, rows, [page[0] for page in pages], self.attention)
        states_BSD = model.norm(x_BSD)
        leaving_BSD = states_BSD if keep_hidden else last_of(states_BSD, packed_BX)
        leaving_BSD = lax.psum(jnp.where(last, leaving_BSD, jnp.zeros_like(leaving_BSD)), STAGE)
        last_BSD = leaving_BSD
        if keep_hidden:
            last_BSD = last_of(leaving_BSD, lax.psum(jnp.where(last, packed_BX, 0), STAGE))
        logits_BV = model.whole_logits(last_BSD)[:, 0]
        onward = [(z, (z + 1) % self.stages) for z in range(self.stages)]
        flow = Flow(lax.ppermute(x_BSD, STAGE, onward)[None], lax.ppermute(packed_BX, STAGE, onward)[None])
        return logits_BV, leaving_BSD if keep_hidden else None, [page[None] for page in new_pages], flow

    @property
    def _layers(self) -> nnx.List:
        assert isinstance(self.module.layers, nnx.List)
        return self.module.layers

    @functools.cached_property
    def _graphdef(self) -> Any:
        """Code of one stage, on one device's parts."""
        layout = self.module.layout.local_replica()
        local = Llama(self.module.config, self.module.compute, layout, layers_apart=True)
        stacks = _rows_of_stacks(self.module.config.num_layers, self.stages)
        local.layers = nnx.List(_layer_of(rows, self.module, layout) for rows in stacks)
        return nnx.split(local, graph=False)[0]

    def _model(self, params: Params) -> Llama:
        """The stage's model, of its local parameters."""
        layers = jax.tree.map(lambda stack: stack[0], params["layers"])
        return nnx.merge(self._graphdef, {**params, "layers": layers})

    def _param_specs(self) -> Any:
        return jax.tree.map(self.module.layout.stored, letters_of(self.module))

    def _page_spec(self) -> PartitionSpec:
        return PartitionSpec(STAGE, *self.module.layout.used("PAJE"))


class StagedModel:
    """As `WholeModel`, for a mesh with a stage axis. X: slots, and one more that padding goes to."""

    def __init__(self, module: Llama, params: Params, mesh: Mesh, config: SchedulerConfig, attention: str = "auto"):
        """`module` is of `declare_staged`, `params` its arrays, placed.

        Raises ValueError for a layout with other axes than stage and tensor, and for slots that do not divide by
        `config.num_groups`.
        """
        self.config, self.mesh, self._params, self.model_config = config, mesh, params, module.config
        program = StagedProgram(module, config, implementation(attention, mesh, module.config.head_dim))
        self.delay, self._program = program.stages - 1, program
        self._pages = jax.tree.map(_zeros, program.declare(mesh, 1)[1])
        self._table_XW = empty_table(mesh, config)
        self._flows: dict[tuple[int, int], Flow] = {}
        self._copy = jax.jit(program.copy_pages, donate_argnums=0)
        self._tick = jax.jit(program.tick, static_argnums=6, donate_argnums=(1, 4))
        self._score = jax.jit(program.logits_of)

    def rows_for(self, count: int, piece: int) -> int:
        """Rows of a tick: always the same for decoding, and for pieces of one length."""
        del count
        return self._program.rows_for(piece)

    def admit(self, slot_C: np.ndarray, table_CW: np.ndarray) -> None:
        """Gives slots their rows' pages."""
        self._table_XW = put_rows(self._table_XW, slot_C, table_CW)

    def copy(self, source_C: np.ndarray, target_C: np.ndarray) -> None:
        """Copies pages in all layers; targets outside are padding. Nothing may be under way."""
        self._pages = self._copy(self._pages, source_C, target_C)

    def forward(self, token_X: jax.Array, packed_BX: np.ndarray, keep_hidden: bool) -> Result:
        """One tick: `packed_BX` enters; the result is of the batch of this shape that entered `delay` ticks ago."""
        shape = packed_BX.shape[0], packed_BX.shape[1] - HEAD
        flow = self._flows.get(shape) or self._empty_flow(*shape)
        logits_BV, x_BSD, self._pages, self._flows[shape] = self._tick(
            self._params, self._pages, self._table_XW, token_X, flow, packed_BX, keep_hidden
        )
        return logits_BV, x_BSD

    def logits_of(self, x_BSD: jax.Array) -> jax.Array:
        """Logits `[B, S, V]` of hidden states, for the scores of a prompt."""
        return self._score(self._params, x_BSD)

    def _empty_flow(self, num_rows: int, piece: int) -> Flow:
        declared: Flow = self._program.declare(self.mesh, piece)[4]
        packed_ZBX = np.stack([pack((), num_rows, piece, self.config.num_slots)] * (self.delay + 1))
        return Flow(_zeros(declared.x_ZBSD), jax.device_put(packed_ZBX, declared.packed_ZBX.sharding))


def _zeros(declared: Any) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(declared.shape, declared.dtype), out_shardings=declared.sharding)()
