"""Texts as bags of hashed n-grams of words and of characters: what linear classifiers see.

The column of an n-gram is the highest bits of its 64-bit hash (Weinberger et al. 2009), so there is no dictionary to
build or ship, and a document's features depend on its text alone.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.hashing import hash_ranges, ngram_hashes, salted
from llama3_jax.curation.text_batch import TextBatch

MAX_BITS = 30
PART_BYTES = 1 << 20  # of text at a time: its tables stay in the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Which n-grams. Raises ValueError for what makes no sense."""

    word_ngrams: int = 2  # the longest; 0: no words
    min_chars: int = 1  # n-grams of the characters of a word with one before and one after it
    max_chars: int = 0  # 0: none
    bits: int = 20  # 2 ** bits columns
    lower_case: bool = True

    def __post_init__(self):
        if self.word_ngrams < 0 or self.max_chars < 0 or not (self.word_ngrams or self.max_chars):
            raise ValueError(f"word_ngrams and max_chars: no features, {self.word_ngrams} and {self.max_chars}")
        if self.min_chars < 1:
            raise ValueError(f"min_chars must be positive, not {self.min_chars}")
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be 1 to {MAX_BITS}, not {self.bits}")


class Features(NamedTuple):
    """The n-grams of D documents, each as often as it occurs: those of document d are splits[d]:splits[d + 1]."""

    columns: np.ndarray  # int32 [F]
    splits: np.ndarray  # int64 [D + 1]

    def rows(self, rows: np.ndarray) -> "Features":
        """The features of some documents, int64 [n], in that order."""
        counts = np.diff(self.splits)[rows]
        splits = np.concatenate([[0], np.cumsum(counts)])
        return Features(
            self.columns[np.repeat(self.splits[rows] - splits[:-1], counts) + np.arange(splits[-1])], splits
        )


def hashed_features(batch: TextBatch, config: FeatureConfig) -> Features:
    """The features of a batch of texts."""
    parts = [_features(part, config) for _, part in batch.parts(PART_BYTES)]
    counts = [np.diff(part.splits) for part in parts]
    columns = np.concatenate([np.empty(0, np.int32), *(part.columns for part in parts)])
    return Features(columns, np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))]))


def _features(batch: TextBatch, config: FeatureConfig) -> Features:
    data = batch.lower_data if config.lower_case else batch.data
    kinds = []
    if config.word_ngrams:
        words = batch.words
        hashes = hash_ranges(data, words.start, words.end)
        kinds.append((hashes, words.splits))
        for size in range(2, config.word_ngrams + 1):
            grams = ngram_hashes(hashes, words.splits, size)
            kinds.append((grams.hash, grams.splits))
    for size in range(config.min_chars, config.max_chars + 1):
        kinds.append(_char_ngrams(batch, data, size))
    return _interleaved(kinds, np.uint64(64 - config.bits))


def _char_ngrams(batch: TextBatch, data: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of n-grams of characters that lie in one token or touch one end of it, and where each document's begin."""
    begins = np.flatnonzero((data & 0xC0) != 0x80)
    tokens = batch.tokens
    # Each token with the character before it and the one after it, which are white space or not of its document.
    first = np.searchsorted(begins, tokens.start) - 1
    last = np.searchsorted(begins, tokens.end)
    counts = np.maximum(last - first + 2 - size, 0)
    ends = np.cumsum(counts)
    place = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    token = np.repeat(np.arange(counts.size), counts)
    edges = np.append(begins, data.size)
    start = np.clip(edges.take(first[token] + place, mode="clip"), tokens.start[token], tokens.end[token])
    end = np.minimum(edges.take(first[token] + place + size, mode="clip"), tokens.end[token])
    # Where the white space is left out, which end it was at tells " a" from "a ".
    opens, closes = place == 0, place == counts[token] - 1
    hashes = salted(hash_ranges(data, start, end), (size * 4 + opens * 2 + closes).astype(np.uint64))
    return hashes, np.concatenate([[0], ends])[tokens.splits]


def _interleaved(kinds: list[tuple[np.ndarray, np.ndarray]], shift: np.uint64) -> Features:
    """Hashes of several kinds as columns, document by document."""
    splits = np.sum([splits for _, splits in kinds], axis=0)
    columns = np.empty(splits[-1], np.int32)
    done = splits[:-1].copy()
    for hashes, kind_splits in kinds:
        counts = np.diff(kind_splits)
        columns[np.repeat(done - kind_splits[:-1], counts) + np.arange(hashes.size)] = (hashes >> shift).astype(
            np.int32
        )
        done += counts
    return Features(columns, splits)
