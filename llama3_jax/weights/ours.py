"""Our own checkpoints, as `llama3 generate` and `llama3 evaluate` open them."""

import dataclasses
import itertools
import math
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from llama3_jax.core.config import to_dict
from llama3_jax.core.paths import path_of
from llama3_jax.model.convert import Slot, slots
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.ops.quant import GRIDS
from llama3_jax.train.checkpoint import STATE, Checkpoints
from llama3_jax.train.layer_arrays import LayerReader, LayerWriter, StackedArray
from llama3_jax.train.load import CONVERTED, ConvertedConfig, open_stored
from llama3_jax.weights.format import Format, Opened, Options, Plan
from llama3_jax.weights.named import PlannedFile, PlannedTensor, contiguous, legal_dtypes
from llama3_jax.weights.tensor import FileTensor

STEP = 0
TOKENIZER = "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class CheckpointSource:
    """The parameters of a checkpoint."""

    config: LlamaConfig
    layers: LayerReader
    quantized: str | None = None

    def dtype(self, slot: Slot) -> np.dtype:
        """The dtype an array is stored in."""
        return self.layers.dtype(slot.path)

    def num_bytes(self, slot: Slot) -> int:
        """Bytes to read for an array."""
        return math.prod(slot.shape(self.config)) * self.dtype(slot).itemsize

    def read(self, slot: Slot) -> np.ndarray:
        """Our array, without N, in the dtype it is stored in."""
        return self.layers.read(slot.path, slot.layer)


def _recognises(folder: pathlib.Path) -> bool:
    return any((folder / name).is_dir() for name in ("final", "checkpoints")) or any(folder.glob(f"*/{STATE}"))


def _open(folder: pathlib.Path, options: Options) -> Opened:
    stored = open_stored(str(folder), options.step)
    source = CheckpointSource(stored.model, stored.layers(), stored.quantized)
    _check(source, f"{stored.folder}/{stored.step}")
    return Opened(source, pathlib.Path(stored.tokenizer) if stored.tokenizer else None)


def _check(source: CheckpointSource, folder: str) -> None:
    wanted = dict(_by_path(slots(source.config, source.quantized)))
    found = set(source.layers.paths())
    if found != wanted.keys():
        odd = sorted(found ^ wanted.keys())[0]
        raise ValueError(f"{folder} {'has no' if odd in wanted else 'has an unknown'} array {odd}")
    for path, of_path in wanted.items():
        shape = _stacked_shape(of_path, source.config)
        if source.layers.shape(path) != shape:
            found_shape = source.layers.shape(path)
            raise ValueError(f"array {path} in {folder} has shape {found_shape}; its config asks for {shape}")
        dtype, legal = source.layers.dtype(path).name, legal_dtypes(of_path[0], source.quantized)
        if dtype not in legal:
            raise ValueError(f"array {path} in {folder} is {dtype}; only {' and '.join(legal)} can be converted")


def _by_path(of_model: Iterable[Slot]) -> Iterator[tuple[str, list[Slot]]]:
    """Slots that are rows of one array, in the order of the layers."""
    for path, group in itertools.groupby(sorted(of_model, key=lambda slot: slot.path), lambda slot: slot.path):
        yield path, list(group)


def _stacked_shape(of_path: Sequence[Slot], config: LlamaConfig) -> tuple[int, ...]:
    stack = () if of_path[0].layer is None else (len(of_path),)
    return (*stack, *of_path[0].shape(config))


def _arrays(config: LlamaConfig, dtypes: Mapping[Slot, np.dtype]) -> list[StackedArray]:
    """The arrays of a checkpoint, layers stacked. Raises ValueError when the layers of one differ in dtype."""
    arrays = []
    for path, of_path in _by_path(dtypes):
        names = {dtypes[slot] for slot in of_path}
        if len(names) > 1:
            raise ValueError(f"the layers of {path} have different dtypes; choose one with --dtype")
        layers = tuple(slot.layer for slot in of_path if slot.layer is not None) or None
        arrays.append(StackedArray(path, _stacked_shape(of_path, config), names.pop(), layers))
    return arrays


def _plan(config: LlamaConfig, dtypes: Mapping[Slot, np.dtype], options: Options) -> list[PlannedFile]:
    """A checkpoint has no file per array, but bytes per array are what one wants to know."""
    del options
    files = []
    for array in _arrays(config, dtypes):
        of_path = [slot for slot in dtypes if slot.path == array.path]
        tensors = [PlannedTensor(slot, FileTensor(slot.path, array.dtype, slot.shape(config))) for slot in of_path]
        files.append(PlannedFile(f"{STEP}/{STATE}/params/{array.path}", tuple(tensors)))
    return files


class CheckpointSink:
    """Writes a checkpoint layer by layer."""

    def __init__(self, folder: pathlib.Path, plan: Plan):
        self._dtypes = {planned.slot: planned.tensor.dtype for file in plan.files for planned in file.tensors}
        self._writer = LayerWriter(path_of(str(folder)), _arrays(plan.config, self._dtypes))

    def write(self, slot: Slot, array: np.ndarray) -> None:
        """See `Sink`."""
        self._writer.write(slot.path, slot.layer, contiguous(array, self._dtypes[slot]))

    def close(self) -> None:
        """See `Sink`; every layer is on its way to the disk when `write` returns."""


def _begin(folder: pathlib.Path, plan: Plan) -> CheckpointSink:
    """The frame of the step is Orbax's own, around one small array that gives way to the model's."""
    if plan.tokenizer is not None:
        plan.tokenizer.save(folder / TOKENIZER)
    checkpoints = Checkpoints(str(folder))
    checkpoints.save(STEP, {"params": jnp.zeros(1)}, _run(plan))
    checkpoints.close()
    state = folder / str(STEP) / STATE
    shutil.rmtree(state)
    return CheckpointSink(state, plan)


def _run(plan: Plan) -> dict:
    converted = ConvertedConfig(
        model=plan.config,
        compute=ComputeConfig(param_dtype=plan.dtype, compute_dtype=plan.dtype, attention="auto"),
        tokenizer=TOKENIZER if plan.tokenizer else None,
        source=plan.origin,
        quantized=plan.quantized,
    )
    return {
        "step": STEP,
        "tokens": 0,
        "sequence_length": min(plan.config.max_length, 8192),
        "fingerprints": {"tokenizer": plan.tokenizer.fingerprint if plan.tokenizer else None},
        CONVERTED: to_dict(converted),
    }


FORMAT = Format(_recognises, _open, _plan, _begin, grids=tuple(GRIDS))
