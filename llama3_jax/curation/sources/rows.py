"""Pages of JSON lines and Parquet: rows with declared fields."""

import collections
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from llama3_jax.curation.sources.dates import parse_date
from llama3_jax.curation.sources.members import Chunks, Damage
from llama3_jax.curation.sources.page import Casualty, Page, SourceConfig

_PARQUET_ROWS = 64


def read_json_lines(
    chunks: Chunks, name: str, config: SourceConfig, counts: collections.Counter[str]
) -> Iterator[Page | Casualty]:
    """One page a line. `counts` grows by "empty": rows without text, and blank lines."""
    for number, line in enumerate(_bounded_lines(chunks, config.max_bytes), 1):
        place = str(number)
        if isinstance(line, _Lost):
            yield Casualty(name, place, line.reason, line.detail)
        elif not line or line.isspace():
            counts["empty"] += 1
        else:
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError) as error:
                yield Casualty(name, place, "json", str(error))
                continue
            yield from _page(row, frozenset(), name, place, config, counts)


class _Lost(NamedTuple):
    """In the place of a line."""

    reason: str
    detail: str


def _bounded_lines(chunks: Chunks, max_bytes: int) -> Iterator[bytes | _Lost]:
    """Lines without their line feed; in memory are at most `max_bytes` and a chunk. Those with a gap are lost."""
    parts, size = [], 0
    for chunk in chunks:
        if isinstance(chunk, Damage):
            yield _Lost(chunk.reason, chunk.detail)
            parts, size = [], 0
            continue
        *ends, tail = chunk.split(b"\n")
        for end in ends:
            size += len(end)
            yield b"".join([*parts, end]) if size <= max_bytes else _Lost("too_large", f"a line of {size} bytes")
            parts, size = [], 0
        size += len(tail)
        if size <= max_bytes:
            parts.append(tail)
        else:
            parts.clear()
    if size:
        yield b"".join(parts) if size <= max_bytes else _Lost("too_large", f"a line of {size} bytes")


def read_parquet(
    file: BinaryIO, name: str, config: SourceConfig, counts: collections.Counter[str]
) -> Iterator[Page | Casualty]:
    """One page a row; a row group that cannot be read is one casualty, and the next one is read."""
    try:
        table = pq.ParquetFile(file)
        fields = (config.url_field, config.date_field, config.html_field, config.text_field)
        columns = [field for field in fields if field in table.schema_arrow.names]
    except (pa.ArrowException, OSError) as error:
        yield Casualty(name, "file", "parquet", str(error))
        return
    if not {config.html_field, config.text_field} & set(columns):
        detail = f"no column {config.html_field!r} or {config.text_field!r} in {', '.join(table.schema_arrow.names)}"
        yield Casualty(name, "file", "field", detail)
        return
    utf8 = frozenset(name for name in columns if _is_string(table.schema_arrow.field(name).type))
    first = 1
    for group in range(table.num_row_groups):
        try:
            for number, row in _rows(table, group, columns, first):
                yield from _page(row, utf8, name, str(number), config, counts)
        except (pa.ArrowException, OSError) as error:
            yield Casualty(name, f"row group {group}", "parquet", str(error))
        first += table.metadata.row_group(group).num_rows


def _rows(table: pq.ParquetFile, group: int, columns: list[str], first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for batch in table.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=columns):
        values = {name: _values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        for row in range(batch.num_rows):
            yield first + row, {name: column[row] for name, column in values.items()}
        first += batch.num_rows


def _is_string(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _values(column: pa.Array) -> list:
    """Strings as bytes: pyarrow does not check that they are UTF-8."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    return (column.cast(pa.large_binary()) if _is_string(column.type) else column).to_pylist()


def _page(
    row: Any, utf8: frozenset[str], name: str, place: str, config: SourceConfig, counts: collections.Counter[str]
) -> Iterator[Page | Casualty]:
    try:
        content, kind, charset = _content(row, utf8, config)
        url = _bytes(row, config.url_field)[0].decode("utf-8", "replace")
    except ValueError as error:
        yield Casualty(name, place, "field", str(error))
        return
    if not content or content.isspace():
        counts["empty"] += 1
    elif len(content) > config.max_bytes:
        yield Casualty(name, place, "too_large", f"a row of {len(content)} bytes")
    else:
        date = row.get(config.date_field)
        try:
            moment = parse_date(date.decode("ascii", "replace") if isinstance(date, bytes) else date)
        except ValueError as error:
            yield Casualty(name, place, "date", str(error))
        else:
            yield Page(url, moment, content, kind, charset, {})


def _content(row: Any, utf8: frozenset[str], config: SourceConfig) -> tuple[bytes, str, str | None]:
    """(bytes, media type, charset) of a row's HTML, or else of its text; fields in `utf8` were declared as strings."""
    if not isinstance(row, Mapping) or not {config.html_field, config.text_field} & set(row):
        raise ValueError(f"not an object with a field {config.html_field!r} or {config.text_field!r}")
    for field, kind in ((config.html_field, "text/html"), (config.text_field, "text/plain")):
        content, is_text = _bytes(row, field)
        if content:
            return content, kind, "utf-8" if is_text or field in utf8 else None
    return b"", "text/plain", None


def _bytes(row: Mapping[str, Any], field: str) -> tuple[bytes, bool]:
    """A field as bytes, and whether it was text and thus is UTF-8 for sure; a lone surrogate becomes U+FFFD."""
    value = row.get(field)
    if value is None:
        return b"", False
    if isinstance(value, bytes):
        return value, False
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} holds {type(value).__name__}, not text")
    try:
        return value.encode(), True
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode(), True
