"""Deduplication of the whole corpus as steps: of URLs, of documents by MinHash, of lines (Llama 3, 3.1).

Each narrows what the next one sees: only documents that no early rule drops compete for their URL, only the one that
stays is compared with others, only documents that stay have their lines counted. Rows travel by number, a document's
rank in the order of ids, so nothing depends on how the work is cut.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation import hashing, shuffle
from llama3_jax.curation.clusters import connected
from llama3_jax.curation.documents import numbers
from llama3_jax.curation.features import Annotate, Annotated, Batch, column
from llama3_jax.curation.lines import LineConfig
from llama3_jax.curation.minhash import MinHashConfig, band_keys, signatures, star_edges
from llama3_jax.curation.steps import DOCUMENTS, DROPPED, Counts, Results, Task
from llama3_jax.curation.survivors import NO_DATE, survivors
from llama3_jax.curation.text_batch import TextBatch
from llama3_jax.curation.urls import url_keys

# Which of several documents stays: a number for each of a partition, the smallest stays, the smallest id if they tie.
SURVIVORS = {
    "newest": lambda date, length: ~date,
    "oldest": lambda date, length: np.where(date == NO_DATE, ~NO_DATE, date),
    "longest": lambda date, length: -length,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """How documents are compared. `survivor` is which of several stays, "newest", "oldest" or "longest"."""

    survivor: str = "newest"
    by_language: bool = True  # documents and lines of different languages never meet
    verify: float | None = None  # Jaccard similarity of n-grams from which candidates are copies; None: not looked at
    minhash: MinHashConfig = dataclasses.field(default_factory=MinHashConfig)
    lines: LineConfig = dataclasses.field(default_factory=LineConfig)

    def __post_init__(self):
        if self.verify is not None and not 0 < self.verify <= 1:
            raise ValueError(f"verify must be a similarity above 0, got {self.verify}")
        if self.survivor not in SURVIVORS:
            raise ValueError(f"survivor must be one of {', '.join(SURVIVORS)}, got {self.survivor!r}")


def document_order(documents: Results, index: int, survivor: str) -> np.ndarray:
    """The order in which the documents of a partition stay, int64 [D]: the smallest first."""
    table = documents.rows(index, "documents", ("date", "text_bytes"))
    date = table["date"].cast(pa.int64()).fill_null(int(NO_DATE)).to_numpy()
    return SURVIVORS[survivor](date, table["text_bytes"].to_numpy())


def alive(inputs: Mapping[str, Results], index: int) -> np.ndarray:
    """bool [D]: the documents of a partition that are left by those of the early rules and dedups that are inputs."""
    left = column(inputs["early"].rows(index, "reasons"), "reason") == ""
    return left & ~lost(inputs, "url_losers", index) & ~lost(inputs, "document_losers", index)


def lost(inputs: Mapping[str, Results], role: str, index: int) -> np.ndarray:
    """bool [D]: documents of a partition that lost to another one in a dedup, none where that is no input."""
    starts = numbers(inputs["documents"])
    is_lost = np.zeros(starts[index + 1] - starts[index], bool)
    if role in inputs:
        is_lost[column(inputs[role].part(index, "losers"), "number") - starts[index]] = True
    return is_lost


def _alive_rows(task: Task) -> np.ndarray:
    """Rows of the documents of the task's partition that are left."""
    return np.flatnonzero(alive(task.inputs, task.index))


def write_url_keys(tasks: Sequence[Task]) -> list[Counts]:
    """Map: the URLs of a partition, each to the part of its key."""
    (task,) = tasks
    survivor, num_parts = task.settings
    rows = _alive_rows(task)
    urls = task.inputs["documents"].rows(task.index, "documents", ("url",))["url"]
    keys = url_keys(urls.take(pa.array(rows)).to_pylist())
    rows, keys = rows[keys.row], keys.hash
    _write_keys(task, keys, rows, survivor, num_parts)
    return [{DOCUMENTS: len(urls)}]


def _write_keys(task: Task, keys: np.ndarray, rows: np.ndarray, survivor: str, num_parts: int) -> None:
    order = document_order(task.inputs["documents"], task.index, survivor)
    number = rows + numbers(task.inputs["documents"])[task.index]
    table = pa.table({"key": keys, "order": order[rows], "number": number})
    task.write_parts("keys", shuffle.cut(table, shuffle.by_key(keys, num_parts), num_parts))


