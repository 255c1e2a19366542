"""The page inside an HTTP response: status, headers, and the body with its transfer and content encodings undone.

Budgets hold while decoding: a body is given up at the byte that exceeds them. Crawlers often store bodies decoded and
keep the headers, so a body that does not look as its header says is taken as it is.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import zstandard
from fastwarc.stream_io import BrotliReader

from llama3_jax.core.files import gzip_decoder
from llama3_jax.curation.sources.page import SourceConfig

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"\s*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]+)""", re.IGNORECASE)
_PIECE_BYTES = 1024


class Message(NamedTuple):
    """An HTTP response, its body still encoded."""

    status: int
    headers: dict[str, str]  # names in lower case; the last of a repeated one
    body: bytes


class BodyError(ValueError):
    """A body that cannot be had; `reason` is a key of page.CASUALTIES."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def parse_headers(block: bytes) -> dict[str, str]:
    """`Name: value` lines (WARC's and HTTP's) by lower-case name, the last of a repeated one."""
    pairs = (line.partition(":") for line in block.decode("utf-8", "replace").split("\n"))
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


def parse_response(block: bytes) -> Message:
    """Raises BodyError if there is no HTTP response."""
    status = _STATUS.match(block)
    blank = _BLANK_LINE.search(block)
    if status is None or blank is None:
        raise BodyError("http", "no HTTP response")
    return Message(int(status[1]), parse_headers(block[: blank.start()]), block[blank.end() :])


def media_type(headers: dict[str, str]) -> tuple[str, str | None]:
    """Type in lower case, "" if there is none, and charset."""
    value = headers.get("content-type", "")
    charset = _CHARSET.search(value)
    return value.partition(";")[0].strip().lower(), charset[1] if charset else None


def decode_body(message: Message, config: SourceConfig) -> bytes:
    """The body without its encodings. Raises BodyError for one that is corrupt or beyond the budgets."""
    body = message.body
    if "chunked" in message.headers.get("transfer-encoding", "").lower():
        body = _unchunk(body)
    codings = [name.strip().lower() for name in message.headers.get("content-encoding", "").split(",")]
    for name in reversed(codings[:4]):
        looks_encoded, decode = _CODINGS.get(name, _AS_IT_IS)
        if body and looks_encoded(body):
            body = _within_budget(decode(body), len(body), config)
    if len(body) > config.max_bytes:
        raise BodyError("too_large", f"a body of {len(body)} bytes")
    return body


def _unchunk(body: bytes) -> bytes:
    """The chunks of a body joined; the body itself if it does not begin with a chunk's size."""
    parts, position = [], 0
    while size := _CHUNK_SIZE.match(body, position):
        length = int(size[1], 16)
        if not length:
            return b"".join(parts)
        part = body[size.end() : size.end() + length]
        position = size.end() + length
        parts.append(part)
        if len(part) < length:
            raise BodyError("truncated", "the last chunk is cut short")
    if not parts:
        return body
    if body[position:].strip():
        raise BodyError("http", "a chunk without its size")
    return b"".join(parts)  # without the closing empty chunk, as some servers send it


def _within_budget(pieces: Iterable[bytes], size: int, config: SourceConfig) -> bytes:
    allowed, found, total = max(config.ratio_floor, config.max_ratio * size), [], 0
    try:
        for piece in pieces:
            total += len(piece)
            if total > config.max_bytes:
                raise BodyError("too_large", f"a body that decodes to more than {config.max_bytes} bytes")
            if total > allowed:
                raise BodyError("ratio", f"a body that grows more than {config.max_ratio} times")
            found.append(piece)
    except (zlib.error, zstandard.ZstdError, OSError) as error:
        raise BodyError("corrupt", f"the body does not decode: {error}") from error
    except EOFError as error:
        raise BodyError("truncated", "the encoded body ends in the middle") from error
    return b"".join(found)


def _inflate(decoder: Any, body: bytes) -> Iterator[bytes]:
    """Up to the end of the first member; what follows it is no part of the page."""
    while body and not decoder.eof:
        yield decoder.decompress(body, 1 << 16)
        body = decoder.unconsumed_tail
    while not decoder.eof:
        tail = decoder.decompress(b"", 1 << 16)
        if not tail:
            raise EOFError
        yield tail


def _inflate_any(body: bytes) -> Iterator[bytes]:
    """HTTP's "deflate" means zlib, and in practice also raw deflate."""
    is_zlib = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _inflate(zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS), body)


def _unzstd(body: bytes) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()  # the window of RFC 9659
    for start in range(0, len(body), _PIECE_BYTES):
        yield decoder.decompress(body[start : start + _PIECE_BYTES])
        if decoder.eof:
            return
    raise EOFError


def _unbrotli(body: bytes) -> Iterator[bytes]:
    reader = BrotliReader(io.BytesIO(body))
    while piece := reader.read(1 << 16):
        yield piece


_Coding = tuple[Callable[[bytes], bool], Callable[[bytes], Iterator[bytes]]]
_GZIP: _Coding = (lambda body: body.startswith(b"\x1f\x8b"), lambda body: _inflate(gzip_decoder(), body))
_AS_IT_IS: _Coding = (lambda body: False, lambda body: iter([body]))
_CODINGS: dict[str, _Coding] = {
    "gzip": _GZIP,
    "x-gzip": _GZIP,
    "deflate": (lambda body: body.lstrip()[:1] != b"<", _inflate_any),
    "br": (lambda body: body.lstrip()[:1] != b"<", _unbrotli),
    "zstd": (lambda body: body.startswith(b"\x28\xb5\x2f\xfd"), _unzstd),
}
