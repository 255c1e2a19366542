"""From pages to documents: every page is read and extracted once, and lies from then on among the others by its id.

A partition is a range of ids, so the documents of all partitions in order are in the order of their ids, whatever the
number of partitions, and whichever file they came from. Identical pages (one URL, one date, the same bytes) have one id
and become one document.
"""

import dataclasses
import datetime
import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.identity import ID_BYTES, document_id, parts_of
from llama3_jax.curation.steps import DOCUMENTS, DROPPED, Counts, Results, Task
from llama3_jax.curation.text_batch import TextBatch

SCHEMA = pa.schema(
    {
        "id": pa.binary(ID_BYTES),
        "url": pa.large_string(),
        "date": pa.timestamp("ms", "UTC"),
        "source": pa.string(),
        "title": pa.large_string(),
        "text": pa.large_string(),
        "text_bytes": pa.int64(),
    }
)
CASUALTIES = pa.schema({"source": pa.string(), "place": pa.string(), "reason": pa.string()})
RUN_BYTES = 1 << 27  # of text that a task holds before it writes
BATCH_BYTES = 1 << 23  # of text in a row group, the unit in which later steps read


@dataclasses.dataclass(frozen=True)
class Document:
    """A page's text, with what names it."""

    url: str
    date: datetime.datetime | None
    content: bytes  # the page as it came; only hashed
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Lost:
    """A page of which nothing is left, and why."""

    place: str
    reason: str


def write_runs(task: Task, source: str, documents: Iterable[Document | Lost], num_parts: int) -> Counts:
    """Writes the documents of one file, cut into partitions, a run at a time so that memory is bounded."""
    counts = {DOCUMENTS: 0, DROPPED: 0, "bytes": 0, "runs": 0}
    run: list[tuple] = []
    lost: list[dict] = []
    held = 0
    for document in documents:
        counts[DOCUMENTS] += 1
        if isinstance(document, Lost):
            lost.append({"source": source, "place": document.place, "reason": document.reason})
            continue
        counts["bytes"] += len(document.content)
        identity = document_id(document.url, document.date, document.content)
        run.append((identity, document.url, document.date, document.title, document.text))
        held += len(document.text)
        if held >= RUN_BYTES:
            _write_run(task, run, source, num_parts, counts)
            run, held = [], 0
    if run:
        _write_run(task, run, source, num_parts, counts)
    counts[DROPPED] = len(lost)
    for each in lost:
        key = f"reason.{each['reason']}"
        counts[key] = counts.get(key, 0) + 1
    task.write("casualties", pa.Table.from_pylist(lost, CASUALTIES))
    return counts


def _write_run(task: Task, run: list[tuple], source: str, num_parts: int, counts: dict[str, int]) -> None:
    """Writes (id, URL, date, title, text) of documents, and orders them."""
    run.sort(key=lambda entry: entry[0])
    ids, urls, dates, titles, texts = zip(*run, strict=True)
    text = pa.array(texts, pa.large_string())
    sizes = TextBatch.from_arrow(text).num_bytes
    columns = (ids, urls, dates, [source] * len(run), titles, text, sizes)
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    starts = np.searchsorted(parts_of(ids, num_parts), np.arange(num_parts + 1))
    task.write_parts(f"run-{counts['runs']:04d}", [table[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)])
    counts["runs"] += 1


def collect(tasks: Sequence[Task]) -> list[Counts]:
    """Brings a partition together: the documents of all files in its range of ids, in the order of their ids."""
    (task,) = tasks
    read = task.inputs.values()
    tables = [group for results in read for group in _runs(results, task.index)]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    # One page may be told to be of other kinds or encodings by different files, and so have different texts.
    table = table.sort_by([(name, "ascending") for name in ("id", "source", "title", "text")])
    ids = np.array(table["id"].to_pylist(), dtype=f"V{ID_BYTES}")
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    num_bytes = int(table["text_bytes"].to_numpy().sum())
    table = table.filter(pa.array(first))
    task.write_parts("documents", list(_batches(table)))
    counts = {DOCUMENTS: len(first), DROPPED: int(len(first) - first.sum()), "bytes": num_bytes}
    return [{**counts, "reason.identical page": counts[DROPPED], "kept": table.num_rows}]


def _runs(results: Results, part: int) -> Iterator[pa.Table]:
    for index in range(results.num_tasks):
        for run in range(results.counts(index)["runs"]):
            yield results.group(index, f"run-{run:04d}", part)


def _batches(table: pa.Table) -> Iterator[pa.Table]:
    """Row groups of about BATCH_BYTES of text; where they are cut depends on the documents alone."""
    lengths = table["text_bytes"].to_numpy()
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // BATCH_BYTES)) + 1
    edges = [0, *cuts.tolist(), table.num_rows]
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        yield table[start:end]


@functools.lru_cache(maxsize=8)  # every task of the later steps asks, and each answer reads all markers
def numbers(collected: Results) -> np.ndarray:
    """Documents before each partition, int64 [num_partitions + 1]: a document's number is that plus its row.

    Numbers are ranks in the order of ids, and so depend on the documents alone.
    """
    counts = [collected.counts(index)["kept"] for index in range(collected.num_tasks)]
    found = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    found.flags.writeable = False
    return found
