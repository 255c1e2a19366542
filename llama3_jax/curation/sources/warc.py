"""Pages of WARC files (ISO 28500): HTTP responses with status 200 that are HTML or text.

A record ends where its Content-Length says and nowhere else; one that does not is lost, and reading goes on at the next
thing that looks like the start of a record, inside what the lost one claimed if need be.
"""

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

from llama3_jax.curation.sources.dates import parse_date
from llama3_jax.curation.sources.http_message import (
    BodyError,
    decode_body,
    media_type,
    parse_headers,
    parse_response,
)
from llama3_jax.curation.sources.members import Chunks, Damage
from llama3_jax.curation.sources.page import Casualty, Page, SourceConfig

PAGE_TYPES = {"text/html", "application/xhtml+xml", "text/plain"}
_MAX_HEADER_BYTES = 1 << 16
_MAX_VERSION_BYTES = 16
_USUAL_HEADER_BYTES = 4096
_HEADER = re.compile(rb"WARC/\d\.\d\r?\n(?:[^:\n]+:[^\n]*\n|[ \t][^\n]*\n)*\r?\n")
_VERSION = re.compile(rb"WARC/\d\.\d\r?\n")
_NEXT_RECORD = re.compile(rb"(?<=\n)WARC/\d\.\d\r?\n")
_NO_LINE_END = re.compile(rb"[^\r\n]")
_KEPT_HEADERS = ("warc-record-id", "warc-truncated", "content-language")


def read_warc(
    chunks: Chunks, name: str, config: SourceConfig, counts: collections.Counter[str]
) -> Iterator[Page | Casualty]:
    """Pages and casualties in the order of the file.

    `counts` grows by what was left out because it is no page: "not_response", "status", "media_type".
    """
    stream = _Stretches(chunks)
    while stream.advance():
        for headers, block, start in _records(stream, name, config):
            if isinstance(block, Casualty):
                yield block
            elif not _is_response(headers):
                counts["not_response"] += 1
            else:
                yield from _page(headers, block, name, start, config, counts)


class _Stretches:
    """A view of the stream: bytes without a gap from `position` on, and the damage that ends each stretch of them."""

    def __init__(self, chunks: Chunks):
        self._chunks = chunks
        self._ended = False
        self._dropped = 0  # bytes of the whole stream that lie before the buffer
        self.buffer, self.position = b"", 0
        self.damage: Damage | None = None

    def advance(self) -> bool:
        """On to the next stretch; False at the end of the file."""
        self._dropped += len(self.buffer)
        self.buffer, self.position, self.damage = b"", 0, None
        return self.fill(1) or self.damage is not None

    def fill(self, size: int) -> bool:
        """Whether there are `size` bytes from `position` on in this stretch."""
        missing = size - (len(self.buffer) - self.position)
        if missing <= 0 or self._ended or self.damage is not None:
            return missing <= 0
        parts = [self.buffer[self.position :]]
        while missing > 0 and self.damage is None and not self._ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
            elif isinstance(chunk, Damage):
                self.damage = chunk
            else:
                parts.append(chunk)
                missing -= len(chunk)
        self._dropped += self.position
        self.buffer, self.position = b"".join(parts), 0
        return missing <= 0

    def place(self) -> int:
        """Where `position` is in the decompressed stream."""
        return self._dropped + self.position

    def skip_blank(self) -> bool:
        """To the next byte that is no line end; False if the stretch ends before one."""
        while self.fill(1):
            if found := _NO_LINE_END.search(self.buffer, self.position):
                self.position = found.start()
                return True
            self.position = len(self.buffer)
        return False

    def skip_to_record(self) -> bool:
        """To the next line behind `position` that begins a record; False if the stretch ends before one."""
        while True:
            if found := _NEXT_RECORD.search(self.buffer, self.position + 1):
                self.position = found.start()
                return True
            self.position = max(self.position, len(self.buffer) - _MAX_VERSION_BYTES)
            if not self.fill(_MAX_VERSION_BYTES + 1):
                self.position = len(self.buffer)
                return False


_Record = tuple[dict[str, str], bytes | Casualty, str]


