"""A model that computes a step at once, on one device or split over a tensor axis."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from llama3_jax.core.params import Params
from llama3_jax.core.sharding import MESH_AXES
from llama3_jax.infer.packing import last_of, rows_of, tokens_of
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.model.cache import copy_pages, init_pages
from llama3_jax.model.llama import Llama
from llama3_jax.ops.paged_attention import default_implementation

Result = tuple[jax.Array, jax.Array | None]  # logits [B, V] after each row's last token; hidden states [B, S, D]


class WholeModel:
    """Parameters and cache, and the program that computes a step. X: slots, and one more that padding goes to."""

    delay = 0  # steps after which a result comes out
    num_groups = 1

    def __init__(self, module: Llama, params: Params, mesh: Mesh, config: SchedulerConfig, attention: str = "auto"):
        """`module` declares layers apart (model/llama.py), `params` are its arrays. `attention`: of paged_attention.

        Raises ValueError for a mesh or layout with more than a tensor axis: several engines beside each other serve
        several batches, and stages are for `StagedModel`.
        """
        layout = module.layout
        if layout.num_devices(MESH_AXES) != layout.size("tensor") or layout.sequence_parallel_axes:
            raise ValueError(f"a model is split over the tensor axis alone, without sequence_parallel, not as {layout}")
        self.config, self.mesh, self._params, self.model_config = config, mesh, params, module.config
        self._pages, self._table_XW = empty_pages(module, mesh, config), empty_table(mesh, config)
        attention = implementation(attention, mesh, module.config.head_dim)
        self._forward, self._score, self._copy = _programs(nnx.split(module, graph=False)[0], attention)

    def rows_for(self, count: int, piece: int) -> int:
        """Rows that a step of `count` works is padded to."""
        del piece
        return power_of_two(count)

    def admit(self, slot_C: np.ndarray, table_CW: np.ndarray) -> None:
        """Gives slots their rows' pages."""
        self._table_XW = put_rows(self._table_XW, slot_C, table_CW)

    def copy(self, source_C: np.ndarray, target_C: np.ndarray) -> None:
        """Copies pages in all layers; targets outside are padding."""
        self._pages = self._copy(self._pages, source_C, target_C)

    def forward(self, token_X: jax.Array, packed_BX: np.ndarray, keep_hidden: bool) -> Result:
        """Computes a step (infer/packing.py). Hidden states come only if asked for."""
        logits_BV, x_BSD, self._pages = self._forward(
            self._params, self._pages, self._table_XW, token_X, packed_BX, keep_hidden
        )
        return logits_BV, x_BSD

    def logits_of(self, x_BSD: jax.Array) -> jax.Array:
        """Logits `[B, S, V]` of hidden states, for the scores of a prompt."""
        return self._score(self._params, x_BSD)


def implementation(attention: str, mesh: Mesh, head_dim: int) -> str:
    """The implementation of paged attention, the platform's own for "auto"."""
    return default_implementation(mesh.devices.flat[0].platform, head_dim) if attention == "auto" else attention


def empty_pages(module: Llama, mesh: Mesh, config: SchedulerConfig) -> list[jax.Array]:
    """Pages `[P, A, J, E]` for each layer."""
    c = module.config
    shape = (c.num_layers, config.num_pages, config.page_size, c.num_kv_heads, c.head_dim)
    with jax.set_mesh(mesh):
        return jax.jit(lambda: init_pages(*shape, module.compute.compute_dtype, module.layout))()


def empty_table(mesh: Mesh, config: SchedulerConfig) -> jax.Array:
    """The pages of each slot's row, `[X, W]`."""
    with jax.set_mesh(mesh):
        return jnp.zeros((config.num_slots + 1, config.table_width), jnp.int32)


@functools.partial(jax.jit, donate_argnums=0)
def put_rows(table_XW: jax.Array, slot_C: jax.Array, table_CW: jax.Array) -> jax.Array:
    """The table with the rows of some slots."""
    return table_XW.at[slot_C].set(table_CW)


def power_of_two(count: int, least: int = 1) -> int:
    """The smallest `least` times a power of two that is not below `count`."""
    while least < count:
        least *= 2
    return least


@functools.cache
def _programs(graphdef: Any, attention: str) -> tuple[Any, Any, Any]:
    """Compiled functions, shared by all engines of a model."""

    def forward(params, pages, table_XW, token_X, packed_BX, keep_hidden):
        model: Llama = nnx.merge(graphdef, params)
        rows = rows_of(packed_BX, table_XW)
        x_BSD, pages = model.hidden_paged(tokens_of(packed_BX, token_X), rows, pages, attention)
        logits_BV = model.whole_logits(last_of(x_BSD, packed_BX))[:, 0]
        return logits_BV, x_BSD if keep_hidden else None, pages

    score = jax.jit(lambda params, x_BSD: nnx.merge(graphdef, params).whole_logits(x_BSD))
    return jax.jit(forward, static_argnums=5, donate_argnums=1), score, jax.jit(copy_pages, donate_argnums=0)
