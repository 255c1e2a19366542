"""Sorted runs of counted words on disk, and their sum: word counts that do not have to fit in memory."""

import heapq
import itertools
import operator
import os
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

_ROWS = 1 << 14
_SCHEMA = pa.schema([("word", pa.large_string()), ("count", pa.int64())])


def write_run(counts: Mapping[str, int], path: str | os.PathLike) -> None:
    """Writes `counts` to `path`, in the order of the words' code points, which is that of their UTF-8 bytes."""
    with pa.OSFile(os.fspath(path), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
        words = iter(sorted(counts))
        while rows := list(itertools.islice(words, _ROWS)):
            stream.write_batch(pa.record_batch([rows, [counts[word] for word in rows]], schema=_SCHEMA))


def read_run(path: str | os.PathLike) -> Iterator[tuple[str, int]]:
    """The words and counts of a run, in order; a few thousand of them are in memory at a time."""
    with pa.OSFile(os.fspath(path), "rb") as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            yield from zip(batch["word"].to_pylist(), batch["count"].to_pylist(), strict=True)


def sum_runs(runs: Iterable[Iterable[tuple[str, int]]]) -> Iterator[tuple[str, int]]:
    """Every word of the sorted `runs` once, in order, with the sum of its counts."""
    merged = heapq.merge(*runs)
    for word, group in itertools.groupby(merged, key=operator.itemgetter(0)):
        yield word, sum(count for _, count in group)
