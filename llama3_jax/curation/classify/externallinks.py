"""The external links of a Wikipedia, from the SQL dump of MediaWiki's table `externallinks`, as a stream.

Two schemas: until 2023 a row holds the link as written (`el_to`), since then its host with the labels reversed and its
path apart (`el_to_domain_index` "https://org.example.www.", `el_to_path` "/page?query"). Which columns there are is
read from the dump itself. Memory is a few buffers, whatever the size of the dump.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, cast

import fsspec

CHUNK_BYTES = 4 << 20
MAX_ROW_BYTES = 64 << 20  # more without the end of a row is not a dump of links

_TABLE = rb"`?externallinks`?"
_CREATE = re.compile(rb"CREATE TABLE (?:IF NOT EXISTS )?" + _TABLE + rb"\s*\((.*?)\)[^;\n]*;", re.S)
_COLUMN = re.compile(rb"^\s*`(\w+)`", re.M)
_INSERT = re.compile(rb"INSERT (?:IGNORE )?INTO " + _TABLE + rb"\s*(?:\(([^)]*)\)\s*)?VALUES\s*")
# A quoted string may hold \' and ''; anything else is a number, NULL or 0x and hexadecimal digits.
_VALUE = rb"(?:(?:_binary )?'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'|[^',()]++)"
_ESCAPE = re.compile(rb"\\(.)|''", re.S)
_ESCAPED = {b"0": b"\0", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"Z": b"\x1a"}
_LINK, _HOST, _PATH = b"el_to", b"el_to_domain_index", b"el_to_path"


def read_external_links(path: str) -> Iterator[str]:
    """The URLs of a dump (`.sql`, compressed or not, local or any fsspec URL), as they stand there, in its order.

    Raises ValueError for a dump without the columns of a link, or one that ends or is spoilt within a row.
    """
    with fsspec.open(path, "rb", compression="infer") as stream:
        yield from parse_external_links(cast(BinaryIO, stream), path)


def parse_external_links(stream: BinaryIO, name: str) -> Iterator[str]:
    """As `read_external_links`, from the bytes of the dump."""
    columns: list[bytes] = []
    buffer, num_found = b"", 0
    while chunk := stream.read(CHUNK_BYTES):
        buffer += chunk
        while statement := _next_insert(buffer, columns):
            columns, start = statement
            row, url_of = _row_pattern(columns, name)
            buffer, ended = buffer[start:], False
            while not ended:
                place = 0
                while not ended and (found := row.match(buffer, place)):
                    place, ended = found.end(), found["end"] == b";"
                    if url := url_of(found):
                        num_found += 1
                        yield url
                buffer = buffer[place:]
                if not ended:
                    chunk = stream.read(CHUNK_BYTES)
                    if not chunk or len(buffer) > MAX_ROW_BYTES:
                        raise ValueError(f"{name}: no end of the row {buffer[:80]!r} after {num_found} links")
                    buffer += chunk
        buffer = _unfinished(buffer)
    if not columns:
        raise ValueError(f"{name}: no rows of a table externallinks")


def _next_insert(buffer: bytes, columns: list[bytes]) -> tuple[list[bytes], int] | None:
    """The columns of the next statement of rows and where its rows begin."""
    insert = _INSERT.search(buffer)
    if insert is None or insert.end() == len(buffer):
        return None
    if insert[1]:
        return [column.strip(b"` ") for column in insert[1].split(b",")], insert.end()
    create = _CREATE.search(buffer, 0, insert.start())
    return (_COLUMN.findall(create[1]) if create else columns), insert.end()


def _unfinished(buffer: bytes) -> bytes:
    """What may still become a statement of interest: from the last CREATE on, or else the last INSERT, or the end."""
    for keyword in (b"CREATE TABLE", b"INSERT"):
        start = buffer.rfind(keyword)
        if start >= 0 and len(buffer) - start < CHUNK_BYTES:
            return buffer[start:]
    return buffer[-len(b"CREATE TABLE") :]


def _row_pattern(columns: list[bytes], name: str):
    """A pattern of one row and the `,` or `;` after it, and a function that makes a URL of its match."""
    groups = {_LINK: "link", _HOST: "host", _PATH: "path"}
    if _LINK not in columns and not {_HOST, _PATH} <= set(columns):
        raise ValueError(f"{name}: no link among the columns {[column.decode() for column in columns]}")
    values = [b"(?P<%s>%s)" % (groups[c].encode(), _VALUE) if c in groups else _VALUE for c in columns]
    row = re.compile(rb"\s*\(" + rb"\s*,\s*".join(values) + rb"\)\s*(?P<end>[,;])", re.S)
    has_host, has_link = _HOST in columns, _LINK in columns

    def url_of(found: re.Match) -> str:
        url = join_url(_text(found["host"]), _text(found["path"])) if has_host else ""
        return url or (_text(found["link"]) if has_link else "")

    return row, url_of


def _text(value: bytes) -> str:
    """An SQL value as text; "" for NULL."""
    if value.startswith((b"'", b"_")):
        value = value[value.index(b"'") + 1 : -1]
        if b"\\" in value or b"''" in value:
            value = _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]) if found[1] else b"'", value)
    elif value[:2] in (b"0x", b"0X"):
        value = bytes.fromhex(value[2:].decode())
    else:
        return ""
    return value.decode("utf-8", "replace")


def join_url(host: str, path: str) -> str:
    """The URL of a host in the order of an index ("https://org.example.www.:8080") and a path; "" without a host."""
    scheme, separator, rest = host.partition("://")
    labels, _, port = rest.partition(".:")
    if not separator or not labels:
        return ""
    parts = labels.removesuffix(".").split(".")
    if parts[0] == "V4":
        name = ".".join(parts[1:])
    elif parts[0] == "V6":
        name = f"[{':'.join(parts[1:])}]"
    else:
        name = ".".join(reversed(parts))
    return f"{scheme}://{name}{':' + port if port else ''}{path}"
