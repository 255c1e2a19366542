"""Weights from one format into another, one array at a time.

Memory: beyond the program itself, at most `COPIES` times the largest array of one layer (or embedding, or head) in the
wider of the two dtypes, and `FIXED_BYTES`. The copies are the part of the file that is mapped, the array put together
from shards or chunks, and the array in the other order and dtype; the rest is Orbax, TensorStore's threads and chunks.
The number of layers does not enter.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Callable

import numpy as np
import tqdm

from llama3_jax.data.tokenizer import Tokenizer, find_tokenizer
from llama3_jax.model.convert import MATRIX_OF_ROWS, Slot, slots
from llama3_jax.model.llama import HERD, LlamaConfig
from llama3_jax.ops.quant import GRIDS
from llama3_jax.weights import hugging_face, meta, ours
from llama3_jax.weights.format import Format, Opened, Options, Plan, Source
from llama3_jax.weights.meta_params import REFERENCE_SCALING
from llama3_jax.weights.output import check_output, whole_folder
from llama3_jax.weights.quantized import MultipliedOut, QuantizedSource
from llama3_jax.weights.tensor import DTYPES

FORMATS: dict[str, Format] = {
    "hugging_face": hugging_face.FORMAT,
    "meta": meta.FORMAT,
    "llama3_jax": ours.FORMAT,
}
KEEP, NONE = "keep", "none"
QUANTIZE = (KEEP, NONE, *GRIDS)
COPIES, FIXED_BYTES = 3, 256 * 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A conversion as it is asked for."""

    input: str
    output: str | None
    to: str
    dtype: str = KEEP
    quantize: str = KEEP  # one of QUANTIZE; KEEP multiplies out where the format cannot hold what there is
    tokenizer: str | None = None
    overwrite: bool = False
    options: Options = Options()

    def __post_init__(self):
        choices = (
            ("to", self.to, FORMATS),
            ("dtype", self.dtype, (KEEP, *DTYPES)),
            ("quantize", self.quantize, QUANTIZE),
        )
        for name, value, known in choices:
            if value not in known:
                raise ValueError(f"{name} is {value!r}; there are {', '.join(known)}")
        if self.output is not None:
            source, target = pathlib.Path(self.input).resolve(), pathlib.Path(self.output).resolve()
            if source.is_relative_to(target) or target.is_relative_to(source):
                raise ValueError(f"the output {self.output} and the input {self.input} lie in each other")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion that can start: weights found and checked, every file planned."""

    source: Source
    plan: Plan
    notes: tuple[str, ...]  # what the user should know

    @property
    def num_bytes(self) -> int:
        """Bytes of tensors to write."""
        return sum(file.num_bytes for file in self.plan.files)

    @property
    def _slots(self) -> list[Slot]:
        return slots(self.plan.config, self.plan.quantized)

    @property
    def source_bytes(self) -> int:
        """Bytes of tensors to read."""
        return sum(map(self.source.num_bytes, self._slots))

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest array of one layer, in the wider of the two dtypes."""
        planned = [planned for file in self.plan.files for planned in file.tensors]
        written = {p.slot: int(np.prod(p.slot.shape(self.plan.config))) * p.tensor.dtype.itemsize for p in planned}
        return max(max(num_bytes, self.source.num_bytes(slot)) for slot, num_bytes in written.items())

    @property
    def peak_bytes(self) -> int:
        """Most memory it takes, beyond what the program takes before it starts."""
        return COPIES * self.largest_bytes + FIXED_BYTES


def prepare(request: Request) -> Conversion:
    """Finds and checks the weights and plans the files; writes nothing.

    Raises ValueError, naming file and tensor, for weights that are incomplete, damaged, of the wrong shape or not
    Llama 3's, and for what the other format cannot hold.
    """
    folder = pathlib.Path(request.input)
    origin = recognise(folder)
    opened = FORMATS[origin].open(folder, request.options)
    return _planned(request, origin, opened)


def prepare_named(request: Request) -> Conversion:
    """As `prepare`, for a member of the herd by its name in HERD, in bfloat16: to plan without having the weights."""
    return _planned(request, "released", Opened(_Described(HERD[request.input]), None))


def _planned(request: Request, origin: str, opened: Opened) -> Conversion:
    source, grid_notes = _in_grid(request, opened.source)
    config, grid = source.config, source.quantized
    dtypes = {slot: _dtype(source, slot, request.dtype) for slot in slots(config, grid)}
    tokenizer, file, notes = _find_tokenizer(request, opened, config)
    files = FORMATS[request.to].plan(config, dtypes, request.options)
    plain = {dtype for slot, dtype in dtypes.items() if slot.path not in MATRIX_OF_ROWS}
    widest = max(plain, key=lambda dtype: dtype.itemsize)
    plan = Plan(config, tuple(files), widest.name, origin, tokenizer, file, grid)
    return Conversion(source, plan, (*notes, *grid_notes, *_rope_notes(request, config)))


