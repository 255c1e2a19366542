"""Tokens on disk: an immutable store of documents, cut into shards, addressed by (shard, token index).

Which shard a document lands in, and where in it, follow from a seeded hash of its tokens alone, so a store is
bit-identical whatever the order its documents came in, and its storage order is already a random order.

Layout under the store's path, every array a TensorStore zarr3 array with a crc32c on each chunk:

    manifest.json                    written last: a folder without one is not a store
    shard-00000/tokens               uint16 when the vocabulary fits, else uint32 [num_tokens]
    shard-00000/document_offsets     int64 [num_documents + 1], the token index where each document starts

A path is a local folder, or a URL that TensorStore knows (`gs://bucket/store`, `s3://bucket/store`, `file:///store`).
Paper section 3.1 (data mix) and 3.2 (documents are packed with attention that does not cross them).
"""

import functools
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorstore as ts

from llama3_jax.data.store_manifest import FORMAT_VERSION, Manifest, ShardInfo, token_dtype

MANIFEST_NAME = "manifest.json"
ARRAY_NAMES = ("tokens", "document_offsets")
# One object holds OBJECT_ELEMENTS; reads inside it are by byte range, one range a chunk. By benchmarks/loader.py chunks
# of 4,096 tokens read 8,192-token rows and lone documents near the best rate; 256K-token chunks are ten times slower.
CHUNK_ELEMENTS = 4096
OBJECT_ELEMENTS = 1 << 24
VERIFY_LEVELS = ("off", "quick", "full")


def _is_url(path: str) -> bool:
    return "://" in path


def _kvstore(path: str, *names: str) -> dict:
    """The TensorStore key-value spec of a folder inside the store at `path`."""
    if _is_url(path):
        return ts.KvStore.Spec("/".join([path.rstrip("/"), *names]) + "/").to_json()
    return {"driver": "file", "path": os.path.join(os.path.abspath(path), *names) + "/"}


def _array_spec(path: str, shard_name: str, array: str) -> dict:
    """A missing chunk is an error, not zeros: hence the two flags, which must be set for writing and for reading."""
    return {
        "driver": "zarr3",
        "kvstore": _kvstore(path, shard_name, array),
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
    }


def _create_array(path: str, shard_name: str, array: str, size: int, dtype: np.dtype) -> ts.TensorStore:
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    chunks = {"chunk_shape": [CHUNK_ELEMENTS], "codecs": codecs, "index_codecs": codecs}
    metadata = {
        "shape": [size],
        "data_type": dtype.name,
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [OBJECT_ELEMENTS]}},
        "codecs": [{"name": "sharding_indexed", "configuration": chunks}],
    }
    spec = {**_array_spec(path, shard_name, array), "metadata": metadata}
    return ts.open(spec, create=True, delete_existing=True).result()


