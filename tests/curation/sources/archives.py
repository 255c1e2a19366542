"""WARC files made by hand."""

import gzip
import random
from collections.abc import Sequence
from typing import Any

import zstandard

from llama3_jax.curation.sources import Casualty, Page, SourceConfig, list_sources, read_source


def http(body: bytes, *headers: str, status: str = "200 OK", kind: str = "text/html; charset=utf-8") -> bytes:
    lines = [f"HTTP/1.1 {status}", *([f"Content-Type: {kind}"] if kind else []), *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def record(
    number: int, block: bytes, *, length: int | None = None, kind: str = "response", date: str = "2023-04-05T06:07:08Z"
) -> bytes:
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Target-URI: http://example.com/{number}",
        *([f"WARC-Date: {date}"] if date else []),
        f"WARC-Record-ID: <urn:uuid:{number}>",
        "Content-Type: application/http; msgtype=response",
        f"Content-Length: {len(block) if length is None else length}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def page(number: int, **options) -> bytes:
    return record(number, http(body(number)), **options)


def body(number: int) -> bytes:
    return f"<p>page {number} ".encode() + random.Random(number).randbytes(1500) + b"and so on " * 100 + b"</p>"


def plain(records: list[bytes]) -> bytes:
    return b"".join(records)


def gzip_each(records: list[bytes]) -> bytes:
    return b"".join(map(gzip.compress, records))


def gzip_whole(records: list[bytes]) -> bytes:
    return gzip.compress(b"".join(records))


def zstd_each(records: list[bytes]) -> bytes:
    return b"".join(zstandard.compress(data) for data in records)


FORMS = {".warc": plain, ".warc.gz": gzip_each, "whole.warc.gz": gzip_whole, ".warc.zst": zstd_each}


def read(folder, name: str, data: bytes, **settings) -> tuple[list[Page], list[Casualty]]:
    """Pages and casualties of a file with this content."""
    path = folder / (name if not name.startswith(".") else f"a{name}")
    path.write_bytes(data)
    (source,) = list_sources([path])
    found = list(read_source(source, SourceConfig(**settings)))
    return [item for item in found if isinstance(item, Page)], [item for item in found if isinstance(item, Casualty)]


def numbers(pages: Sequence[Any]) -> list[int]:
    """Of pages whose content is right."""
    found = [int(page.url.rpartition("/")[2]) for page in pages]
    assert [page.content for page in pages] == [body(number) for number in found]
    return found


def reasons(casualties: list[Casualty]) -> list[str]:
    return [casualty.reason for casualty in casualties]
