"""The texts that are kept, cut and masked, in files by category whose rows lie in the order of ids.

Which file a document lies in follows from its id and the number of files asked for, never from how the work was cut.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.annotations import Spans
from llama3_jax.curation.cuts import cut_text, of_row
from llama3_jax.curation.features import column, read_spans
from llama3_jax.curation.identity import part_of
from llama3_jax.curation.judging import CATEGORIES, Judging, dropped_lines
from llama3_jax.curation.pii import PLACEHOLDERS
from llama3_jax.curation.steps import DOCUMENTS, Counts, Task

SCHEMA = pa.schema(
    {
        "id": pa.string(),  # in hexadecimal, as people pass it to `llama3 curate explain`
        "url": pa.large_string(),
        "date": pa.timestamp("ms", "UTC"),
        "source": pa.string(),
        "language": pa.string(),
        "title": pa.large_string(),
        "text": pa.large_string(),
    }
)


@dataclasses.dataclass(frozen=True)
class Publishing:
    """What the files depend on."""

    judging: Judging
    num_files: int


def publish(tasks: Sequence[Task]) -> list[Counts]:
    """Writes one file of each category: the documents kept in one range of ids."""
    (task,) = tasks
    settings: Publishing = task.settings
    rows: dict[str, list[dict]] = {category: [] for category in CATEGORIES}
    for index in _partitions(task, settings.num_files):
        for category, row in _kept(task, index, settings):
            rows[category].append(row)
    counts = {DOCUMENTS: 0, "bytes": 0}
    for category, mine in rows.items():
        task.write(category, pa.Table.from_pylist(mine, SCHEMA))
        num_bytes = sum(len(row["text"].encode()) for row in mine)
        counts |= {f"{category}.documents": len(mine), f"{category}.bytes": num_bytes}
        counts[DOCUMENTS] += len(mine)
        counts["bytes"] += num_bytes
    return [counts]


def _partitions(task: Task, num_files: int) -> range:
    """The partitions whose ids lie in the range of the task's file, in part or wholly."""
    count = task.inputs["documents"].num_tasks
    return range(task.index * count // num_files, -(-(task.index + 1) * count // num_files))


def _kept(task: Task, index: int, settings: Publishing) -> Iterator[tuple[str, dict]]:
    verdicts = task.inputs["verdicts"].rows(index, "verdicts")
    keep = column(verdicts, "reason") == ""
    category, language = column(verdicts, "category"), column(verdicts, "language")
    drop = dropped_lines(task.inputs, index, settings.judging)
    masks = {PLACEHOLDERS[name]: read_spans(task.inputs[role], index, name) for role, name in settings.judging.mask}
    first = 0
    for table in task.inputs["documents"].batches(index, "documents"):
        for row in np.flatnonzero(keep[first : first + table.num_rows]).tolist():
            document = table.slice(row, 1).to_pylist()[0]
            if part_of(document["id"], settings.num_files) == task.index:
                at = first + row
                text = _edited(document["text"], at, drop, masks)
                fields = {"id": document["id"].hex(), "language": language[at], "text": text}
                yield category[at], {**{name: document[name] for name in SCHEMA.names if name in document}, **fields}
        first += table.num_rows


def _edited(text: str, row: int, drop: Spans, masks: dict[str, Spans]) -> str:
    return cut_text(text, of_row(drop, row), {name: of_row(spans, row) for name, spans in masks.items()})
