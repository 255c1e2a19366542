"""Reads a text corpus as documents: plain text, JSON lines (plain, gzip, zstd) and Parquet, local or at any fsspec URL.

Order is fixed (paths as given, folders sorted), memory is bounded by one document or one Parquet batch, and nothing is
lost in silence: a file that is cut short, a line that is no JSON and bytes that are no UTF-8 stop the run by name.
"""

import collections
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from llama3_jax.core import files as corpus_files
from llama3_jax.data.tokenizer import replace_surrogates

_PARQUET_ROWS = 1024

Decode = Callable[[bytes | str, str, str], str]
"""(content, file, document id) -> text, "" for a document that is skipped."""


@dataclasses.dataclass(frozen=True)
class Document:
    """One text. `id` is its file, followed for files of many documents by `:` and the line or row, from 1."""

    id: str
    text: str


def read_documents(
    paths: Sequence[str | os.PathLike],
    *,
    field: str = "text",
    errors: str = "raise",
    skipped: collections.Counter[str] | None = None,
) -> Iterator[Document]:
    """Yields the documents of files, folders (recursively, sorted, names with a leading dot left out) and fsspec URLs.

    The suffix decides the format: .txt .md .rst .py (a file is a document), .jsonl .jsonl.gz .jsonl.zst .parquet (text
    in `field`). Documents with nothing but whitespace, and null fields, are left out. `errors` says what becomes of
    text that is not valid Unicode: "raise", "replace" by U+FFFD, or "skip" the document, counted by file in `skipped`.

    Raises FileNotFoundError; ImportError if a URL needs a package that is not installed; ValueError, naming file and
    line, on content that cannot be read, and if there are no files or no documents at all.
    """
    if errors not in ("raise", "replace", "skip"):
        raise ValueError(f"errors must be 'raise', 'replace' or 'skip', got {errors!r}")
    if errors == "skip" and skipped is None:
        raise ValueError("errors='skip' needs skipped=collections.Counter(), which tells afterwards what was left out")
    if isinstance(paths, str):
        raise ValueError(f"paths must be a list of paths, got the one string {paths!r}")
    files = [file for path in paths for file in corpus_files.list_files(path, list(_READERS))]
    if not files:
        raise ValueError(f"no files to read ({' '.join(_READERS)}) in {list(map(str, paths))}")
    skipped = collections.Counter() if skipped is None else skipped
    return _documents(files, field, functools.partial(_decode, errors=errors, skipped=skipped))


def _documents(files: list[tuple[Any, str, str]], field: str, decode: Decode) -> Iterator[Document]:
    empty = True
    for file_system, path, name in files:
        with file_system.open(path, "rb") as file:
            for document in _READERS[corpus_files.suffix_of(name, _READERS)](file, name, field, decode):
                if document.text and not document.text.isspace():
                    empty = False
                    yield document
    if empty:
        raise ValueError(f"the corpus is empty: no document with text in {len(files)} files, the first {files[0][2]}")


def _decode(content: bytes | str, name: str, place: str, *, errors: str, skipped: collections.Counter[str]) -> str:
    """`content` as valid Unicode; a JSON escape can put lone surrogates into a str."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        if not text.isascii():
            text.encode("utf-8")
        return text.removeprefix("\ufeff")
    except UnicodeError as error:
        if errors == "raise":
            raise ValueError(f"{place}: not valid UTF-8 text: {error}") from error
    if errors == "skip":
        skipped[name] += 1
        return ""
    return content.decode("utf-8", "replace") if isinstance(content, bytes) else replace_surrogates(content)


def _read_plain(file: BinaryIO, name: str, field: str, decode: Decode) -> Iterator[Document]:
    yield Document(name, decode(file.read(), name, name))


def _read_json_lines(
    chunks: Callable[[BinaryIO], Iterable[bytes]], file: BinaryIO, name: str, field: str, decode: Decode
) -> Iterator[Document]:
    number = 0
    try:
        for number, line in enumerate(corpus_files.lines(chunks(file)), 1):
            place = f"{name}:{number}"
            text = decode(line, name, place)
            if text and not text.isspace():
                yield Document(place, decode(_json_field(text, field, place), name, place))
    except corpus_files.CORRUPT as error:
        raise ValueError(f"{name}: the compressed data is corrupt after line {number}: {error}") from error


def _json_field(text: str, field: str, place: str) -> str:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not a line of JSON: {error}") from error
    if not isinstance(record, dict) or field not in record:
        raise ValueError(f"{place}: not a JSON object with a field {field!r}")
    value = record[field]
    if not isinstance(value, str | None):
        raise ValueError(f"{place}: field {field!r} holds {type(value).__name__}, not text")
    return value or ""


def _read_parquet(file: BinaryIO, name: str, field: str, decode: Decode) -> Iterator[Document]:
    try:
        table = pq.ParquetFile(file)
        _check_column(table.schema_arrow, name, field)
        row = 0
        for batch in table.iter_batches(_PARQUET_ROWS, columns=[field]):
            # As bytes: pyarrow does not check that strings are UTF-8, our decoder does.
            for content in _plain_column(batch.column(0)).cast(pa.large_binary()).to_pylist():
                row += 1
                place = f"{name}:{row}"
                yield Document(place, decode(content or b"", name, place))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name}: not a readable Parquet file: {error}") from error


def _check_column(schema: pa.Schema, name: str, field: str) -> None:
    if field not in schema.names:
        raise ValueError(f"{name}: no column {field!r}; it has {', '.join(schema.names)}")
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        raise ValueError(f"{name}: column {field!r} holds {kind}, not text")


def _plain_column(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


_READERS: dict[str, Callable[[BinaryIO, str, str, Decode], Iterator[Document]]] = {
    ".txt": _read_plain,
    ".md": _read_plain,
    ".rst": _read_plain,
    ".py": _read_plain,
    ".jsonl": functools.partial(_read_json_lines, corpus_files.plain_chunks),
    ".jsonl.gz": functools.partial(
        _read_json_lines, functools.partial(corpus_files.decompressed, corpus_files.gzip_decoder)
    ),
    ".jsonl.zst": functools.partial(
        _read_json_lines, functools.partial(corpus_files.decompressed, corpus_files.zstd_decoder)
    ),
    ".parquet": _read_parquet,
}
