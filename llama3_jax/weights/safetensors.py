"""safetensors files: a length, a JSON header, then the tensors' bytes (github.com/huggingface/safetensors).

The package of that name reads a file whole or by slices but writes only what is all in memory, and has no bfloat16 for
numpy; the format is small enough to be written here as a stream. The tests hold it against the package.
"""

import json
import math
import pathlib
import struct

import numpy as np

from llama3_jax.weights.tensor import STORED_DTYPES, FileTensor, StoredTensor, contiguous_strides, name_of, raw_bytes

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_OURS = {theirs: name for name, (_, theirs, _) in STORED_DTYPES.items()}


def read_safetensors(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Every tensor of a file by name; only the header is read.

    Raises ValueError naming the file when it is cut short or its header makes no sense.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path} is not a whole safetensors file: {size:,} bytes, its header alone has {length:,}")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} has a damaged safetensors header ({type(error).__name__}: {error})") from error
    if size != 8 + length + end:
        raise ValueError(f"{path} is cut short or damaged: {size:,} bytes, its header says {8 + length + end:,}")
    return tensors


def _tensor(path: pathlib.Path, name: str, entry: dict, start: int) -> StoredTensor:
    shape = tuple(int(size) for size in entry["shape"])
    first, last = (int(offset) for offset in entry["data_offsets"])
    dtype = _OURS.get(entry["dtype"], str(entry["dtype"]))
    if first < 0 or last < first or min(shape, default=0) < 0:
        raise ValueError(f"tensor {name} has shape {shape} at bytes {first} to {last}")
    if dtype in STORED_DTYPES and last - first != math.prod(shape) * STORED_DTYPES[dtype][0].itemsize:
        raise ValueError(f"tensor {name} of shape {shape} has {last - first} bytes")
    return StoredTensor(path, name, dtype, shape, contiguous_strides(shape), start + first)


class SafetensorsWriter:
    """A `TensorWriter` of one safetensors file."""

    def __init__(self, path: pathlib.Path, tensors: list[FileTensor]):
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in tensors:
            start, end = end, end + tensor.num_bytes
            dtype = STORED_DTYPES[name_of(tensor.dtype)][1]
            header[tensor.name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def append(self, array: np.ndarray) -> None:
        """See `TensorWriter`."""
        self._file.write(raw_bytes(array))

    def close(self) -> None:
        """See `TensorWriter`."""
        self._file.close()
