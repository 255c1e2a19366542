"""Bytes of files that may be damaged: what decodes is handed on, what does not is named, and reading goes on behind it.

gzip and Zstandard files are sequences of members (frames), WARC files by convention one per record. Behind a damaged
member reading continues at the next one, found by how members begin; behind damage within the only member there is
nothing that could be read.
"""

import contextlib
import functools
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import zstandard
from fastwarc.stream_io import GzipReader

from llama3_jax.core.files import CHUNK_BYTES, MAX_WINDOW_BYTES, gzip_decoder, plain_chunks
from llama3_jax.curation.sources.page import SourceConfig

# What a member begins with. gzip's magic number alone comes up by chance in every 16 MB of compressed data; with flags,
# level and system that exist, once in 200 GB.
_GZIP_HEAD = re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_HEAD = re.compile(re.escape(_ZSTD_MAGIC))
_MAX_HEAD_BYTES = 10
_ZSTD_DICTIONARY = 0x184D2A5D.to_bytes(4, "little")  # a skippable frame that holds one, at the start of .warc.zst
_MAX_DICTIONARY_BYTES = 64 << 20
_PIECE_BYTES = 1024  # a decoder's food: one kilobyte of Zstandard can give 32 MiB
_EVERYTHING = 1 << 62
_CORRUPT = (zlib.error, zstandard.ZstdError)


class Damage(NamedTuple):
    """Stands in the stream where bytes are missing; what follows it begins a member."""

    place: int  # byte of the file at which the damaged member begins
    reason: str  # a key of page.CASUALTIES
    detail: str
    clean: bool  # whether everything before it was complete, checksum included


Chunks = Iterator[bytes | Damage]


def plain(file: BinaryIO, config: SourceConfig) -> Chunks:
    """The bytes as they are."""
    return plain_chunks(file)


def gzip_members(file: BinaryIO, config: SourceConfig) -> Chunks:
    """Content of a gzip file, by fastwarc's decoder until something is wrong and by a careful one around it.

    The fast one takes a file that is cut short for one that ends, so its last member is decoded a second time.
    """
    start: int | None = 0
    while start is not None:
        watched, given = _Watched(file, start), 0
        reader, member = GzipReader(cast(BinaryIO, watched)), _Member(start)
        try:
            while data := reader.read(CHUNK_BYTES):
                member = member.grown(reader.frame_start_position() or start, len(data))
                if member.is_bomb(watched.tell(), config):
                    break
                given += len(data)
                yield data
            else:
                start, given = reader.frame_start_position() or start, _EVERYTHING
        except OSError:
            if watched.failure is not None:  # the storage's, not the decoder's
                raise watched.failure from None
        start = yield from _carefully(file, start, given, gzip_decoder, _GZIP_HEAD, config)


def careful_gzip_members(file: BinaryIO, config: SourceConfig) -> Chunks:
    """The same bytes, decoded once: faster where one member is the whole file."""
    return _all_carefully(file, gzip_decoder, _GZIP_HEAD, config)


def zstd_frames(file: BinaryIO, config: SourceConfig) -> Chunks:
    """Content of a Zstandard file; a dictionary in front (as of .warc.zst) is used for the rest."""
    return _all_carefully(file, _zstd_decoders(file), _ZSTD_HEAD, config)


class _Watched:
    """A file from `start` on that remembers what went wrong with it: fastwarc turns its own troubles into OSError."""

    def __init__(self, file: BinaryIO, start: int):
        self._file, self.failure = file, None
        file.seek(start)
        self.tell, self.seek, self.close = file.tell, file.seek, lambda: None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self.failure = error
            raise


class _Member(NamedTuple):
    """A member (frame) that begins at byte `start` of the file and has given `produced` bytes."""

    start: int
    produced: int = 0

    def grown(self, start: int, size: int) -> "_Member":
        return _Member(start, size + (self.produced if start == self.start else 0))

    def is_bomb(self, position: int, config: SourceConfig) -> bool:
        allowed = max(config.ratio_floor, config.max_ratio * (position - self.start))
        return self.produced > allowed


