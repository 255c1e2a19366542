"""Lines that a corpus repeats: seen more than six times in a bucket of 30M documents (Llama 3, 3.1; as ccNet).

Map: batch -> a key for each line. Reduce: hashes in sorted order -> how often a line occurs, and how many of those
stand before this one, in bounded memory for any number of lines. `LineRule` then says which go, so that it can be
changed without counting again. The paper does not say whether the first six stay: `keep` says it.

A bucket, and a language, is a `salt`: lines are counted only with lines of the same one. Every occurrence counts, also
in one document.

Lines are compared as ccNet does (Wenzek et al. 2019): stripped, in lower case, digits as zeros, without controls and
the punctuation of `characters.ccnet_letters`. A line of which nothing is left is not counted. One thing differs: digits
of another script become that script's zero.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llama3_jax.curation import characters, hashing
from llama3_jax.curation.text_batch import PART_BYTES, TextBatch

_NEWLINE = ord("\n")
KEEP = ("first", "none")


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """Lines of fewer than `min_chars` characters, stripped, are not counted; the default counts all, as ccNet does."""

    min_chars: int = 1

    def __post_init__(self):
        if self.min_chars < 1:
            raise ValueError(f"min_chars must be positive, not {self.min_chars}")


@dataclass(frozen=True, kw_only=True)
class LineRule:
    """A line that occurs more than `max_count` times goes: all but the first `max_count` ("first"), or all ("none")."""

    max_count: int = 6
    keep: str = "first"

    def __post_init__(self):
        if self.max_count < 1:
            raise ValueError(f"max_count must be positive, not {self.max_count}")
        if self.keep not in KEEP:
            raise ValueError(f"keep must be one of {KEEP}, not {self.keep!r}")

    def drops(self, count: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """True for the lines that go, bool [L], by their `count` and `rank`, [L] each."""
        return (count > self.max_count) & ((rank >= self.max_count) | (self.keep == "none"))


class LineKeys(NamedTuple):
    """Lines that are counted, in the order of document and place; (document, start) orders those of one hash."""

    hash: np.ndarray  # uint64 [L]
    row: np.ndarray  # int64 [L]: the document's index within the batch
    start: np.ndarray  # int64 [L]: in characters
    end: np.ndarray  # int64 [L]: after the line's newline, where it has one, so that cutting the span removes the line


def line_keys(batch: TextBatch, config: LineConfig, salt: np.ndarray | None = None) -> LineKeys:
    """The lines of a batch that are counted. Only lines of documents with equal `salt` (uint64 [D]) meet."""
    parts = []
    for first, part in batch.parts(PART_BYTES):
        keys = _line_keys(part, config, None if salt is None else salt[first : first + len(part)])
        parts.append(keys._replace(row=keys.row + first))
    if not parts:
        empty = np.zeros(0, np.int64)
        return LineKeys(empty.astype(np.uint64), empty, empty, empty)
    return LineKeys(*map(np.concatenate, zip(*parts, strict=True)))


def _line_keys(batch: TextBatch, config: LineConfig, salt: np.ndarray | None) -> LineKeys:
    lines, row = batch.lines, batch.lines.row
    line, start, end = _stripped(batch)
    if config.min_chars > 1:
        length = batch.char_offsets(end, row[line]) - batch.char_offsets(start, row[line])
        enough = length >= config.min_chars
        line, start, end = line[enough], start[enough], end[enough]
    data = batch.replaced(characters.ccnet_letters())
    removed = data == 0
    if removed.any():
        data = data[~removed]
        places = np.flatnonzero(removed)
        start, end = (edge - np.searchsorted(places, edge) for edge in (start, end))
        left = end > start
        line, start, end = line[left], start[left], end[left]
    hashes = hashing.hash_ranges(data, start, end)
    row = row[line]
    after = np.minimum(lines.end[line] + 1, batch.offsets[row + 1])
    return LineKeys(
        hashes if salt is None else hashing.salted(hashes, salt[row]),
        row,
        batch.char_offsets(lines.start[line], row),
        batch.char_offsets(after, row),
    )


def _stripped(batch: TextBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lines that hold more than white space: index, first byte and end of what they hold."""
    is_space = batch.is_space
    inside = ~is_space
    # A lone space in a line changes nothing here; taken in, it leaves few runs, and it goes faster.
    alone = np.zeros_like(is_space)
    alone[1:-1] = is_space[1:-1] & inside[:-2] & inside[2:] & (batch.data[1:-1] != _NEWLINE)
    borders = batch.offsets[(batch.offsets > 0) & (batch.offsets < len(batch.data))]
    alone[borders] = alone[borders - 1] = False
    inside |= alone
    runs = batch.runs(inside)
    first = np.searchsorted(runs.start, batch.lines.start)
    stop = np.append(first[1:], len(runs.start))
    line = np.flatnonzero(stop > first)
    return line, runs.start[first[line]], runs.end[stop[line] - 1]


class _Run(NamedTuple):
    """The groups at the two ends of a chunk of sorted hashes."""

    first: int
    num_first: int
    last: int
    num_last: int
    is_one: bool  # the chunk holds one group only


def count_and_rank(read: Callable[[], Iterable[np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For chunks of hashes uint64 [K] in sorted order: how many equal each, and how many of those stand before it.

    `read()` gives the chunks, and is called twice: groups may reach over any number of chunks, and the first pass finds
    how far those do. Yields (count, rank), int64 [K] each, for each chunk. Memory is that of one chunk, and a few
    numbers for each.
    Raises ValueError where the order is broken.
    """
    runs = [_run(chunk) for chunk in read() if len(chunk)]
    for before, after in zip(runs, runs[1:], strict=False):
        if before.last > after.first:
            raise ValueError("hashes are not in order from chunk to chunk")
    reach_back, reach_on = _reach(runs), _reach([_turned(run) for run in reversed(runs)])[::-1]
    number = 0
    for chunk in read():
        if not len(chunk):
            yield np.zeros(0, np.int64), np.zeros(0, np.int64)
            continue
        starts = _group_starts(chunk)
        counts = np.diff(np.append(starts, len(chunk)))
        rank = np.arange(len(chunk)) - np.repeat(starts, counts)
        rank[: counts[0]] += reach_back[number]
        sizes = counts.copy()
        sizes[0] += reach_back[number]
        sizes[-1] += reach_on[number]
        yield np.repeat(sizes, counts), rank
        number += 1


def _group_starts(chunk: np.ndarray) -> np.ndarray:
    if (chunk[1:] < chunk[:-1]).any():
        raise ValueError("hashes are not in order")
    return np.concatenate([[0], np.flatnonzero(chunk[1:] != chunk[:-1]) + 1])


def _run(chunk: np.ndarray) -> _Run:
    starts = _group_starts(chunk)
    ends = np.append(starts[1:], len(chunk))
    first, last = int(ends[0]), int(len(chunk) - starts[-1])
    return _Run(int(chunk[0]), first, int(chunk[-1]), last, len(starts) == 1)


def _turned(run: _Run) -> _Run:
    return _Run(run.last, run.num_last, run.first, run.num_first, run.is_one)


def _reach(runs: list[_Run]) -> list[int]:
    """For each chunk, how many entries of the chunks before it belong to its first group."""
    found, last, num_last = [], None, 0
    for run in runs:
        reach = num_last if run.first == last else 0
        found.append(reach)
        last, num_last = run.last, run.num_last + (reach if run.is_one else 0)
    return found
