"""Lines that the corpus repeats, counted over the documents that are left (Llama 3, 3.1; as ccNet).

A bucket is a range of ids of about 30 million documents, so which documents share one follows from the corpus alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation import hashing, shuffle
from llama3_jax.curation.deduplicate import DedupConfig, alive, document_order, language_salt
from llama3_jax.curation.documents import numbers
from llama3_jax.curation.lines import LineKeys, count_and_rank, line_keys
from llama3_jax.curation.steps import DOCUMENTS, Counts, Task
from llama3_jax.curation.text_batch import TextBatch

BUCKET = 30_000_000  # documents
RECORDED = 2  # copies from which a line is recorded; rules can only ask for more


@dataclasses.dataclass(frozen=True)
class LineSettings:
    """What counts of lines depend on."""

    dedup: DedupConfig
    num_parts: int


def write_line_keys(tasks: Sequence[Task]) -> list[Counts]:
    """Map: the lines of a partition's documents that are left, each to the part of its hash."""
    (task,) = tasks
    dedup: DedupConfig = task.settings.dedup
    left = alive(task.inputs, task.index)
    starts = numbers(task.inputs["documents"])
    number = starts[task.index] + np.arange(len(left))
    bucket = number // BUCKET if starts[-1] <= BUCKET else number * -(-starts[-1] // BUCKET) // starts[-1]
    salt = hashing.salted(
        language_salt(task) if dedup.by_language else np.zeros(len(left), np.uint64), bucket.astype(np.uint64)
    )
    order = document_order(task.inputs["documents"], task.index, dedup.survivor)
    found: list[LineKeys] = []
    first = num_bytes = 0
    for table in task.inputs["documents"].batches(task.index, "documents", ("text",)):
        rows = first + np.flatnonzero(left[first : first + table.num_rows])
        keys = line_keys(TextBatch.from_arrow(table["text"].take(pa.array(rows - first))), dedup.lines, salt[rows])
        found.append(keys._replace(row=rows[keys.row]))
        first += table.num_rows
        num_bytes += table["text"].nbytes
    hashes, row, start, end = (np.concatenate(columns) for columns in zip(*found, strict=True))
    columns = {"hash": hashes, "order": order[row], "number": number[row], "start": start, "end": end}
    parts = shuffle.cut(pa.table(columns), shuffle.by_key(hashes, task.settings.num_parts), task.settings.num_parts)
    task.write_parts("keys", parts)
    return [{DOCUMENTS: int(left.sum()), "bytes": num_bytes, "lines": len(hashes)}]


def write_lines(tasks: Sequence[Task]) -> list[Counts]:
    """Reduce: how often each repeated line occurs, and how many of its copies stand before it, back to its document."""
    (task,) = tasks
    names = ("hash", "order", "number", "start", "end")
    hashes, order, number, start, end = shuffle.arrays(task.inputs["keys"].part(task.index, "keys"), names)
    by_hash = np.lexsort((start, number, order, hashes))
    ((count, rank),) = count_and_rank(lambda: [hashes[by_hash]])
    repeated = by_hash[count >= RECORDED]
    spans = pa.table(
        {
            "number": number[repeated],
            "start": start[repeated],
            "end": end[repeated],
            "count": count[count >= RECORDED],
            "rank": rank[count >= RECORDED],
        }
    )
    edges = numbers(task.inputs["documents"])
    task.write_parts("spans", shuffle.cut(spans, shuffle.by_document(number[repeated], edges), len(edges) - 1))
    return [{"lines": len(hashes), "repeated": len(repeated)}]
