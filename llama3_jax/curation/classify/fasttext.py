"""Prediction with fastText's supervised models, whole batches at once, without fastText (Joulin et al. 2016).

Scores are fastText's own to 1e-5: it adds 1e-5 to probabilities before it takes their logarithm, so a score can be
1.00001, and it looks the sigmoids of one-vs-all and negative sampling up in a table of 512 steps, so there a sum that
is rounded over the border of a step makes a difference of up to 1/128. Of a tree of labels fastText leaves out those
below 1e-5, which are here. One line is one text to fastText; here line ends are white space.

A text's scores do not depend on its neighbours in the batch: sums run over its own words in their order, and products
with matrices are sums of columns, never BLAS, whose order of summation changes with shapes and threads.

Letters: B texts of a batch, L labels, D the model's dim.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse

from llama3_jax.curation.classify.fasttext_format import FastTextFile, read_fasttext
from llama3_jax.curation.classify.fasttext_words import (
    END_OF_LINE,
    Words,
    char_ngrams,
    fnv,
    split_words,
    word_hashes,
    word_ngrams,
)
from llama3_jax.curation.hashing import hash_ranges

LABEL_PREFIX = "__label__"
BATCH_BYTES = 8 << 20  # characters at once; larger batches share more words and take more memory
CACHED_SCORES = 1 << 16  # scores at once, so that they stay in the cache
LOG_OFFSET = 1e-5
SIGMOID_STEPS, SIGMOID_LIMIT = 512, 8
MAX_EXPONENT = np.float32(88)  # of what float32 holds


class Prediction(NamedTuple):
    """The best labels of each text, best first."""

    labels: np.ndarray  # int64 [B, k], indices of `labels`; -1 where the model knows nothing of the text
    scores: np.ndarray  # float32 [B, k]; NaN there


class FastTextModel:
    """A supervised model. Raises ValueError on construction if its parts do not fit together."""

    def __init__(self, file: FastTextFile, label_prefix: str = LABEL_PREFIX):
        """`label_prefix` is taken off the labels. The file does not say it: words that begin with fastText's default
        are never words of a text, as in fastText, which then does not know it either."""
        self.labels = tuple(
            label.decode("utf-8", "surrogateescape").removeprefix(label_prefix) for label in file.labels
        )
        self._file = file
        self._rows = _WordRows(file.words, file.labels)
        self._tree = _HuffmanTree(file.label_counts) if file.loss == "hierarchical_softmax" else None

    @classmethod
    def load(cls, path: str | Path, label_prefix: str = LABEL_PREFIX) -> "FastTextModel":
        """Reads a `.bin` or `.ftz`; ValueError says what is wrong with it."""
        return cls(read_fasttext(path), label_prefix)

    def predict(self, texts: Sequence[str], k: int = 1) -> Prediction:
        """The `k` best labels of each text; the label that comes first in the model wins a tie."""
        k = min(k, len(self.labels))
        labels, scores = [np.empty((0, k), np.int64)], [np.empty((0, k), np.float32)]
        for part in _batches(texts):
            found = self._scores(part)
            best = np.argmax(found, axis=1)[:, None] if k == 1 else np.argsort(-found, axis=1, kind="stable")[:, :k]
            best_scores = np.take_along_axis(found, best, axis=1)
            labels.append(np.where(np.isnan(best_scores), -1, best))
            scores.append(best_scores)
        return Prediction(np.concatenate(labels), np.concatenate(scores))

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [B, L]: fastText's score of every label, NaN for a text of which the model knows nothing."""
        return np.concatenate([np.empty((0, len(self.labels)), np.float32), *map(self._scores, _batches(texts))])

    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        hidden_BD, known = self._hidden(texts)
        scores = np.full((len(texts), len(self.labels)), np.nan, np.float32)
        size = max(CACHED_SCORES // len(self.labels), 1)
        for part in (slice(start, start + size) for start in range(0, len(texts), size)):
            scores[part] = _SCORES[self._file.loss](self._file.output_LD, hidden_BD[part], self._tree).T
        scores[~known] = np.nan
        return scores

    def _hidden(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, D], the mean of the input rows of each text's words and n-grams, and whether there are any."""
        file, words = self._file, split_words(texts)
        rows = self._rows.of(words)
        starts, distinct = _kept_words(words, rows)
        word_sums = _SumOfRows(words.keys.size, file.input_RD)
        in_vocabulary = (rows >= 0) & (rows < len(file.words))
        word_sums.add(rows[in_vocabulary], np.concatenate([[0], np.cumsum(in_vocabulary)]))
        if file.max_chars > 0:
            for hashes, ngram_starts in char_ngrams(words, file.min_chars, file.max_chars):
                word_sums.add(*self._bucket_rows(hashes, ngram_starts))
        total = _SumOfRows(len(texts), word_sums.sums)
        total.add(distinct, starts)
        counts = _sums_by_row(word_sums.counts[distinct], starts)
        if (end := self._rows.end_of_line) is not None:
            total.sums += file.input_RD[end]
            counts += 1
        if file.word_ngrams > 1:
            ngrams = _SumOfRows(len(texts), file.input_RD)
            for hashes, ngram_starts in word_ngrams(
                *_with_ends(word_hashes(words)[distinct], starts), file.word_ngrams
            ):
                ngrams.add(*self._bucket_rows(hashes, ngram_starts))
            total.sums += ngrams.sums
            counts += ngrams.counts
        return total.sums / np.maximum(counts, 1)[:, None].astype(np.float32), counts > 0

    def _bucket_rows(self, hashes: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the input matrix of hashed n-grams, without those that were pruned, and where each group's begin."""
        divisor = hashes.dtype.type(self._file.num_buckets)
        buckets = hashes - hashes // divisor * divisor  # a division by one number is faster than a remainder
        if self._file.bucket_rows is None:
            return buckets.astype(np.int64) + len(self._file.words), starts
        rows = self._file.bucket_rows[buckets]
        kept = rows >= 0
        return rows[kept] + np.int32(len(self._file.words)), np.concatenate([[0], np.cumsum(kept)])[starts]


class _WordRows:
    """Looks words up: their row of the input matrix."""

    def __init__(self, words: list[bytes], labels: list[bytes]):
        keys = _keys_of([*words, *labels])
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], order
        if np.any(self._keys[1:] == self._keys[:-1]):
            raise ValueError("two words of a fastText dictionary are the same")
        self._first_label = len(words)
        self.end_of_line = words.index(END_OF_LINE) if END_OF_LINE in words else None
        self._end_key = _keys_of([END_OF_LINE])[0]

    def of(self, words: Words) -> np.ndarray:
        """int64 [U]: the row; -1 unknown, -2 a label, -3 the end of a line."""
        rows = np.full(words.keys.size, -1, np.int64)
        if self._keys.size:
            place = np.minimum(np.searchsorted(self._keys, words.keys), self._keys.size - 1)
            rows = np.where(self._keys[place] == words.keys, self._rows[place], rows)
        rows[rows >= self._first_label] = -2
        prefix = LABEL_PREFIX.encode()
        for word in np.flatnonzero(words.data[words.starts] == prefix[0]).tolist():
            start = words.starts[word]
            if rows[word] == -1 and words.data[start : words.stops[word]].tobytes().startswith(prefix):
                rows[word] = -2
        rows[words.keys == self._end_key] = -3
        return rows


def _keys_of(words: list[bytes]) -> np.ndarray:
    """uint64 [len(words)]: the `keys` that these have among the words of texts."""
    stops = np.cumsum([len(word) for word in words], dtype=np.int64)
    starts = stops - np.array([len(word) for word in words], np.int64)
    return hash_ranges(np.frombuffer(b"".join(words), np.uint8), starts, stops)


def _kept_words(words: Words, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each text's words begin and which they are, without labels and what follows a literal end of line."""
    special = rows <= -2
    if not special.any():
        return words.document_starts, words.distinct
    kept = ~special[words.distinct]
    ends = np.flatnonzero((rows == -3)[words.distinct])
    owners = np.searchsorted(words.document_starts, ends, side="right") - 1
    for text, end in zip(owners.tolist(), ends.tolist(), strict=True):
        kept[end : words.document_starts[text + 1]] = False
    return np.concatenate([[0], np.cumsum(kept)])[words.document_starts], words.distinct[kept]


def _with_ends(hashes: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of words with that of the end of line after each text's, and where each text's begin."""
    return np.insert(hashes, starts[1:], np.uint32(fnv(END_OF_LINE))), starts + np.arange(starts.size)


class _SumOfRows:
    """For each of a number of groups the sum of the rows of a matrix that it names, and how many they are."""

    def __init__(self, num_groups: int, matrix: np.ndarray):
        self.sums = np.zeros((num_groups, matrix.shape[1]), np.float32)
        self.counts = np.zeros(num_groups, np.int64)
        self._matrix = matrix

    def add(self, rows: np.ndarray, starts: np.ndarray) -> None:
        """Adds `rows[starts[i] : starts[i + 1]]` to group i, in that order."""
        ones = np.ones(rows.size, np.float32)
        shape = (self.counts.size, self._matrix.shape[0])
        self.sums += scipy.sparse.csr_matrix((ones, rows, starts), shape=shape) @ self._matrix
        self.counts += np.diff(starts)


def _sums_by_row(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    totals = np.concatenate([[0], np.cumsum(values)])
    return totals[starts[1:]] - totals[starts[:-1]]


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start, size = 0, 0
    for stop, text in enumerate(texts):
        if size and size + len(text) > BATCH_BYTES:
            yield texts[start:stop]
            start, size = stop, 0
        size += len(text) + 1
    if start < len(texts):
        yield texts[start:]


def _logits(output_LD: np.ndarray, hidden_BD: np.ndarray) -> np.ndarray:
    """float32 [L, B]."""
    logits = np.zeros((output_LD.shape[0], hidden_BD.shape[0]), np.float32)
    for column, weights in zip(np.ascontiguousarray(hidden_BD.T), output_LD.T, strict=True):
        logits += weights[:, None] * column
    return logits


def _softmax_scores(output_LD: np.ndarray, hidden_BD: np.ndarray, _) -> np.ndarray:
    logits = _logits(output_LD, hidden_BD)
    powers = np.exp(logits - logits.max(axis=0))
    total = np.zeros(powers.shape[1], np.float32)
    for label in powers:
        total += label
    return powers / total + np.float32(LOG_OFFSET)


def _sigmoid_scores(output_LD: np.ndarray, hidden_BD: np.ndarray, _) -> np.ndarray:
    steps = np.arange(SIGMOID_STEPS + 1) * 2 * SIGMOID_LIMIT / SIGMOID_STEPS - SIGMOID_LIMIT
    table = (1 / (1 + np.exp(-steps))).astype(np.float32)
    logits = _logits(output_LD, hidden_BD)
    place = (np.clip(logits, -SIGMOID_LIMIT, SIGMOID_LIMIT) + SIGMOID_LIMIT) * SIGMOID_STEPS / SIGMOID_LIMIT / 2
    found = table[place.astype(np.int64)]
    found = np.where(logits > SIGMOID_LIMIT, np.float32(1), np.where(logits < -SIGMOID_LIMIT, np.float32(0), found))
    return found + np.float32(LOG_OFFSET)


class _HuffmanTree:
    """fastText's tree over labels by their counts: leaves are labels, inner nodes rows of the output matrix."""

    def __init__(self, counts: np.ndarray):
        num_labels = counts.size
        weights = [*counts.tolist(), *[10**15] * (num_labels - 1)]
        self.children = np.zeros((max(num_labels - 1, 0), 2), np.int64)
        leaf, node = num_labels - 1, num_labels
        for parent in range(num_labels - 1):
            for side in range(2):
                if leaf >= 0 and weights[leaf] < weights[node]:
                    self.children[parent, side], leaf = leaf, leaf - 1
                else:
                    self.children[parent, side], node = node, node + 1
            weights[num_labels + parent] = sum(weights[child] for child in self.children[parent])

    def scores(self, output_LD: np.ndarray, hidden_BD: np.ndarray) -> np.ndarray:
        """float32 [L, B]: products of the probabilities of the turns from the root to each label."""
        num_labels = output_LD.shape[0]
        left = np.minimum(-_logits(output_LD[: num_labels - 1], hidden_BD), MAX_EXPONENT)
        right = 1 / (1 + np.exp(left))
        turns = np.stack([1 - right, right], axis=1) + np.float32(LOG_OFFSET)
        scores = np.ones((2 * num_labels - 1, hidden_BD.shape[0]), np.float32)
        for parent in reversed(range(num_labels - 1)):
            scores[self.children[parent]] = turns[parent] * scores[num_labels + parent]
        return scores[:num_labels]


def _hierarchical_scores(output_LD: np.ndarray, hidden_BD: np.ndarray, tree: _HuffmanTree) -> np.ndarray:
    return tree.scores(output_LD, hidden_BD)


_SCORES = {
    "softmax": _softmax_scores,
    "one_vs_all": _sigmoid_scores,
    "negative_sampling": _sigmoid_scores,
    "hierarchical_softmax": _hierarchical_scores,
}
