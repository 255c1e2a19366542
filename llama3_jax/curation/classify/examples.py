"""Labelled texts from files, to train a classifier on and to test it: labels of the user's, or citations.

Files are JSON lines or Parquet, also the text that `llama3 curate` writes. What is held out for the test is all pages
of some hosts, or some documents where there are no URLs, chosen by hashes and so always the same.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3_jax.core.files import decompressed, gzip_decoder, lines, list_files, plain_chunks, suffix_of, zstd_decoder
from llama3_jax.curation.classify.cited_urls import CitedUrls, host_of, page_of, text_keys
from llama3_jax.curation.classify.draws import is_drawn
from llama3_jax.curation.classify.wiki_references import ReferenceConfig, choose_examples
from llama3_jax.curation.hashing import salted
from llama3_jax.curation.identity import document_id

CITED, NOT_CITED = "cited", "other"
_JSON_LINES: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    ".jsonl": plain_chunks,
    ".jsonl.gz": partial(decompressed, gzip_decoder),
    ".jsonl.zst": partial(decompressed, zstd_decoder),
}
_PARQUET = ".parquet"
_PARQUET_ROWS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of JSON keys or Parquet columns."""

    text: str = "text"
    url: str = "url"  # may be absent
    label: str | None = None  # None: there are no labels


class Row(NamedTuple):
    """One document."""

    text: str
    url: str  # "" where there is none
    label: str


class Examples(NamedTuple):
    """Labelled texts."""

    texts: list[str]
    labels: list[str]
    is_held_out: np.ndarray  # bool


def read_rows(paths: Sequence[str], fields: Fields) -> Iterator[Row]:
    """The documents of files and folders, local or at fsspec URLs.

    Raises ValueError that names the file for a row without text or label, and for damaged files.
    """
    for path in paths:
        for file_system, inside, name in list_files(path, (*_JSON_LINES, _PARQUET)):
            with file_system.open(inside, "rb") as file:
                suffix = suffix_of(name, (*_JSON_LINES, _PARQUET))
                records = _parquet(file, fields) if suffix == _PARQUET else _json_lines(_JSON_LINES[suffix](file))
                try:
                    for record in records:
                        yield _row(record, fields)
                except (ValueError, EOFError, pa.ArrowException) as error:
                    raise ValueError(f"{name}: {error}") from error


def _parquet(file: BinaryIO, fields: Fields) -> Iterator[dict[str, Any]]:
    table = pq.ParquetFile(file)
    columns = [name for name in dataclasses.astuple(fields) if name in table.schema_arrow.names]
    for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
        yield from batch.to_pylist()


def _json_lines(chunks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines(chunks):
        if line.strip():
            yield json.loads(line)


def _row(record: dict[str, Any], fields: Fields) -> Row:
    text, url = record.get(fields.text), record.get(fields.url) or ""
    label = "" if fields.label is None else record.get(fields.label)
    if not isinstance(text, str) or label is None:
        raise ValueError(f"a row without {fields.text!r} or {fields.label!r}; it has {sorted(record)}")
    return Row(text, url, str(label))


def labelled_examples(rows: Iterator[Row], *, held_out_share: float = 0.1, seed: int = 0) -> Examples:
    """All rows, by their own labels."""
    texts, labels, keys = [], [], []
    for row in rows:
        texts.append(row.text)
        labels.append(row.label)
        keys.append(host_of(page_of(row.url)) or _identity(row).hex())
    numbers = salted(text_keys(keys), np.array([seed], np.uint64))
    return Examples(texts, labels, is_drawn(numbers, held_out_share))


def reference_examples(read: Callable[[], Iterator[Row]], cited: CitedUrls, config: ReferenceConfig) -> Examples:
    """Rows whose URL is cited, against others: labels CITED and NOT_CITED.

    `read()` is called twice: once for ids and URLs, which memory must hold, once for the texts of the chosen ones.
    """
    ids, urls = [], []
    for row in read():
        ids.append(_identity(row))
        urls.append(row.url)
    found = choose_examples(ids, urls, cited, config)
    wanted = set(found.rows.tolist())
    texts = [row.text for number, row in enumerate(read()) if number in wanted]
    return Examples(texts, np.where(found.is_cited, CITED, NOT_CITED).tolist(), found.is_held_out)


def _identity(row: Row) -> bytes:
    return document_id(row.url, None, row.text.encode("utf-8", "surrogatepass"))
