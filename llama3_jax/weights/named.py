"""Reading and writing weights by name: what Hugging Face's folders and Meta's have in common.

A `Scheme` (model/convert.py) says what each of our arrays is called and how its matrix lies. A folder is a list of
shards, each a dict of tensors; Meta's shards hold a part of every split matrix, Hugging Face has one shard in any
number of files.
"""

import contextlib
import dataclasses
import fnmatch
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from llama3_jax.model.convert import MATRIX_OF_ROWS, SCALES, Scheme, Slot, Spelling, slots, to_ours, to_theirs
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.ops.quant import GRIDS
from llama3_jax.weights.tensor import DTYPES, FileTensor, OpenWriter, StoredTensor, TensorWriter

Shard = Mapping[str, StoredTensor]
TILE = (512, 64)
COMPARED_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class NamedSource:
    """The weights of a folder, checked against the config; `read` is the only thing that touches their bytes."""

    config: LlamaConfig
    scheme: Scheme
    shards: Sequence[Shard]
    quantized: str | None = None

    def dtype(self, slot: Slot) -> np.dtype:
        """The dtype an array is stored in."""
        return self.shards[0][slot.named(self.scheme[slot.path])].numpy_dtype()

    def num_bytes(self, slot: Slot) -> int:
        """Bytes to read for an array."""
        return math.prod(slot.shape(self.config)) * self.dtype(slot).itemsize

    def read(self, slot: Slot) -> np.ndarray:
        """Our array, without N, in the dtype it is stored in; possibly a view of the file."""
        spelling = self.scheme[slot.path]
        name = slot.named(spelling)
        return to_ours(whole_matrix(self.shards, name, spelling), spelling, slot, self.config)


def whole_matrix(shards: Sequence[Shard], name: str, spelling: Spelling) -> np.ndarray:
    """A matrix of which every shard has a part; a view of the file when there is one shard, or when it is not split."""
    if spelling.split is None or len(shards) == 1:
        return shards[0][name].open()
    return np.concatenate([shard[name].open() for shard in shards], axis=spelling.split)


def same_matrix(matrices: tuple[Sequence[StoredTensor], Sequence[StoredTensor]]) -> bool:
    """Whether two matrices, each given shard by shard, are equal bit for bit; nothing is read when they are one."""
    for first, second in zip(*matrices, strict=True):
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            return False
        if (first.file, first.offset, first.strides) == (second.file, second.offset, second.strides):
            continue
        left, right = first.open(), second.open()
        step = max(1, COMPARED_BYTES // max(1, left[:1].nbytes))
        for row in range(0, len(left), step):
            if left[row : row + step].tobytes() != right[row : row + step].tobytes():
                return False
    return True


def check_tensors(source: NamedSource, folder: pathlib.Path, ignored: Iterable[str] = ()) -> None:
    """Raises ValueError naming the first tensor that is missing, unknown, or of another shape or dtype than it must be.

    `ignored` are names, with wildcards, that may be there and are not converted.
    """
    wanted = {slot.named(source.scheme[slot.path]): slot for slot in slots(source.config, source.quantized)}
    for shard in source.shards:
        for name, slot in wanted.items():
            if name not in shard:
                others = ", ".join(sorted({tensor.file.name for tensor in shard.values()})[:3]) or "no tensor file"
                raise ValueError(f"{folder} has no tensor {name} (looked in {others})")
            _check_one(shard[name], part_shape(source.scheme[slot.path], source.config, len(source.shards)))
            shard[name].check_dtype(legal_dtypes(slot, source.quantized))
        for name in shard.keys() - wanted.keys():
            if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored):
                raise ValueError(
                    f"{shard[name].file} has a tensor {name}, which a Llama 3 text model of its config has not"
                )
    for name in wanted:
        dtypes = {shard[name].dtype for shard in source.shards}
        if len(dtypes) > 1:
            raise ValueError(f"tensor {name} is {' and '.join(sorted(dtypes))} in different shards of {folder}")


def _check_one(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"tensor {tensor.name} in {tensor.file} has shape {tensor.shape}; the config asks for {shape}")


