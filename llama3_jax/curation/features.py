"""What is said of every document by itself: features computed over batches of texts, written beside them.

Each feature is a step of its own, so that changing one does not repeat the others; those that are due are computed in
one pass, so that each text is read, and cut into words and lines, once.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from llama3_jax.curation.annotations import Scores, Spans
from llama3_jax.curation.steps import DOCUMENTS, Counts, Results, Task
from llama3_jax.curation.tables import column_names
from llama3_jax.curation.text_batch import PART_BYTES, TextBatch


@dataclasses.dataclass(frozen=True)
class Batch:
    """Documents as a feature sees them."""

    texts: TextBatch
    urls: Sequence[str]
    scores: Scores  # of the features that the feature reads

    def __len__(self):
        return len(self.urls)


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What a feature says of a batch."""

    scores: Scores = dataclasses.field(default_factory=dict)
    spans: Mapping[str, Spans] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, pa.Array] = dataclasses.field(default_factory=dict)  # no scores: a table each


Annotate = Callable[[Batch], Annotated]
Make = Callable[[Task], Annotate]
"""A task -> its feature, the same for every partition; word lists and models are loaded here, once per process."""


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """What a feature depends on."""

    make: Make
    settings: Any = None
    reads: tuple[str, ...] = ()  # features whose scores it sees


def compute(tasks: Sequence[Task]) -> list[Counts]:
    """Computes features that are due for one partition, in one pass over its texts."""
    annotates = _made(_Due(tuple(task.results.fingerprint for task in tasks), tuple(tasks)))
    pieces: list[list[Annotated]] = [[] for _ in tasks]
    known = [_Known(task, {other.step for other in tasks}) for task in tasks]
    starts, ids, groups, num_bytes = [0], [], [0], 0
    index = tasks[0].index
    for table in tasks[0].inputs["documents"].batches(index, "documents", ("id", "url", "text")):
        for batch in _batches(table):
            fresh: dict[str, Scores] = {}
            for task, annotate, done, earlier in zip(tasks, annotates, pieces, known, strict=True):
                scores = earlier.of(starts[-1], len(batch), fresh)
                said = annotate(dataclasses.replace(batch, scores=scores))
                _check(task.step, said, len(batch))
                fresh[task.step] = said.scores
                done.append(said)
            starts.append(starts[-1] + len(batch))
        groups.append(len(starts) - 1)
        ids.append(table["id"])
        num_bytes += table["text"].nbytes
    counts = {DOCUMENTS: starts[-1], "bytes": num_bytes}
    for task, done in zip(tasks, pieces, strict=True):
        _write(task, ids, done, starts)
        for name in done[0].columns:
            found = [piece.columns[name] for piece in done]
            parts = [pa.chunked_array(found[first:last]) for first, last in itertools.pairwise(groups)]
            task.write_parts(name, [pa.table({name: part}) for part in parts])
    return [counts] * len(tasks)


def _batches(table: pa.Table) -> Iterator[Batch]:
    """The documents of a row group in pieces whose tables fit a cache; at least one."""
    texts, urls = TextBatch.from_arrow(table["text"]), table["url"].to_pylist()
    for first, part in list(texts.parts(PART_BYTES)) or [(0, texts)]:
        yield Batch(part, urls[first : first + len(part)], {})


@dataclasses.dataclass(frozen=True)
class _Due:
    """Features that are computed together: the same ones for all partitions, though their tasks differ."""

    fingerprints: tuple[str, ...]
    tasks: tuple[Task, ...] = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=1)
def _made(due: _Due) -> list[Annotate]:
    return [task.settings.make(task) for task in due.tasks]


class _Known:
    """Scores of earlier features for a feature: of those computed in this pass, and of those that lie written."""

    def __init__(self, task: Task, fresh: set[str]):
        roles = task.settings.reads
        self.fresh = [role for role in roles if role in fresh]
        tables = [task.inputs[role].rows(task.index, "scores") for role in roles if role not in fresh]
        self.written = {name: column(table, name) for table in tables for name in table.column_names if name != "id"}

    def of(self, start: int, count: int, fresh: Mapping[str, Scores]) -> Scores:
        scores = {name: values[start : start + count] for name, values in self.written.items()}
        for role in self.fresh:
            scores |= fresh[role]
        return scores


def _check(step: str, said: Annotated, count: int) -> None:
    for name, values in said.scores.items():
        if len(values) != count:
            raise AssertionError(f"{step}: {name} has {len(values)} scores for {count} documents")


def _write(task: Task, ids: Sequence[pa.ChunkedArray], pieces: Sequence[Annotated], starts: Sequence[int]) -> None:
    columns: dict[str, Any] = {
        "id": pa.chunked_array([chunk for array in ids for chunk in array.chunks], pa.binary(16))
    }
    for name in pieces[0].scores:
        columns[name] = pa.array(np.concatenate([np.asarray(piece.scores[name]) for piece in pieces]))
    if pieces[0].scores:
        task.write("scores", pa.table(columns))
    for name in pieces[0].spans:
        spans = [piece.spans[name] for piece in pieces]
        rows = np.concatenate([each.row + start for each, start in zip(spans, starts[:-1], strict=True)])
        rest = {field: np.concatenate([getattr(each, field) for each in spans]) for field in Spans._fields[1:]}
        task.write(f"spans-{name}", pa.table({"row": rows, **rest}))


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column as an array of numbers or strings."""
    return table[name].combine_chunks().to_numpy(zero_copy_only=False)


def read_scores(inputs: Mapping[str, Results], roles: Sequence[str], index: int) -> dict[str, np.ndarray]:
    """The scores of several features for one partition, by name."""
    scores: dict[str, np.ndarray] = {}
    for role in roles:
        table = inputs[role].rows(index, "scores")
        scores |= {name: column(table, name) for name in table.column_names if name != "id"}
    return scores


def read_score(inputs: Mapping[str, Results], roles: Sequence[str], index: int, name: str) -> np.ndarray:
    """One score for one partition, whichever feature gives it. Raises ValueError if none does."""
    for role in roles:
        if name in column_names(inputs[role].path(index, "scores")):
            return column(inputs[role].rows(index, "scores", (name,)), name)
    raise ValueError(f"no feature gives the score {name!r}; there are the features {', '.join(roles)}")


def read_spans(results: Results, index: int, name: str) -> Spans:
    """The spans of one kind that a feature found in one partition; rows are those of the partition."""
    table = results.rows(index, f"spans-{name}")
    return Spans(*(column(table, field) for field in Spans._fields))
