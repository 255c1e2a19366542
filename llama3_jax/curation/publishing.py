"""The texts that are kept, cut and masked, in files by category whose rows lie in the order of ids.

Which file a document lies in follows from its id and the number of files asked for, never from how the work was cut.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.cuts import Stretches, by_row, cut_text
from llama3_jax.curation.features import column, read_spans
from llama3_jax.curation.identity import parts_of
from llama3_jax.curation.judging import CATEGORIES, Judging, dropped_lines
from llama3_jax.curation.pii import PLACEHOLDERS
from llama3_jax.curation.steps import DOCUMENTS, Counts, Task
from llama3_jax.curation.text_batch import TextBatch

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
    pieces = {category: [SCHEMA.empty_table()] for category in CATEGORIES}
    for index in _partitions(task, settings.num_files):
        for category, table in _kept(task, index, settings):
            pieces[category].append(table)
    counts = {DOCUMENTS: 0, "bytes": 0}
    for category, tables in pieces.items():
        mine = pa.concat_tables(tables)
        task.write(category, mine)
        num_bytes = int(TextBatch.from_arrow(mine["text"]).num_bytes.sum())
        counts |= {f"{category}.documents": mine.num_rows, f"{category}.bytes": num_bytes}
        counts[DOCUMENTS] += mine.num_rows
        counts["bytes"] += num_bytes
    return [counts]


def _partitions(task: Task, num_files: int) -> range:
    """The partitions whose ids lie in the range of the task's file, in part or wholly."""
    count = task.inputs["documents"].num_tasks
    return range(task.index * count // num_files, -(-(task.index + 1) * count // num_files))


def _kept(task: Task, index: int, settings: Publishing) -> Iterator[tuple[str, pa.Table]]:
    """(category, documents of SCHEMA) of a partition, one row group of it at a time."""
    verdicts = task.inputs["verdicts"].rows(index, "verdicts")
    keep = column(verdicts, "reason") == ""
    keep &= parts_of(verdicts["id"].to_pylist(), settings.num_files) == task.index
    category = column(verdicts, "category")
    masks = {PLACEHOLDERS[name]: read_spans(task.inputs[role], index, name) for role, name in settings.judging.mask}
    edits = by_row({_DROP: dropped_lines(task.inputs, index, settings.judging), **masks}, keep)
    first = 0
    for table in task.inputs["documents"].batches(index, "documents"):
        rows = np.flatnonzero(keep[first : first + table.num_rows])
        edited = _edited(table.take(pa.array(rows)), first + rows, verdicts, edits)
        for name in CATEGORIES:
            of_category = category[first + rows] == name
            if of_category.any():
                yield name, edited.filter(pa.array(of_category))
        first += table.num_rows


_DROP = ""  # what stands in the place of a line that is cut: nothing


def _edited(table: pa.Table, rows: np.ndarray, verdicts: pa.Table, edits: Mapping[int, Mapping[str, Stretches]]):
    """Documents as they are published. `rows` are theirs in the partition, which verdicts and edits are of."""
    texts = table["text"].to_pylist()
    for place, row in enumerate(rows.tolist()):
        if row in edits:
            texts[place] = cut_text(texts[place], edits[row])
    columns = {name: table[name] for name in ("url", "date", "source", "title")} | {
        "id": pa.array([identity.hex() for identity in table["id"].to_pylist()], pa.string()),
        "language": verdicts["language"].take(pa.array(rows)),
        "text": pa.array(texts, pa.large_string()),
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
