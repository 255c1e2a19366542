"""Files to read, local or at any fsspec URL: which there are, their bytes in chunks, decompressed, cut into lines.

Memory is bounded by one chunk or one line, and a compressed file that is cut short is found out. That includes a
truncated .zst, which zstandard's own stream reader takes for the end of the file.
"""

import functools
import glob
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import fsspec
import zstandard

CHUNK_BYTES = 1 << 17
MAX_WINDOW_BYTES = 1 << 31  # of `zstd --long=31`
CORRUPT = (EOFError, zlib.error, zstandard.ZstdError)  # what decompressed() raises


def list_files(url: str | os.PathLike, suffixes: Sequence[str]) -> list[tuple[Any, str, str]]:
    """(file system, path, name for people) of each file; the name is `url` and what follows it inside a folder.

    A folder is searched recursively, in sorted order, without names that begin with a dot, for files with one of the
    suffixes. A pattern (`*`, `?`, `[...]`) stands for what it matches, unless there is a file of that name. Raises
    FileNotFoundError; ImportError if the URL needs a package that is not installed; ValueError for an unknown protocol
    and for a lone file with another suffix.
    """
    url = os.fspath(url)
    try:
        file_system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(f"{url}: reading it needs another package. {error}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from error
    if file_system.isdir(root):
        inside = sorted(path[len(root.rstrip("/")) :] for path in file_system.find(root))
        inside = [path for path in inside if suffix_of(path, suffixes) and "/." not in path]
        return [(file_system, root.rstrip("/") + path, url.rstrip("/") + path) for path in inside]
    if not file_system.exists(root):
        if matches := _matches(file_system, root, url):
            return [found for match in matches for found in list_files(match, suffixes)]
        raise FileNotFoundError(f"{url}: no such file or folder")
    if not suffix_of(url, suffixes):
        raise ValueError(f"{url}: unknown kind of file, expected one of {' '.join(suffixes)}")
    return [(file_system, root, url)]


def _matches(file_system: Any, root: str, url: str) -> list[str]:
    """The names that a pattern matches, in order, written as the pattern is."""
    if not glob.has_magic(root):
        return []
    protocol, separator, _ = url.rpartition("://")
    if not separator:
        return sorted(glob.glob(url))
    return [f"{protocol}://{path.lstrip('/')}" for path in sorted(file_system.glob(root))]


def open_file(url: str | os.PathLike) -> BinaryIO:
    """A path or fsspec URL, to be read from its beginning."""
    file_system, path = fsspec.core.url_to_fs(os.fspath(url))
    return file_system.open(path, "rb")


def suffix_of(name: str, suffixes: Iterable[str]) -> str:
    """The first of `suffixes` that ends the name, in any case; "" if none does."""
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")


def plain_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file in pieces of `CHUNK_BYTES`."""
    return iter(functools.partial(file.read, CHUNK_BYTES), b"")


def decompressed(make_decoder: Callable[[], Any], file: BinaryIO) -> Iterator[bytes]:
    """Content of all frames (gzip: members) of a file, one after another; EOFError if the last one is cut short."""
    decoder = make_decoder()
    for data in plain_chunks(file):
        while data:
            if decoder.eof:
                decoder = make_decoder()
            yield decoder.decompress(data)
            data = decoder.unused_data
    if not decoder.eof:
        raise EOFError("the file ends in the middle")


def gzip_decoder() -> Any:
    """For one member of a gzip file."""
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def zstd_decoder() -> Any:
    """For one frame of a Zstandard file."""
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their line feed; what follows the last line feed is a line unless it is empty."""
    tail = b""
    for chunk in chunks:
        *whole, tail = (tail + chunk).split(b"\n")
        yield from whole
    if tail:
        yield tail
