"""Tensors in files: where one lies, and the dtypes that are converted.

Nothing here reads a tensor before it is asked for, and then the file is mapped into memory for as long as the array is
in use, so that the host holds what it works on and no more.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from llama3_jax.ops.quant import GRIDS

# our name -> (numpy dtype, name in safetensors files, name of the storage class in .pth files)
DTYPES: dict[str, tuple[np.dtype, str, str]] = {
    "bfloat16": (np.dtype(jnp.bfloat16), "BF16", "BFloat16Storage"),
    "float32": (np.dtype(np.float32), "F32", "FloatStorage"),
}
# Of quantised rows: read and written as they are, and never asked for. No .pth file of ours has them.
ROW_DTYPES = {GRIDS["fp8"].dtype.name: (GRIDS["fp8"].dtype, "F8_E4M3", "")}
STORED_DTYPES = DTYPES | ROW_DTYPES


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor inside a file. `strides` are in elements; `dtype` is ours where it is one of STORED_DTYPES."""

    file: pathlib.Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int  # in bytes, from the start of the file

    def open(self) -> np.ndarray:
        """The tensor, mapped from its file and read only where it is looked at. ValueError for another dtype.

        The array keeps the mapping alive; let go of it to give the memory back.
        """
        dtype = self.numpy_dtype()
        span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        flat = np.memmap(self.file, np.uint8, "r", self.offset, (span * dtype.itemsize,)).view(dtype)
        strides = [stride * dtype.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)

    def numpy_dtype(self) -> np.dtype:
        """The dtype for numpy. Raises ValueError naming the tensor when it is not one of STORED_DTYPES."""
        if self.dtype not in STORED_DTYPES:
            raise ValueError(f"{self._in_words}; only {' and '.join(DTYPES)} can be converted")
        return STORED_DTYPES[self.dtype][0]

    def check_dtype(self, names: Collection[str]) -> None:
        """Raises ValueError naming the tensor when its dtype is none of these."""
        if self.dtype not in names:
            raise ValueError(f"{self._in_words}; only {' and '.join(names)} can be converted")

    @property
    def _in_words(self) -> str:
        return f"tensor {self.name} in {self.file} is {self.dtype}"


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor of a file to be written. `same_as` names an earlier tensor of the file whose bytes it shares."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    same_as: str | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of its data in the file."""
        return 0 if self.same_as else int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class TensorWriter(Protocol):
    """Writes one file front to back: every tensor announced that has bytes of its own, in that order, then `close`."""

    def append(self, array: np.ndarray) -> None:
        """Writes the next tensor, contiguous and of the dtype and shape announced."""
        ...

    def close(self) -> None:
        """Completes the file."""
        ...


OpenWriter = Callable[[pathlib.Path, list[FileTensor]], TensorWriter]


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def name_of(dtype: np.dtype) -> str:
    """Our name of a dtype of STORED_DTYPES."""
    return dtype.name
