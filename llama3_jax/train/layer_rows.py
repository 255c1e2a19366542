"""Stacked layers from one order of rows to another: a checkpoint of any pipeline onto any other (house idea 6).

A pipeline's ranks hold layers that are not neighbours in the model, so the rows of the stacked arrays lie in an order
of their own (`parallel.schedule.stage_rows`), which a checkpoint's `run.json` records. Another order is read with the
rows whole on every device and another dim split in their place, put in order there, and only then split over stages: no
device ever holds more than its share.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.core.params import EMPTY_ROW
from llama3_jax.parallel.pipeline import STAGE

LAYERS = "layers"  # the key under which a model, and whatever mirrors it, keeps its stacked layers


def as_saved(abstract: Any, num_rows: int) -> Any:
    """`abstract` with stacked leaves as they lie on disk, `num_rows` of them, placed so that rows can be reordered."""

    def leaf(path, wanted):
        if not is_stacked(path):
            return wanted
        shape = (num_rows, *wanted.shape[1:])
        return jax.ShapeDtypeStruct(shape, wanted.dtype, sharding=_rows_whole(wanted))

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def in_order(restored: Any, abstract: Any, saved: Sequence[int], rows: Sequence[int]) -> Any:
    """`restored`, whose rows hold the layers `saved`, with rows that hold `rows`, placed as `abstract` says.

    Raises ValueError when a layer was not saved.
    """
    missing = sorted(set(rows) - {EMPTY_ROW} - set(saved))
    if missing:
        raise ValueError(f"layers {missing} are not among the {len(set(saved) - {EMPTY_ROW})} that were saved")
    source_N = np.array([saved.index(layer) if layer != EMPTY_ROW else 0 for layer in rows])
    real_N = np.array(rows) != EMPTY_ROW

    def reorder(array):
        real = real_N.reshape(-1, *[1] * (array.ndim - 1))
        return jnp.where(real, array[source_N], jnp.zeros((), array.dtype))

    def leaf(path, array, wanted):
        if not is_stacked(path):
            return array
        with jax.set_mesh(wanted.sharding.mesh):
            ordered = jax.jit(reorder, out_shardings=wanted.sharding)(array).block_until_ready()
        array.delete()  # before the next one is made: both orders of everything may not fit
        return ordered

    return jax.tree_util.tree_map_with_path(leaf, restored, abstract)


def is_stacked(path: Sequence[Any]) -> bool:
    """True for the path of a leaf that holds a row per layer."""
    return any(getattr(key, "key", None) == LAYERS for key in path)


def _rows_whole(wanted: jax.ShapeDtypeStruct) -> NamedSharding:
    """The sharding of `wanted` with the stage axis on the first dim that it divides, in place of the rows."""
    sharding: Any = wanted.sharding
    sizes, (_, *entries) = sharding.mesh.shape, (*sharding.spec, *[None] * (len(wanted.shape) - len(sharding.spec)))
    if STAGE in sizes and sizes[STAGE] > 1:
        for number, entry in enumerate(entries):
            axes = (*(entry if isinstance(entry, tuple) else (entry,) if entry else ()), STAGE)
            if wanted.shape[number + 1] % int(np.prod([sizes[axis] for axis in axes])) == 0:
                entries[number] = axes
                break
    return NamedSharding(sharding.mesh, PartitionSpec(None, *entries))
