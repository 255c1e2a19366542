"""Writes files that `torch.load(weights_only=True, mmap=True)` reads, without torch, one tensor after another.

The description comes first: it says how long each storage is, and the archive gets them in that order. Storages start
at multiples of 64 bytes, as torch's own do. Tensors that share their bytes are stored once, as torch does it.
"""

import pathlib
import pickle
import struct
import zipfile

import numpy as np

from llama3_jax.weights.tensor import DTYPES, FileTensor, contiguous_strides, name_of, raw_bytes

ALIGNMENT = 64
FOLDER = "archive"
_ZIP64_FIELD_BYTES = 20  # what zipfile adds to the extra field of a member that may be large
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same weights make the same file


class PthWriter:
    """A `TensorWriter` of one .pth file."""

    def __init__(self, path: pathlib.Path, tensors: list[FileTensor]):
        stored = [tensor.name for tensor in tensors if not tensor.same_as]
        self._keys = {name: str(number) for number, name in enumerate(stored)}
        self._left = iter(self._keys.values())
        self._file = path.open("wb")
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._member("data.pkl", _pickle(tensors, self._keys))
        self._member("byteorder", b"little")

    def append(self, array: np.ndarray) -> None:
        """See `TensorWriter`."""
        self._member(f"data/{next(self._left)}", raw_bytes(array))

    def close(self) -> None:
        """See `TensorWriter`."""
        with self._file, self._archive:
            self._member("version", b"3\n")

    def _member(self, name: str, data: bytes | memoryview) -> None:
        """Adds a member whose bytes start at a multiple of ALIGNMENT."""
        member = zipfile.ZipInfo(f"{FOLDER}/{name}", _EPOCH)
        start = self._file.tell() + 30 + len(member.filename) + 4 + _ZIP64_FIELD_BYTES
        padding = -start % ALIGNMENT
        member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        with self._archive.open(member, "w", force_zip64=True) as file:
            file.write(data)


def _pickle(tensors: list[FileTensor], keys: dict[str, str]) -> bytes:
    """The pickle of an `OrderedDict` of tensors, written out opcode by opcode: torch's names are not imported here."""
    parts = [pickle.PROTO, b"\x02", _global("collections", "OrderedDict"), pickle.EMPTY_TUPLE, pickle.REDUCE]
    parts.append(pickle.MARK)
    for tensor in tensors:
        parts += [_text(tensor.name), _tensor(tensor, keys[tensor.same_as or tensor.name])]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _tensor(tensor: FileTensor, key: str) -> bytes:
    """`torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`."""
    storage = _global("torch", DTYPES[name_of(tensor.dtype)][2])
    count = int(np.prod(tensor.shape, dtype=np.int64))
    persistent_id = _tuple(_text("storage"), storage, _text(key), _text("cpu"), _int(count)) + pickle.BINPERSID
    shape, strides = (_tuple(*map(_int, sizes)) for sizes in (tensor.shape, contiguous_strides(tensor.shape)))
    no_hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = _tuple(persistent_id, _int(0), shape, strides, pickle.NEWFALSE, no_hooks)
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()


def _int(number: int) -> bytes:
    if number < 2**31:
        return pickle.BININT + struct.pack("<i", number)
    encoded = pickle.encode_long(number)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