def _all_carefully(
    file: BinaryIO, make_decoder: Callable[[], Any], head: re.Pattern[bytes], config: SourceConfig
) -> Chunks:
    start: int | None = 0
    while start is not None:
        start = yield from _carefully(file, start, 0, make_decoder, head, config)


def _carefully(
    file: BinaryIO,
    start: int,
    given: int,
    make_decoder: Callable[[], Any],
    head: re.Pattern[bytes],
    config: SourceConfig,
) -> Generator[bytes | Damage, None, int | None]:
    """Content from byte `start` on without its first `given` bytes, up to the first damage; returns where to go on."""
    file.seek(start)
    decoder, member, position = make_decoder(), _Member(start), start
    for piece in iter(functools.partial(file.read, _PIECE_BYTES), b""):
        while piece:
            if decoder.eof:
                if not piece.strip(b"\0"):  # padding
                    position += len(piece)
                    break
                decoder, member = make_decoder(), _Member(position)
            data, error = _decode(decoder, piece)
            rest = decoder.unused_data
            position += len(piece) - len(rest)
            if kept := data[given:]:
                yield kept
            given = max(0, given - len(data))
            member = member.grown(member.start, len(data))
            reason = "corrupt" if error else "ratio" if member.is_bomb(position, config) else ""
            if reason:
                yield Damage(member.start, reason, error or f"more than {config.max_ratio} times", not member.produced)
                return _find(file, member.start + 1, head)
            piece = rest
    if not decoder.eof:
        yield Damage(member.start, "truncated", "the file ends in the middle", not member.produced)
        return _find(file, member.start + 1, head)  # a damaged header may have claimed the members behind it
    return None


def _decode(decoder: Any, piece: bytes) -> tuple[bytes, str]:
    """What a piece gives, and what is wrong with it; of a corrupt one, all of gzip up to the bad byte."""
    can_retry = hasattr(decoder, "copy")
    saved: Any = decoder.copy() if can_retry else decoder
    try:
        return decoder.decompress(piece), ""
    except _CORRUPT as error:
        found = []
        with contextlib.suppress(*_CORRUPT):
            for place in range(len(piece) if can_retry else 0):
                found.append(saved.decompress(piece[place : place + 1]))
        return b"".join(found), str(error)


def _find(file: BinaryIO, start: int, head: re.Pattern[bytes]) -> int | None:
    """Where the next member may begin, at byte `start` or behind it."""
    file.seek(start)
    position, tail = start, b""
    for data in plain_chunks(file):
        data = tail + data
        if found := head.search(data):
            return position + found.start()
        tail = data[1 - _MAX_HEAD_BYTES :]
        position += len(data) - len(tail)
    return None


def _zstd_decoders(file: BinaryIO) -> Callable[[], Any]:
    """Makes a decoder for a frame, one after another, with the file's dictionary if it has one."""
    try:
        dictionary = zstandard.ZstdCompressionDict(_dictionary(file))
        return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=MAX_WINDOW_BYTES).decompressobj
    except zstandard.ZstdError:  # the frames that need it will count as corrupt
        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj


def _dictionary(file: BinaryIO) -> bytes:
    """What the skippable frame at the start of a .warc.zst holds (WARC-Zstandard 1.0), b"" if there is none.

    Raises ZstdError if it is damaged.
    """
    file.seek(0)
    head = file.read(8)
    size = int.from_bytes(head[4:], "little")
    if not head.startswith(_ZSTD_DICTIONARY) or size > _MAX_DICTIONARY_BYTES:
        return b""
    content = file.read(size)
    if not content.startswith(_ZSTD_MAGIC):
        return content
    if zstandard.frame_content_size(content) > _MAX_DICTIONARY_BYTES:
        return b""
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_DICTIONARY_BYTES)
    return decoder.decompress(content, max_output_size=_MAX_DICTIONARY_BYTES)