class TokenStoreWriter:
    """Writes one store; use it as a context manager, which commits on success and leaves nothing after a failure.

    Memory: `buffer_bytes` while documents arrive (they are spooled to one file a shard), then, while closing, one
    shard's index (32 bytes a document, twice for the sort) and one object of at most 16.8M tokens (64 MiB). Disk: the
    spool is as large as the store, beside it for a local path, in the system's temporary folder for a URL.

    A local store is written in a hidden sibling folder and renamed at the end. On a URL, where there is no rename, the
    arrays are written in place and the manifest last, so that what an interrupted writer leaves is not a store either.

    Raises ValueError for settings out of range and FileExistsError when there is something at `path` already.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        tokenizer_fingerprint: str,
        vocab_size: int,
        num_shards: int,
        seed: int = 0,
        buffer_bytes: int = 1 << 28,
    ):
        if vocab_size < 1 or num_shards < 1 or buffer_bytes < 1:
            raise ValueError("vocab_size, num_shards and buffer_bytes must be at least 1.")
        if not tokenizer_fingerprint:
            raise ValueError("tokenizer_fingerprint must not be empty: readers check it against their tokenizer.")
        self._path = os.fspath(path).rstrip("/")
        self._refuse_existing()
        self._fingerprint, self._vocab_size = tokenizer_fingerprint, vocab_size
        self._dtype = token_dtype(vocab_size)
        self._hash_key = seed.to_bytes(8, "little", signed=True)
        self._buffer_bytes, self._buffered = buffer_bytes, 0
        self._buffers = [(bytearray(), bytearray()) for _ in range(num_shards)]
        self._num_bytes = [0] * num_shards
        self._root, self._spool = self._make_folders()
        self._open = True

    def _refuse_existing(self) -> None:
        if _is_url(self._path):
            exists = ts.KvStore.open(_kvstore(self._path)).result().read(MANIFEST_NAME).result().state == "value"
        else:
            exists = os.path.lexists(self._path)
        if exists:
            raise FileExistsError(f"{self._path} exists already; a token store is never overwritten, remove it first.")

    def _make_folders(self) -> tuple[str, str]:
        """(where arrays are written, where documents are spooled)."""
        if _is_url(self._path):
            return self._path, tempfile.mkdtemp(prefix="token_store_spool_")
        parent, name = os.path.split(os.path.abspath(self._path))
        root = os.path.join(parent, f".{name}.writing-{uuid.uuid4().hex}")
        spool = os.path.join(root, "spool")
        os.makedirs(spool)
        return root, spool

    def add(self, tokens: np.ndarray, *, num_bytes: int) -> None:
        """Adds one document of integer token ids [T], BOS and EOS included, made from `num_bytes` bytes of text.

        Raises ValueError if it is empty, not one-dimensional integers, or holds an id outside the vocabulary.
        """
        if not self._open:
            raise ValueError(f"The writer of {self._path} is closed.")
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or tokens.size == 0 or tokens.dtype.kind not in "iu":
            raise ValueError(f"A document is a non-empty row of integers, not {tokens.dtype} {tokens.shape}.")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self._vocab_size:
            raise ValueError(f"Token ids {low} to {high} do not fit a vocabulary of {self._vocab_size}.")
        if num_bytes < 0:
            raise ValueError(f"num_bytes is {num_bytes}; it must not be negative.")
        data = tokens.astype(self._dtype.newbyteorder("<")).tobytes()
        digest = hashlib.blake2b(data, digest_size=16, key=self._hash_key).digest()
        shard = int.from_bytes(digest, "big") % len(self._buffers)
        token_buffer, index_buffer = self._buffers[shard]
        token_buffer += data
        index_buffer += digest + tokens.size.to_bytes(8, "little")
        self._num_bytes[shard] += num_bytes
        self._buffered += len(data) + 24
        if self._buffered >= self._buffer_bytes:
            self._flush()

    def _flush(self) -> None:
        for shard, buffers in enumerate(self._buffers):
            for kind, buffer in zip(("tokens", "index"), buffers, strict=True):
                if buffer:
                    with open(os.path.join(self._spool, f"{shard}.{kind}"), "ab") as file:
                        file.write(buffer)
                    buffer.clear()
        self._buffered = 0

    def close(self) -> Manifest:
        """Sorts each shard by content hash, writes it, and commits. Raises ValueError if no document was added."""
        if not self._open:
            raise ValueError(f"The writer of {self._path} is closed.")
        try:
            self._flush()
            shards = tuple(self._write_shard(shard) for shard in range(len(self._buffers)))
            manifest = self._manifest(shards)
            self._refuse_existing()
            store = ts.KvStore.open(_kvstore(self._root)).result()
            shutil.rmtree(self._spool)
            store.write(MANIFEST_NAME, manifest.to_json().encode()).result()
            if self._root != self._path:
                os.rename(self._root, self._path)
        except BaseException:
            self.abort()
            raise
        self._open = False
        return manifest

    def _manifest(self, shards: tuple[ShardInfo, ...]) -> Manifest:
        totals = {f: sum(getattr(s, f) for s in shards) for f in ("num_tokens", "num_documents", "num_bytes")}
        if totals["num_documents"] == 0:
            raise ValueError(f"No document was added to {self._path}; an empty token store is not written.")
        return Manifest(
            format_version=FORMAT_VERSION,
            tokenizer_fingerprint=self._fingerprint,
            vocab_size=self._vocab_size,
            dtype=self._dtype.name,
            shards=shards,
            **totals,
        )

    def _write_shard(self, shard: int) -> ShardInfo:
        index = self._spooled_index(shard)
        order = np.lexsort((index["digest_low"], index["digest_high"]))
        starts = (np.cumsum(index["length"]) - index["length"])[order]
        offsets = np.concatenate([[0], np.cumsum(index["length"][order])]).astype("<i8")
        name, num_tokens = f"shard-{shard:05d}", int(offsets[-1])
        sha256 = hashlib.sha256()
        array = _create_array(self._root, name, "tokens", num_tokens, self._dtype)
        spooled = self._spooled_tokens(shard, num_tokens)
        for first in range(0, num_tokens, OBJECT_ELEMENTS):
            block = _gather(spooled, starts, offsets, first, min(first + OBJECT_ELEMENTS, num_tokens))
            sha256.update(block.data)
            array[first : first + block.size].write(block).result()
        array = _create_array(self._root, name, "document_offsets", offsets.size, np.dtype(np.int64))
        for first in range(0, offsets.size, OBJECT_ELEMENTS):
            block = offsets[first : first + OBJECT_ELEMENTS]
            array[first : first + block.size].write(block).result()
        sha256.update(offsets.data)
        return ShardInfo(
            name=name,
            num_tokens=num_tokens,
            num_documents=int(index.size),
            num_bytes=self._num_bytes[shard],
            sha256=sha256.hexdigest(),
        )

    def _spooled_index(self, shard: int) -> np.ndarray:
        dtype = np.dtype([("digest_high", ">u8"), ("digest_low", ">u8"), ("length", "<i8")])
        path = os.path.join(self._spool, f"{shard}.index")
        return np.fromfile(path, dtype) if os.path.exists(path) else np.empty(0, dtype)

    def _spooled_tokens(self, shard: int, num_tokens: int) -> np.ndarray:
        dtype = self._dtype.newbyteorder("<")
        if num_tokens == 0:
            return np.empty(0, dtype)
        return np.memmap(os.path.join(self._spool, f"{shard}.tokens"), dtype, mode="r", shape=(num_tokens,))

    def abort(self) -> None:
        """Drops everything written so far. On a URL the arrays stay, without a manifest, for a later writer."""
        if self._open:
            self._open = False
            shutil.rmtree(self._spool, ignore_errors=True)
            if self._root != self._path:
                shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> "TokenStoreWriter":
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is not None:
            self.abort()
        elif self._open:
            self.close()


def _gather(spooled: np.ndarray, starts: np.ndarray, offsets: np.ndarray, first: int, last: int) -> np.ndarray:
    """Tokens [first, last) of a shard, whose document d is `spooled` from starts[d] and lies at offsets[d]."""
    low = int(np.searchsorted(offsets, first, side="right")) - 1
    high = int(np.searchsorted(offsets, last, side="left"))
    bounds = np.clip(offsets[low : high + 1], first, last)
    source = starts[low:high] + bounds[:-1] - offsets[low:high]
    block = np.empty(last - first, spooled.dtype)
    for begin, at, end in zip(source.tolist(), bounds[:-1] - first, bounds[1:] - first, strict=True):
        block[at:end] = spooled[begin : begin + end - at]
    return block


class TokenStore:
    """A store opened for reading. Cheap to pickle: a copy carries path and manifest, and opens its arrays anew.

    `cache_bytes` bounds TensorStore's cache of chunks and of each object's index; `handles` and `tables` bound the
    number of open arrays and of document tables kept (8 bytes a document of one shard each).
    """

    def __init__(
        self, path: str, manifest: Manifest, *, cache_bytes: int = 1 << 26, handles: int = 64, tables: int = 2
    ):
        self.path, self.manifest = path, manifest
        self._settings = {"cache_bytes": cache_bytes, "handles": handles, "tables": tables}
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
        self._array = functools.lru_cache(handles)(self._open_array)
        self._offsets = functools.lru_cache(tables)(self._read_offsets)

    def __reduce__(self):
        return functools.partial(TokenStore, **self._settings), (self.path, self.manifest)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike,
        *,
        expect_fingerprint: str | None = None,
        expect_vocab_size: int | None = None,
        **limits: int,
    ) -> "TokenStore":
        """Opens the store at `path`; `limits` as in the class.

        Raises FileNotFoundError where there is no committed store, and ValueError for a damaged manifest, another
        tokenizer than `expect_fingerprint`, or another vocabulary size than `expect_vocab_size`.
        """
        path = os.fspath(path).rstrip("/")
        origin = f"{path}/{MANIFEST_NAME}"
        found = ts.KvStore.open(_kvstore(path)).result().read(MANIFEST_NAME).result()
        if found.state != "value":
            raise FileNotFoundError(f"{origin} does not exist: no token store was committed there.")
        manifest = Manifest.from_json(found.value.decode(errors="replace"), origin)
        if expect_fingerprint not in (None, manifest.tokenizer_fingerprint):
            raise ValueError(
                f"{origin}: tokens were made by tokenizer {manifest.tokenizer_fingerprint}, not {expect_fingerprint}."
            )
        if expect_vocab_size not in (None, manifest.vocab_size):
            raise ValueError(f"{origin}: the vocabulary has {manifest.vocab_size} entries, not {expect_vocab_size}.")
        return cls(path, manifest, **limits)

    @property
    def num_tokens(self) -> int:
        return self.manifest.num_tokens

    @property
    def shard_tokens(self) -> np.ndarray:
        """int64 [num_shards]: tokens in each shard."""
        return np.array([shard.num_tokens for shard in self.manifest.shards], np.int64)

    def read(self, shard: int, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of one shard, in the store's dtype."""
        return self.start_reads(np.array([shard]), np.array([start]), np.array([stop]))()

    def start_reads(self, shards: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Callable[[], np.ndarray]:
        """Starts reading the ranges [starts[i], stops[i]) of shards[i]; the returned call waits and joins them.

        All ranges go out as one batch, so that TensorStore may join neighbours into one request. Raises IndexError for
        a range outside its shard, FileNotFoundError for a missing array or chunk and ValueError for a corrupt one.
        """
        if np.any(starts < 0) or np.any(starts > stops) or np.any(stops > self.shard_tokens[shards]):
            raise IndexError(f"{self.path}: asked for tokens outside a shard.")
        shard_list = shards.tolist()
        arrays = {shard: self._array(shard, "tokens") for shard in set(shard_list)}
        with ts.Batch() as batch:
            futures = [
                arrays[shard][start:stop].read(batch=batch)
                for shard, start, stop in zip(shard_list, starts.tolist(), stops.tolist(), strict=True)
            ]
        dtype = token_dtype(self.manifest.vocab_size)

        def wait() -> np.ndarray:
            parts = [self._result(future, shard, "tokens") for shard, future in zip(shard_list, futures, strict=True)]
            return np.concatenate(parts) if parts else np.empty(0, dtype)

        return wait

    def document_offsets(self, shard: int) -> np.ndarray:
        """int64 [num_documents + 1], read-only: where in the shard each document starts; the last entry is its size."""
        return self._offsets(shard)

    def document_lengths(self, shard: int) -> np.ndarray:
        """int64 [num_documents]: tokens in each document of the shard, in storage order."""
        return np.diff(self._offsets(shard))

    def verify(self, level: str) -> None:
        """Checks the store against its manifest.

        "off" does nothing; "quick" checks that every array exists with its shape and dtype; "full" reads and hashes
        every shard. Raises FileNotFoundError or ValueError naming the file, or ValueError for an unknown level.
        """
        if level not in VERIFY_LEVELS:
            raise ValueError(f"verify level {level!r} is not one of {', '.join(VERIFY_LEVELS)}.")
        shards = range(len(self.manifest.shards)) if level != "off" else ()
        with ThreadPoolExecutor(16) as pool:
            for array in ARRAY_NAMES:
                list(pool.map(self._open_array, shards, [array] * len(shards)))
        for shard in shards if level == "full" else ():
            if self._sha256(shard) != self.manifest.shards[shard].sha256:
                raise ValueError(f"{self._origin(shard)} does not hash to what the manifest says.")

    def _sha256(self, shard: int) -> str:
        sha256 = hashlib.sha256()
        for array in ARRAY_NAMES:
            handle = self._array(shard, array)
            for first in range(0, handle.shape[0], OBJECT_ELEMENTS):
                part = handle[first : min(first + OBJECT_ELEMENTS, handle.shape[0])].read()
                block = self._result(part, shard, array)
                sha256.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data)
        return sha256.hexdigest()

    def _read_offsets(self, shard: int) -> np.ndarray:
        offsets = self._result(self._array(shard, "document_offsets").read(), shard, "document_offsets")
        if offsets[0] != 0 or offsets[-1] != self.manifest.shards[shard].num_tokens or np.any(np.diff(offsets) <= 0):
            raise ValueError(f"{self._origin(shard)}/document_offsets does not rise from 0 to the shard's size.")
        offsets.setflags(write=False)
        return offsets

    def _open_array(self, shard: int, array: str) -> ts.TensorStore:
        info = self.manifest.shards[shard]
        spec = _array_spec(self.path, info.name, array)
        handle = self._result(ts.open(spec, open=True, read=True, context=self._context), shard, array)
        expected = {
            "tokens": (info.num_tokens, token_dtype(self.manifest.vocab_size)),
            "document_offsets": (info.num_documents + 1, np.dtype(np.int64)),
        }[array]
        found = (handle.shape[0], handle.dtype.numpy_dtype)
        if found != expected:
            raise ValueError(f"{self._origin(shard)}/{array} is {found}; the manifest says {expected}.")
        return handle

    def _result(self, future: ts.Future, shard: int, array: str):
        """Waits for TensorStore, and names the array where it fails. Its own message starts with a status code."""
        try:
            return future.result()
        except ValueError as error:
            reason = str(error).split(" [tensorstore_spec=")[0]
            if reason.startswith("NOT_FOUND"):
                raise FileNotFoundError(f"{self._origin(shard)}/{array} is missing or incomplete: {reason}") from error
            raise ValueError(f"{self._origin(shard)}/{array} cannot be read: {reason}") from error

    def _origin(self, shard: int) -> str:
        return f"{self.path}/{self.manifest.shards[shard].name}"
