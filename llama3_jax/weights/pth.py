"""Reads `torch.save` files without torch, and without running what they say.

A .pth is a zip archive, uncompressed, of a pickle that describes the tensors and one member per storage. The pickle is
a program; this unpickler knows the few names that plain tensors need and refuses any other, so nothing that the file
names is run. Tensors become places in the file (`StoredTensor`), which are mapped when they are used.
"""

import collections
import os
import pathlib
import pickle
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

from llama3_jax.weights.tensor import DTYPES, StoredTensor

MAX_PICKLE_BYTES = 100_000_000
# The unpickler reports damage in many ways; none of them is a bug of ours.
DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError),
    *(RuntimeError, MemoryError, OSError, struct.error, zlib.error),
)
_STORAGES = {theirs: (name, dtype.itemsize) for name, (dtype, _, theirs) in DTYPES.items()} | {
    "HalfStorage": ("float16", 2),
    "DoubleStorage": ("float64", 8),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "ShortStorage": ("int16", 2),
    "IntStorage": ("int32", 4),
    "LongStorage": ("int64", 8),
    "BoolStorage": ("bool", 1),
}


class _Storage(NamedTuple):
    dtype: str
    itemsize: int
    key: str  # the member of the archive


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(tensor, *_) -> _Tensor:
    return tensor


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
} | {("torch", name): name for name in _STORAGES}


class _Unpickler(pickle.Unpickler):
    """Builds `_Tensor`s; any name outside `_KNOWN` ends it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise ValueError(f"it asks for {module}.{name}, which no plain tensor needs and which is not run")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, *_ = pid
        if kind != "storage" or storage not in _STORAGES:
            raise ValueError(f"it refers to {pid!r}")
        return _Storage(*_STORAGES[storage], str(key))


def read_pth(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Every tensor of a `torch.save`d dict by name; only the description is read.

    Raises ValueError naming the file when it is cut short, is no such archive or asks for code to be run.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = {member.filename: member for member in archive.infolist()}
            folder = _folder(members)
            content = _unpickle(archive, members[f"{folder}/data.pkl"])
            byte_order = archive.read(f"{folder}/byteorder") if f"{folder}/byteorder" in members else b"little"
            if byte_order != b"little":
                raise ValueError(f"its bytes are in {byte_order.decode(errors='replace')} order")
            return {name: _locate(path, file, members, folder, name, tensor) for name, tensor in content.items()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is cut short, or is no file of torch.save: {error}") from error
    except DAMAGE as error:
        raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _folder(members: dict[str, zipfile.ZipInfo]) -> str:
    """The one folder that everything lies in; its name is up to the writer."""
    found = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} members data.pkl, a file of torch.save has one")
    return found[0]


def _unpickle(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> dict[str, Any]:
    if member.file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"its description has {member.file_size:,} bytes")
    with archive.open(member) as file:
        content = _Unpickler(file).load()
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError("it does not hold a dict of tensors")
    return content


def _locate(path, file, members: dict[str, zipfile.ZipInfo], folder: str, name: str, tensor: Any) -> StoredTensor:
    if not isinstance(tensor, _Tensor):
        raise ValueError(f"{name} is no tensor but {type(tensor).__name__}")
    member = members[f"{folder}/data/{tensor.storage.key}"]
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    if min((*tensor.shape, *tensor.strides, tensor.offset), default=0) < 0 or len(tensor.shape) != len(tensor.strides):
        raise ValueError(f"tensor {name} has shape {tensor.shape} and strides {tensor.strides}")
    end = tensor.offset + 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if end * tensor.storage.itemsize > member.file_size and 0 not in tensor.shape:
        raise ValueError(f"tensor {name} of shape {tensor.shape} reaches beyond its {member.file_size:,} bytes")
    start = _data_start(file, member) + tensor.offset * tensor.storage.itemsize
    return StoredTensor(path, name, tensor.storage.dtype, tensor.shape, tensor.strides, start)


def _data_start(file, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin: behind its local header, whose last two fields are lengths."""
    file.seek(member.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    start = member.header_offset + 30 + name_length + extra_length
    if start + member.file_size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{member.filename} reaches beyond the end of the file")
    return start