def _records(stream: _Stretches, name: str, config: SourceConfig) -> Iterator[_Record]:
    """(headers, block, place) of the records of a stretch; a casualty in the place of the block of a lost one."""
    lost = False  # whether the record before was: one place without order is one casualty
    while stream.skip_blank():
        place = str(stream.place())
        size = _header_size(stream)
        headers = parse_headers(stream.buffer[stream.position : stream.position + size])
        length = _content_length(headers)
        trouble = _trouble(stream, size, length, config)
        if trouble is None:
            begin = stream.position + size
            yield headers, stream.buffer[begin : begin + length], place
            stream.position, lost = begin + length, False
        elif stream.skip_to_record():
            reason = "length" if trouble.reason == "truncated" else trouble.reason  # it claimed the records behind it
            if not lost or reason != "header":
                yield headers, Casualty(name, place, reason, trouble.detail), place
            lost = True
        elif lost and trouble.reason == "header":
            pass
        elif stream.damage is None:
            yield headers, Casualty(name, place, trouble.reason, trouble.detail), place
        else:
            yield headers, Casualty(name, place, stream.damage.reason, stream.damage.detail), place
            return
    if stream.damage is not None:
        damage = stream.damage
        yield {}, Casualty(name, f"byte {damage.place} of the file", damage.reason, damage.detail), ""


class _Trouble(NamedTuple):
    reason: str
    detail: str


def _is_response(headers: dict[str, str]) -> bool:
    kind = headers.get("content-type", "application/http").lower()  # or text/dns
    return headers.get("warc-type", "").lower() == "response" and kind.startswith("application/http")


def _header_size(stream: _Stretches) -> int:
    """Bytes of the header at `position`, its blank line among them; 0 if there is none."""
    for size in (_USUAL_HEADER_BYTES, _MAX_HEADER_BYTES):
        stream.fill(size)
        if not _VERSION.match(stream.buffer, stream.position):
            return 0
        if header := _HEADER.match(stream.buffer, stream.position, stream.position + size):
            return header.end() - stream.position
    return 0


def _content_length(headers: dict[str, str]) -> int:
    """-1 if the header does not say."""
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else -1


def _trouble(stream: _Stretches, size: int, length: int, config: SourceConfig) -> _Trouble | None:
    """What is wrong with the record at `position`, of which header and block are in the buffer if nothing is."""
    if length < 0:
        return _Trouble("header", "a record header with a Content-Length was expected")
    if length > config.max_bytes:
        return _Trouble("too_large", f"a record of {length} bytes")
    if not stream.fill(size + length):
        return _Trouble("truncated", "the data ends inside the record")
    stream.fill(size + length + _MAX_VERSION_BYTES)
    end = stream.position + size + length
    behind = stream.buffer[end : end + _MAX_VERSION_BYTES]
    rest = behind.strip(b"\r\n")
    if not rest and stream.damage is not None and not stream.damage.clean:
        return _Trouble(stream.damage.reason, stream.damage.detail)
    if behind.startswith(b"\r\n\r\n") or not rest or rest.startswith(b"WARC/"):
        return None
    return _Trouble("length", "the record does not end where its Content-Length says")


def _page(
    headers: dict[str, str], block: bytes, name: str, place: str, config: SourceConfig, counts: collections.Counter[str]
) -> Iterator[Page | Casualty]:
    try:
        message = parse_response(block)
        kind, charset = media_type(message.headers)
        kind = kind or headers.get("warc-identified-payload-type", "")
        if message.status != 200:
            counts["status"] += 1
        elif kind not in PAGE_TYPES:
            counts["media_type"] += 1
        else:
            content = decode_body(message, config)
            url = headers.get("warc-target-uri", "").strip("<>")  # as Wget wrote them
            found = headers | message.headers
            metadata = {key: found[key] for key in _KEPT_HEADERS if key in found}
            yield Page(url, parse_date(headers.get("warc-date")), content, kind, charset, metadata)
    except BodyError as error:
        yield Casualty(name, place, error.reason, str(error))
    except ValueError as error:
        yield Casualty(name, place, "date", str(error))
