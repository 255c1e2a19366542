"""What every format of weights offers: a source to read from, a plan of files, a sink to write to."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.model.convert import Slot
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.weights.named import PlannedFile

T = TypeVar("T")
GIGABYTE = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a format may need to be told."""

    step: int | None = None  # of our checkpoints; None takes what `llama3 generate` would
    rope_factor: float | None = None  # of Meta's weights, where nothing else says it
    shards: int = 1  # tensor-parallel shards of Meta's weights
    file_gb: float = 5.0  # most bytes of tensors in one Hugging Face file

    def __post_init__(self):
        if self.shards < 1 or self.file_gb <= 0:
            raise ValueError(f"shards and file_gb must be positive, got {self.shards} and {self.file_gb}")


class Source(Protocol):
    """Weights that can be read one array at a time."""

    @property
    def config(self) -> LlamaConfig:
        """The shape of the model."""
        ...

    @property
    def quantized(self) -> str | None:
        """The grid of the rows that feed-forward layers are stored in; `slots` with it are the arrays there are."""
        ...

    def dtype(self, slot: Slot) -> np.dtype:
        """The dtype an array is stored in."""
        ...

    def num_bytes(self, slot: Slot) -> int:
        """Bytes to read for an array."""
        ...

    def read(self, slot: Slot) -> np.ndarray:
        """Our array, without N, in the dtype it is stored in."""
        ...


class Sink(Protocol):
    """Takes the arrays of a plan in its order."""

    def write(self, slot: Slot, array: np.ndarray) -> None:
        """Converts our array to the planned dtype and writes it."""
        ...

    def close(self) -> None:
        """Lets go of everything, also when not all arrays were written."""
        ...


@dataclasses.dataclass(frozen=True)
class Opened:
    """Weights that were found and checked."""

    source: Source
    tokenizer: pathlib.Path | None  # a file or folder that may hold one


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that is going to be written."""

    config: LlamaConfig
    files: tuple[PlannedFile, ...]
    dtype: str  # the widest of the tensors', quantised rows left out
    origin: str  # the format the weights come from
    tokenizer: Tokenizer | None
    tokenizer_file: pathlib.Path | None
    quantized: str | None = None  # the grid of the feed-forward layers that are written as rows

    @property
    def dtypes(self) -> str:
        """What the weights are written as, in words."""
        return self.dtype if self.quantized is None else f"{self.quantized} and {self.dtype}"


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to keep a model on disk."""

    recognises: Callable[[pathlib.Path], bool]
    open: Callable[[pathlib.Path, Options], Opened]
    plan: Callable[[LlamaConfig, Mapping[Slot, np.dtype], Options], list[PlannedFile]]  # of all these arrays
    begin: Callable[[pathlib.Path, Plan], Sink]  # writes what is not tensors and returns where tensors go
    grids: tuple[str, ...] = ()  # of ops/quant.py, in which it holds feed-forward layers


def read_json(path: pathlib.Path, understand: Callable[[Mapping[str, Any]], T]) -> T:
    """`understand` of a JSON file's content. Raises ValueError naming the file for all that is wrong with it."""
    try:
        return understand(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise ValueError(f"{path} makes no sense as a config ({type(error).__name__}: {error})") from error


def write_json(path: pathlib.Path, content: Any) -> None:
    """A JSON file that people can read."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
