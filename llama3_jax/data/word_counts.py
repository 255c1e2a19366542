"""Counts the words of a corpus in parallel and in bounded memory, with a weight for each source (paper §3.2).

Counts are exact. When the tables of all sources together hold more words than a budget, they are written to disk as
sorted runs, which are summed at the end. Only what is handed to the trainer is cut: of more than `max_words` different
words those with the highest weighted counts are kept (of equals, those that sort first), and how many were left out,
and how much of the text they are, is reported. Nothing depends on the order of documents, batches or workers.
"""

import collections
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np

from llama3_jax.core.workers import end_with_parent
from llama3_jax.data.sources import batches
from llama3_jax.data.tokenizer import replace_surrogates
from llama3_jax.data.word_runs import read_run, sum_runs, write_run
from llama3_jax.data.words import count_words

_ALONE_CHARS = 1 << 24  # starting processes costs as long as counting this much
_MAX_COUNT = 2**62


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountConfig:
    """How to count. `weights` says how many times each document of a source counts; a source not named counts once.

    With `balance` the weights follow from the sizes instead: see `balanced_weights`.
    """

    weights: Mapping[str, int] = dataclasses.field(default_factory=dict)
    balance: float | None = None
    max_words: int = 1 << 22
    max_table_words: int = 1 << 22
    num_workers: int | None = None

    def __post_init__(self):
        for name, weight in self.weights.items():
            if not isinstance(weight, int) or weight < 1:
                raise ValueError(f"weights: {name} must be a whole number from 1, got {weight!r}")
        if self.balance is not None and not 0 <= self.balance <= 1:
            raise ValueError(f"balance must be from 0 (equal shares) to 1 (as they are), got {self.balance}")
        if self.balance is not None and self.weights:
            raise ValueError("give weights or balance, not both")
        for name in ("max_words", "max_table_words", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclasses.dataclass
class SourceCount:
    """Size of one source: its documents, their characters and UTF-8 bytes before weighting, and its weight."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    weight: int = 1

    def __iadd__(self, other: "SourceCount") -> "SourceCount":
        self.documents += other.documents
        self.characters += other.characters
        self.bytes += other.bytes
        return self


@dataclasses.dataclass(frozen=True)
class WordTable:
    """Different words in the order of their bytes, with weighted counts, int64 `[num_words]`.

    `left_out_words` different words, with `left_out_count` of `total_count` occurrences, were too many to keep.
    """

    words: list[str]
    counts: np.ndarray
    sources: dict[str, SourceCount]
    total_count: int
    left_out_words: int = 0
    left_out_count: int = 0


def balanced_weights(num_bytes: Mapping[str, int], exponent: float) -> dict[str, int]:
    """Weights that give each source a share of the text proportional to its size to the power of `exponent`.

    1 leaves all as they are; 0 gives all the same share. Weights are whole: repeats relative to the largest source.
    """
    largest = max(num_bytes.values())
    return {name: max(1, round((largest / max(1, size)) ** (1 - exponent))) for name, size in num_bytes.items()}


def count_corpus(
    documents: Iterable[tuple[str, str]],
    config: CountConfig,
    *,
    on_progress: Callable[[int], object] = lambda num_bytes: None,
) -> WordTable:
    """Counts the words of `documents`, pairs of (name of the source, text).

    `on_progress` is told the UTF-8 bytes counted since the last call. Raises ValueError on a weight for a source that
    is not there, on a corpus without text, and on weighted counts that do not fit 64 bits.
    """
    with tempfile.TemporaryDirectory(prefix="llama3_words_") as folder:
        tables = _Tables(pathlib.Path(folder), config.max_table_words)
        for name, counts, size in _count_batches(batches(documents), config.num_workers):
            tables.add(name, counts, size)
            on_progress(size.bytes)
        sizes = tables.sizes
        if not any(size.characters for size in sizes.values()):
            raise ValueError("the corpus to train a tokenizer on is empty")
        unknown = set(config.weights) - set(sizes)
        if unknown:
            raise ValueError(f"weights: there is no source {min(unknown)!r}; there are {', '.join(sorted(sizes))}")
        weights = config.weights
        if config.balance is not None:
            weights = balanced_weights({name: size.bytes for name, size in sizes.items()}, config.balance)
        for name, size in sizes.items():
            size.weight = weights.get(name, 1)
        return _keep_heaviest(sum_runs(tables.weighted_runs()), sizes, config.max_words)


class _Tables:
    """Word counts by source, in memory up to `max_words` in all, and beyond that in sorted runs on disk."""

    def __init__(self, folder: pathlib.Path, max_words: int):
        self.sizes: dict[str, SourceCount] = {}
        self._counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._runs: list[tuple[str, pathlib.Path]] = []
        self._folder, self._max_words = folder, max_words

    def add(self, name: str, counts: Mapping[str, int], size: SourceCount) -> None:
        total = self.sizes.setdefault(name, SourceCount())
        total += size
        self._counts[name].update(counts)
        if sum(map(len, self._counts.values())) > self._max_words:
            self._spill()

    def weighted_runs(self) -> list[Iterator[tuple[str, int]]]:
        """Each sorted run with its counts times the weight of its source; those in memory come last."""
        if self._runs:
            self._spill()
            runs = [(name, read_run(path)) for name, path in self._runs]
        else:
            runs = [(name, iter(sorted(counts.items()))) for name, counts in self._counts.items()]
        return [_weighted(run, self.sizes[name].weight) for name, run in runs]

    def _spill(self) -> None:
        for name, counts in self._counts.items():
            path = self._folder / str(len(self._runs))
            write_run(counts, path)
            self._runs.append((name, path))
        self._counts.clear()


def _weighted(run: Iterable[tuple[str, int]], weight: int) -> Iterator[tuple[str, int]]:
    return ((word, count * weight) for word, count in run)


def _keep_heaviest(words: Iterable[tuple[str, int]], sizes: dict[str, SourceCount], max_words: int) -> WordTable:
    kept: list[tuple[str, int]] = []
    num_words = total = 0
    while block := list(itertools.islice(words, max_words)):
        num_words += len(block)
        total += sum(count for _, count in block)
        kept += block
        if len(kept) > max_words:
            heaviest = sorted(kept, key=lambda item: (-item[1], item[0]))[:max_words]
            kept = sorted(heaviest)
    if total > _MAX_COUNT:
        raise ValueError(f"the weighted counts of the words add up to {total:,}, more than 64 bits hold")
    counts = np.array([count for _, count in kept], np.int64)
    names = [word for word, _ in kept]
    return WordTable(names, counts, sizes, total, num_words - len(kept), total - int(counts.sum()))


Counted = tuple[str, collections.Counter[str], SourceCount]


def _count_batch(name: str, texts: list[str]) -> Counted:
    texts = list(map(replace_surrogates, texts))
    size = SourceCount(len(texts), sum(map(len, texts)), sum(len(text.encode()) for text in texts))
    return name, count_words(texts), size


def _count_batches(work: Iterator[tuple[str, list[str]]], num_workers: int | None) -> Iterator[Counted]:
    """Counts in this process, and what is left of a large corpus in `num_workers` (all cores) others."""
    num_workers = num_workers or len(os.sched_getaffinity(0))
    num_chars = 0
    for name, texts in work:
        yield _count_batch(name, texts)
        num_chars += sum(map(len, texts))
        if num_workers > 1 and num_chars >= _ALONE_CHARS:
            break
    waiting: collections.deque[Future[Counted]] = collections.deque()
    head = next(work, None)
    if head is None:
        return
    # Not forked: a process with JAX in it has threads that a copy would wait for.
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        for name, texts in itertools.chain([head], work):
            waiting.append(pool.submit(_count_batch, name, texts))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