def _in_grid(request: Request, source: Source) -> tuple[Source, list[str]]:
    """The weights quantised as asked for, and what the user should know of it."""
    held, found, notes = FORMATS[request.to].grids, source.quantized, []
    wanted = None if request.quantize == NONE else request.quantize
    if wanted == KEEP:
        wanted = found if found in held else None
        if found != wanted:
            notes = [f"{request.to} holds no {found} weights: those of the feed-forward layers are multiplied out"]
    if wanted is not None and wanted not in held:
        able = [name for name, format_ in FORMATS.items() if wanted in format_.grids]
        raise ValueError(f"{wanted} weights are not written as {request.to}; {' and '.join(able)} can hold them")
    if wanted == found:
        return source, notes
    if wanted is None:
        return MultipliedOut(source, DTYPES["bfloat16" if request.dtype == KEEP else request.dtype][0]), notes
    return QuantizedSource(source, wanted), notes


def recognise(folder: pathlib.Path) -> str:
    """The format of a folder: a key of FORMATS. Raises ValueError when it looks like none of them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    for name, format_ in FORMATS.items():
        if format_.recognises(folder):
            return name
    raise ValueError(
        f"{folder} holds no weights that are known: neither *.safetensors (Hugging Face), nor params.json and "
        f"consolidated.*.pth (Meta), nor a checkpoint of llama3_jax"
    )


def _dtype(source: Source, slot: Slot, wanted: str) -> np.dtype:
    return source.dtype(slot) if wanted == KEEP or slot.path in MATRIX_OF_ROWS else DTYPES[wanted][0]


def _find_tokenizer(
    request: Request, opened: Opened, config: LlamaConfig
) -> tuple[Tokenizer | None, pathlib.Path | None, list[str]]:
    """The tokenizer that was given, or the one with the weights if there is one; why not, when it cannot be taken."""
    place = pathlib.Path(request.tokenizer) if request.tokenizer else opened.tokenizer
    try:
        if place is None:
            raise FileNotFoundError("there is none with the weights")
        file = find_tokenizer(place)
        tokenizer = Tokenizer.load(file)
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(f"{file} has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    except (ValueError, OSError) as error:
        if request.tokenizer:
            raise
        return None, None, [f"no tokenizer is written: {error}; give one with --tokenizer"]
    return tokenizer, file, []


def _rope_notes(request: Request, config: LlamaConfig) -> list[str]:
    scaling = config.rope_scaling
    if request.to != "meta" or scaling is None or scaling == REFERENCE_SCALING:
        return []
    return [
        f"the rotary scaling factor {scaling.factor:g} is written to params.json as rope_scaling_factor; Meta's "
        f"reference code does not read it and computes with 8, which shows past {scaling.original_length} positions"
    ]


def convert(request: Request, conversion: Conversion, say: Callable[[str], None] = print) -> None:
    """Writes the planned files. The output folder appears when all of it is written, and not before.

    Raises ValueError when the output folder holds something or the disk is too full, before anything is written.
    """
    assert request.output is not None
    folder = pathlib.Path(request.output)
    check_output(folder, request.overwrite)
    _check_space(folder, conversion.num_bytes)
    plan = conversion.plan
    with whole_folder(folder, request.overwrite) as partial:
        sink = FORMATS[request.to].begin(partial, plan)
        with contextlib.closing(sink), _progress(conversion) as progress:
            for slot in slots(plan.config, plan.quantized):
                sink.write(slot, conversion.source.read(slot))
                progress.update(conversion.source.num_bytes(slot))
    say(f"{folder}: {conversion.num_bytes:,} bytes of {plan.dtypes} weights")


def _progress(conversion: Conversion) -> tqdm.tqdm:
    total, shown = conversion.source_bytes, sys.stderr.isatty()
    return tqdm.tqdm(total=total, unit="B", unit_scale=True, desc="convert", disable=not shown)


def _check_space(folder: pathlib.Path, num_bytes: int) -> None:
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise ValueError(f"{folder} needs {num_bytes:,} bytes, the disk has {free:,} left")


@dataclasses.dataclass(frozen=True)
class _Described:
    """Weights that are not there: a shape, in bfloat16."""

    config: LlamaConfig
    quantized: str | None = None

    def dtype(self, slot: Slot) -> np.dtype:
        del slot
        return DTYPES["bfloat16"][0]

    def num_bytes(self, slot: Slot) -> int:
        return 2 * int(np.prod(slot.shape(self.config)))

    def read(self, slot: Slot) -> np.ndarray:
        raise ValueError(f"there is no {slot.path} to read: only the shape of this model is known")