def write_url_losers(tasks: Sequence[Task]) -> list[Counts]:
    """Reduce: of documents with one URL, all but the one that stays."""
    (task,) = tasks
    key, order, number = shuffle.arrays(task.inputs["keys"].part(task.index, "keys"), ("key", "order", "number"))
    dropped = _write_losers(task, key, order, number)
    return [{DOCUMENTS: len(key), DROPPED: dropped, "reason.url": dropped}]


def _write_losers(task: Task, label: np.ndarray, order: np.ndarray, number: np.ndarray) -> int:
    """Writes the documents that do not stay, each to its partition, with the one that does."""
    stays = survivors(label, order, number)
    by_label = np.argsort(label[stays], kind="stable")
    winners = number[stays][by_label]
    survivor = winners[np.searchsorted(label[stays][by_label], label[~stays])]
    edges = numbers(task.inputs["documents"])
    losers = pa.table({"number": number[~stays], "survivor": survivor})
    part = shuffle.by_document(number[~stays], edges)
    task.write_parts("losers", shuffle.cut(losers, part, len(edges) - 1))
    return len(survivor)


def signed(task: Task) -> Annotate:
    """The feature: the MinHash signature of every document, whatever becomes of it."""
    config: MinHashConfig = task.settings.settings
    width = pa.binary(4 * config.bands * config.rows)

    def annotate(batch: Batch) -> Annotated:
        found = signatures(batch.texts, config)
        buffers = [None, pa.py_buffer(found.tobytes())]
        return Annotated(columns={"signatures": pa.FixedSizeBinaryArray.from_buffers(width, len(found), buffers)})

    return annotate


def write_band_keys(tasks: Sequence[Task]) -> list[Counts]:
    """Map: the band keys of the documents that are left, each to the part of the key."""
    (task,) = tasks
    config, num_parts = task.settings
    rows = _alive_rows(task)
    table = task.inputs["signatures"].rows(task.index, "signatures").take(pa.array(rows))
    words = config.minhash.bands * config.minhash.rows
    chunk = table["signatures"].combine_chunks()
    chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
    signature = np.frombuffer(chunk.buffers()[1] or b"", np.uint32)[chunk.offset * words :][: len(rows) * words]
    salt = language_salt(task)[rows] if config.by_language else None
    keys = band_keys(signature.reshape(len(rows), words), config.minhash, salt).reshape(-1)
    number = np.repeat(rows, config.minhash.bands) + numbers(task.inputs["documents"])[task.index]
    pairs = pa.table({"key": keys, "number": number})
    task.write_parts("keys", shuffle.cut(pairs, shuffle.by_key(keys, num_parts), num_parts))
    return [{DOCUMENTS: len(rows)}]


def language_salt(task: Task) -> np.ndarray:
    """A number for the language of each document of the task's partition, uint64 [D]."""
    languages = column(task.inputs["language"].rows(task.index, "scores", ("language",)), "language")
    names, inverse = np.unique(languages.astype(str), return_inverse=True)
    batch = TextBatch.of(names.tolist())
    return hashing.hash_ranges(batch.data, batch.offsets[:-1], batch.offsets[1:])[inverse]


def write_edges(tasks: Sequence[Task]) -> list[Counts]:
    """Reduce: documents that share a band, joined to the first of them."""
    (task,) = tasks
    key, number = shuffle.arrays(task.inputs["keys"].part(task.index, "keys"), ("key", "number"))
    order = np.lexsort((number, key))
    edges = np.concatenate([np.zeros((0, 2), np.int64), *star_edges([(key[order], number[order])])])
    edges = np.unique(edges, axis=0)
    task.write("edges", pa.table({"first": edges[:, 0], "second": edges[:, 1]}))
    return [{"keys": len(key), "edges": len(edges)}]


def write_document_losers(tasks: Sequence[Task]) -> list[Counts]:
    """Clusters of near-duplicates over the whole corpus, and of each all but the one that stays."""
    (task,) = tasks
    edges, documents = task.inputs["edges"], task.inputs["documents"]
    read = (shuffle.arrays(edges.rows(index, "edges"), ("first", "second")) for index in range(edges.num_tasks))
    clusters = connected(np.stack(pair, axis=1) for pair in read)
    starts = numbers(documents)
    order = np.empty(len(clusters.document), np.int64)
    for index, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        first, last = np.searchsorted(clusters.document, [start, end])
        if last > first:
            mine = document_order(documents, index, task.settings)
            order[first:last] = mine[clusters.document[first:last] - start]
    dropped = _write_losers(task, clusters.label, order, clusters.document)
    return [{DOCUMENTS: int(starts[-1]), DROPPED: dropped, "reason.near-duplicate": dropped}]
