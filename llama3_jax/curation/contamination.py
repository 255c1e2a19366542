"""Overlap of documents with the training sets of benchmarks, by n-grams of 8 words.

The annealing data must not hold training sets of benchmarks (Llama 3, 3.1.3). The measure is that of the paper's
analysis of contamination (5.1.4), turned round: the share of a document's tokens that lie in an 8-gram which the
benchmarks have too. Tokens are words in lower case, without the marks between them, so spacing, case and punctuation
hide nothing.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import fsspec
import numpy as np

from llama3_jax.curation.annotations import Scores, Spans
from llama3_jax.curation.hashing import ngram_hashes
from llama3_jax.curation.text_batch import TextBatch

NGRAM_WORDS = 8
_BATCH_TEXTS = 10_000
_FILTER_BITS_PER_NGRAM = 16
_MIN_FILTER_BITS = 16


class BenchmarkIndex:
    """The n-grams of named benchmarks."""

    def __init__(self, texts: Mapping[str, Iterable[str]], num_words: int = NGRAM_WORDS):
        """`texts` are each benchmark's questions, answers and so on. Raises ValueError if none of them is long enough.

        A text of fewer words than an n-gram has none: `num_too_short` says how many those are of each benchmark.
        """
        self.names = tuple(sorted(texts))
        self.num_words = num_words
        self.num_too_short = dict.fromkeys(self.names, 0)
        keys, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for owner, name in enumerate(self.names):
            for batch in _batches(texts[name]):
                grams = _ngrams(batch, num_words)
                keys.append(grams.hash)
                owners.append(np.full(grams.hash.size, owner))
                self.num_too_short[name] += int((np.diff(grams.splits) == 0).sum())
        found, owner = np.concatenate(keys), np.concatenate(owners)
        if not found.size:
            raise ValueError(f"benchmarks {self.names}: no text has {num_words} words")
        order = np.lexsort((owner, found))
        found, owner = found[order], owner[order]
        first = np.append(True, found[1:] != found[:-1])
        self._keys, self._owners = found[first], owner[first]  # of an n-gram of two benchmarks the first name's
        bits = max((self._keys.size * _FILTER_BITS_PER_NGRAM - 1).bit_length(), _MIN_FILTER_BITS)
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, bool)
        self._maybe[self._keys >> self._shift] = True

    def __len__(self) -> int:
        """How many distinct n-grams there are."""
        return self._keys.size

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some n-grams are benchmarks': their places, int64, ascending, and the benchmarks, int64."""
        places = np.flatnonzero(self._maybe[hashes >> self._shift])
        rows = np.minimum(np.searchsorted(self._keys, hashes[places]), self._keys.size - 1)
        same = self._keys[rows] == hashes[places]
        return places[same], self._owners[rows[same]]


class Overlap(NamedTuple):
    """What `find_overlap` says of a batch."""

    scores: Scores
    """`benchmark_overlap` float64 [D], the share of words that lie in a shared n-gram (0 for a text without words);
    `benchmark` str [D], the one with most of the shared n-grams, "" where there are none."""
    spans: Spans  # the stretches that are shared, each as long as it gets; score 1


def find_overlap(batch: TextBatch, index: BenchmarkIndex) -> Overlap:
    """What documents share with benchmarks; each one's depends on it alone."""
    words = batch.words
    grams = _ngrams(batch, index.num_words)
    places, owners = index.find(grams.hash)
    # +1 where an n-gram begins to cover words and -1 where it no longer does.
    cover = np.bincount(grams.word[places], minlength=words.start.size + 1)
    cover -= np.bincount(grams.word[places] + index.num_words, minlength=words.start.size + 1)
    covered = np.cumsum(cover[:-1]) > 0
    before = np.concatenate([[0], np.cumsum(covered)])
    shared = np.diff(before[words.splits])
    share = shared / np.maximum(words.counts, 1)

    rows = np.searchsorted(grams.splits, places, side="right") - 1
    votes = np.zeros((len(batch), len(index.names)), np.int64)
    np.add.at(votes, (rows, owners), 1)
    names = np.array([*index.names, ""], dtype=str)
    benchmark = names[np.where(shared > 0, votes.argmax(axis=1), len(index.names))]
    return Overlap({"benchmark_overlap": share, "benchmark": benchmark}, _spans(batch, covered))


def _spans(batch: TextBatch, covered: np.ndarray) -> Spans:
    """Runs of covered words of one document, from the first one's start to the last one's end."""
    words = batch.words
    row = words.row
    inside = np.flatnonzero(covered)
    opens = np.ones(inside.size, bool)
    opens[1:] = (np.diff(inside) > 1) | (np.diff(row[inside]) > 0)
    first = inside[opens]
    last = inside[np.append(opens[1:], True)] if inside.size else inside
    start = batch.char_offsets(words.start[first], row[first])
    end = batch.char_offsets(words.end[last], row[last])
    return Spans(row[first], start, end, np.ones(first.size))


def _ngrams(batch: TextBatch, num_words: int):
    return ngram_hashes(batch.folded_hashes, batch.words.splits, num_words)


def _batches(texts: Iterable[str]) -> Iterator[TextBatch]:
    batch = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH_TEXTS:
            yield TextBatch.of(batch)
            batch = []
    if batch:
        yield TextBatch.of(batch)


def read_benchmark(path: str) -> Iterator[str]:
    """The texts of a benchmark's file, compressed or not, local or any fsspec URL.

    `.jsonl`: every string anywhere in a record is a text, whatever the names of the fields. Other files: every line.
    Raises ValueError that names the line that is not JSON.
    """
    with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as file:
        for number, line in enumerate(file, 1):
            if ".jsonl" not in path:
                yield line
            elif line.strip():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
                yield from _strings(record)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