def legal_dtypes(slot: Slot, quantized: str | None) -> tuple[str, ...]:
    """Names of the dtypes that an array may be stored in, `quantized` being the grid of rows."""
    if quantized is None or slot.path not in MATRIX_OF_ROWS:
        return tuple(DTYPES)
    return ("float32",) if slot.path in SCALES else (GRIDS[quantized].dtype.name,)


def part_shape(spelling: Spelling, config: LlamaConfig, num_shards: int) -> tuple[int, ...]:
    """Shape of a shard's part of a matrix. Raises ValueError when it does not divide."""
    shape = list(spelling.shape(config))
    if spelling.split is not None:
        heads = {"H": config.num_heads, "K": config.num_kv_heads}
        whole = next((heads[letter] for letter in spelling.dims if letter in heads), shape[spelling.split])
        if whole % num_shards:
            raise ValueError(f"{num_shards} shards do not divide {spelling.name}: it has {whole} heads or rows")
        shape[spelling.split] //= num_shards
    return tuple(shape)


@dataclasses.dataclass(frozen=True)
class PlannedTensor:
    """A tensor that a file is going to hold: part `shard` of `num_shards` of a slot's matrix."""

    slot: Slot
    tensor: FileTensor
    shard: int = 0
    num_shards: int = 1


@dataclasses.dataclass(frozen=True)
class PlannedFile:
    """A file to be written, with its tensors in order."""

    name: str
    tensors: tuple[PlannedTensor, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors; headers are not counted."""
        return sum(planned.tensor.num_bytes for planned in self.tensors)


class NamedSink:
    """Writes planned files as arrays come, in the order of `slots`; each is open from its first tensor to its last."""

    def __init__(
        self,
        folder: pathlib.Path,
        files: Sequence[PlannedFile],
        config: LlamaConfig,
        scheme: Scheme,
        open_writer: OpenWriter,
    ):
        self._folder, self._config, self._scheme, self._open_writer = folder, config, scheme, open_writer
        self._writers: dict[str, TensorWriter] = {}
        self._places: dict[Slot, list[tuple[PlannedFile, PlannedTensor]]] = {}
        for file in files:
            for planned in file.tensors:
                if not planned.tensor.same_as:
                    self._places.setdefault(planned.slot, []).append((file, planned))
        self._last = {file.name: [p.slot for p in file.tensors if not p.tensor.same_as][-1] for file in files}

    def write(self, slot: Slot, array: np.ndarray) -> None:
        """Converts our array to the scheme and the planned dtype and writes it to every file that has a part of it."""
        spelling = self._scheme[slot.path]
        matrix = to_theirs(array, spelling, slot, self._config)
        for file, planned in self._places[slot]:
            part = matrix
            if spelling.split is not None:
                part = np.split(matrix, planned.num_shards, axis=spelling.split)[planned.shard]
            self._writer(file).append(contiguous(part, planned.tensor.dtype))
            if self._last[file.name] == slot:
                self._writers.pop(file.name).close()

    def close(self) -> None:
        """Lets go of files that are not complete, after a failure."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError, ValueError):
                writer.close()

    def _writer(self, file: PlannedFile) -> TensorWriter:
        if file.name not in self._writers:
            tensors = [planned.tensor for planned in file.tensors]
            self._writers[file.name] = self._open_writer(self._folder / file.name, tensors)
        return self._writers[file.name]


def contiguous(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array row-major and in `dtype`: itself where it is so already, else one copy.

    bfloat16 from float32 rounds to nearest, ties to even. A transposed matrix is copied tile by tile, which numpy does
    not do by itself and which is three to five times as fast.
    """
    if array.flags.c_contiguous:
        return array.astype(dtype, copy=False)
    source = _as_matrix(array)
    target = np.empty(source.shape, dtype)
    for row in range(0, source.shape[0], TILE[0]):
        for column in range(0, source.shape[1], TILE[1]):
            tile = slice(row, row + TILE[0]), slice(column, column + TILE[1])
            target[tile] = source[tile]
    return target.reshape(array.shape)


def _as_matrix(array: np.ndarray) -> np.ndarray:
    """A view of two dims, where the strides permit one, else a copy."""
    for cut in range(1, array.ndim):
        rows = math.prod(array.shape[:cut])
        with contextlib.suppress(ValueError):
            return array.reshape(rows, -1, copy=False)
    return array.reshape(array.shape[0], -1)
