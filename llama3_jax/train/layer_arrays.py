"""The parameters of a checkpoint, one layer at a time: read and written without the model being in memory.

A checkpoint keeps the N layers of an array stacked in one (`params.layers.attention.wq_DHE` is [N, D, H, E]). Here a
layer of it is read or written by itself, through TensorStore, in the layout that Orbax restores: zarr3 arrays in one
OCDBT store, and a `_METADATA` that lists them. Chunks do not span layers, so what is in memory is a layer of one array
and a few copies of a chunk. (In checkpoints from before `Checkpoints` kept layers apart they do: a chunk of up to 2 GiB
is then read once per layer.)
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore
from etils import epath

from llama3_jax.core.params import EMPTY_ROW
from llama3_jax.core.paths import url_of
from llama3_jax.train.layer_rows import LAYERS

MAX_CHUNK_BYTES = 16 * 2**20  # what a host that needs a part of a layer has to read for it
# Orbax's names: how its own handlers describe an array, and dict keys, in _METADATA.
_ARRAY_TYPE, _DICT_KEY = "jax.Array", 2


@dataclasses.dataclass(frozen=True)
class StackedArray:
    """Declaration of an array of a checkpoint; `shape` has the layers first when it is one of several layers."""

    path: str  # "layers/attention/wq_DHE"
    shape: tuple[int, ...]
    dtype: np.dtype
    layers: tuple[int, ...] | None  # whose rows it has, in order; None for an array outside the layers

    @property
    def in_layers(self) -> bool:
        """Whether it has a row per layer."""
        return self.layers is not None

    @property
    def num_bytes(self) -> int:
        """Bytes of all layers."""
        return math.prod(self.shape) * self.dtype.itemsize


class LayerReader:
    """Reads layers of the parameters in one step's state folder.

    `layer_rows`: the layer that each row of the stacked arrays holds, as `run.json` says; None for all in order.
    `rows_of` says so for arrays that not all layers have, by path.
    """

    def __init__(
        self,
        state: epath.Path,
        layer_rows: Sequence[int] | None = None,
        rows_of: Mapping[str, Sequence[int]] | None = None,
    ):
        self._state, self._all_rows, self._rows_of = state, layer_rows, rows_of or {}
        self._open = functools.cache(lambda path: _open_array(state, path, {"open": True}))

    def paths(self) -> list[str]:
        """Paths of all parameters, e.g. `layers/attention/wq_DHE`."""
        entries = json.loads((self._state / "_METADATA").read_text(encoding="utf-8"))["tree_metadata"].values()
        keys = [[part["key"] for part in entry["key_metadata"]] for entry in entries]
        return ["/".join(key[1:]) for key in keys if key[0] == "params"]

    def shape(self, path: str) -> tuple[int, ...]:
        """Shape, N first for arrays of the layers; rows that hold no layer do not count."""
        rows, *rest = self._open(path).shape
        held = self._rows(path)
        if held is not None and path.startswith(f"{LAYERS}/"):
            rows -= list(held).count(EMPTY_ROW)
        return (rows, *rest)

    def dtype(self, path: str) -> np.dtype:
        """Dtype as stored."""
        return self._open(path).dtype.numpy_dtype

    def read(self, path: str, layer: int | None) -> np.ndarray:
        """The whole array, or one layer of a stacked one. Raises ValueError when it is damaged."""
        array, held = self._open(path), self._rows(path)
        rows = array if layer is None else array[layer if held is None else held.index(layer)]
        values = np.empty(rows.shape, array.dtype.numpy_dtype)
        try:
            for block in _blocks(array, layer):
                values[block] = rows[block].read().result()
            return values
        except ValueError as error:
            place = path if layer is None else f"{path}, layer {layer},"
            raise ValueError(f"could not read {place} in {self._state}: {_first_line(error)}") from error

    def _rows(self, path: str) -> Sequence[int] | None:
        return self._rows_of.get(path, self._all_rows)


class LayerWriter:
    """Writes a state folder that holds `params` and nothing else, array by array and layer by layer."""

    def __init__(self, state: epath.Path, arrays: list[StackedArray]):
        state.mkdir(parents=True)
        self._arrays = {array.path: array for array in arrays}
        self._open = functools.cache(lambda path: _open_array(state, path, _created(self._arrays[path])))
        entries = dict(_metadata(array) for array in arrays)
        metadata: Mapping[str, Any] = {"tree_metadata": entries, "use_ocdbt": True, "use_zarr3": True}
        metadata = {**metadata, "store_array_data_equal_to_fill_value": True, "custom_metadata": None}
        (state / "_METADATA").write_text(json.dumps(metadata), encoding="utf-8")

    def write(self, path: str, layer: int | None, values: np.ndarray) -> None:
        """Writes the whole array, or one layer of a stacked one; returns when it is on disk."""
        array, layers = self._open(path), self._arrays[path].layers
        rows = array if layers is None or layer is None else array[layers.index(layer)]
        for block in _blocks(array, layer):
            rows[block].write(values[block]).result()


def _blocks(array: Any, layer: int | None) -> Iterator[tuple[slice, ...]]:
    """The chunks of an array, or of a layer of it, one after another: TensorStore would hold all of them at once."""
    skipped = 0 if layer is None else 1
    shape, chunk = array.shape[skipped:], array.chunk_layout.read_chunk.shape[skipped:]
    starts = [range(0, size, step) for size, step in zip(shape, chunk, strict=True)]
    for start in itertools.product(*starts):
        yield tuple(slice(first, first + step) for first, step in zip(start, chunk, strict=True))


def _open_array(state: epath.Path, path: str, mode: dict[str, Any]) -> Any:
    store = {"driver": "ocdbt", "base": f"{url_of(state)}/", "path": f"params.{path.replace('/', '.')}/"}
    # Whether and when the disk must have everything is for the caller to say, not for every chunk.
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": store, "context": {"file_io_sync": False}}
    try:
        return tensorstore.open(spec | mode).result()
    except ValueError as error:
        raise ValueError(f"could not open {path} in {state}: {_first_line(error)}") from error


def _first_line(error: ValueError) -> str:
    return str(error).splitlines()[0][:300]


def _created(array: StackedArray) -> dict[str, Any]:
    chunk = _chunk_shape(array)
    metadata = {
        "shape": array.shape,
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }
    # Zeros are written too: a chunk that is not there is a chunk that was lost.
    return {"metadata": metadata, "create": True, "store_data_equal_to_fill_value": True}


def _chunk_shape(array: StackedArray) -> list[int]:
    """One layer, its largest dims halved until a chunk is small enough."""
    chunk = list(array.shape)
    if array.in_layers:
        chunk[0] = 1
    while math.prod(chunk) * array.dtype.itemsize > MAX_CHUNK_BYTES:
        largest = chunk.index(max(chunk))
        chunk[largest] = -(-chunk[largest] // 2)
    return chunk


def _metadata(array: StackedArray) -> tuple[str, dict[str, Any]]:
    """An array's entry in `_METADATA`."""
    keys = ("params", *array.path.split("/"))
    described = {"value_type": _ARRAY_TYPE, "skip_deserialize": False, "write_shape": list(array.shape)}
    return str(keys), {
        "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in keys],
        "value_metadata": described,
    }
