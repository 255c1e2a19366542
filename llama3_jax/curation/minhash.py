"""MinHash of documents: signatures, band keys, candidate pairs and exact similarity (Llama 3, 3.1: document dedup).

A document is the set of its word n-grams, in lower case, words as `TextBatch` has them in any script. Nothing is left
out: fewer than n words make one n-gram of all of them, and a text without words is one n-gram of its bytes, so that
short documents are compared too. A signature (Broder 1997) holds, for each of bands * rows permutations, the smallest
value of the document's n-grams. An n-gram is an odd 32-bit number, part of its hash, and the permutations are its
products with odd factors modulo 2^32. Odd numbers are a group under that product, so a factor does permute them, and
takes each to every other as often; as the n-grams are random already, the errors are those of independent
permutations. Two documents of Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands (Leskovec,
Rajaraman, Ullman, Mining of Massive Datasets, 3.4).

Map: batch -> signatures -> band keys. Reduce: keys in sorted order -> edges. `clusters.py` joins edges.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llama3_jax.curation import hashing
from llama3_jax.curation.text_batch import PART_BYTES, TextBatch

_BLOCK = 1 << 16  # n-grams permuted at a time


@dataclass(frozen=True, kw_only=True)
class MinHashConfig:
    """n-grams of `ngram` words, and bands * rows permutations. The default finds half of all pairs with s = .68."""

    ngram: int = 5
    bands: int = 14
    rows: int = 8
    lower: bool = True
    seed: int = 0

    def __post_init__(self):
        for name in ("ngram", "bands", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be a 64-bit number, not {self.seed}")


class Shingles(NamedTuple):
    """The n-grams of documents, at least one each: hash[splits[d]:splits[d + 1]] are those of document d."""

    hash: np.ndarray  # uint64 [G]
    splits: np.ndarray  # int64 [D + 1]


def shingles(batch: TextBatch, config: MinHashConfig) -> Shingles:
    """The n-grams of each document; repeated ones are repeated."""
    data = batch.lower_data if config.lower else batch.data
    words = batch.words
    word_hashes = batch.folded_hashes if config.lower else hashing.hash_ranges(data, words.start, words.end)
    grams = hashing.ngram_hashes(word_hashes, words.splits, config.ngram)
    counts = np.diff(grams.splits)
    short = np.flatnonzero(counts == 0)
    if not len(short):
        return Shingles(grams.hash, grams.splits)
    splits = np.zeros_like(grams.splits)
    np.cumsum(np.maximum(counts, 1), out=splits[1:])
    of_words = hashing.hash_sequences(word_hashes, words.splits[short], words.splits[short + 1])
    of_bytes = hashing.hash_ranges(data, batch.offsets[short], batch.offsets[short + 1])
    is_long = np.ones(splits[-1], bool)
    is_long[splits[short]] = False
    found = np.empty(splits[-1], np.uint64)
    found[is_long] = grams.hash
    found[splits[short]] = np.where(words.counts[short] > 0, of_words, of_bytes)
    return Shingles(found, splits)


def signatures(batch: TextBatch, config: MinHashConfig) -> np.ndarray:
    """The MinHash signature of each document, uint32 [D, bands * rows]."""
    found = np.empty((len(batch), config.bands * config.rows), np.uint32)
    for first, part in batch.parts(PART_BYTES):
        found[first : first + len(part)] = signatures_of_shingles(shingles(part, config), config)
    return found


def signatures_of_shingles(found: Shingles, config: MinHashConfig) -> np.ndarray:
    """As `signatures`."""
    factors = _factors(config)
    values = (found.hash >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    smallest = np.full((len(factors), len(found.splits) - 1), np.iinfo(np.uint32).max, np.uint32)
    room = np.empty(_BLOCK, np.uint32)
    for begin in range(0, len(values), _BLOCK):
        block = values[begin : begin + _BLOCK]
        permuted = room[: len(block)]
        # Documents that lie in the block, wholly or in part.
        first = int(np.searchsorted(found.splits, begin, side="right")) - 1
        stop = int(np.searchsorted(found.splits, begin + len(block)))
        starts = np.maximum(found.splits[first:stop] - begin, 0)
        for best, factor in zip(smallest[:, first:stop], factors, strict=True):
            np.multiply(block, factor, out=permuted)
            np.minimum(best, np.minimum.reduceat(permuted, starts), out=best)
    return np.ascontiguousarray(smallest.T)


def _factors(config: MinHashConfig) -> np.ndarray:
    """An odd factor for each permutation, uint32 [P]."""
    counters = np.arange(1, config.bands * config.rows + 1, dtype=np.uint64)
    numbers = hashing.mix64(hashing.mix64(np.array([config.seed], np.uint64)) + counters * hashing.GOLDEN)
    return (numbers >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def band_keys(found: np.ndarray, config: MinHashConfig, salt: np.ndarray | None = None) -> np.ndarray:
    """A key for each band of signatures uint32 [D, bands * rows]: uint64 [D, bands].

    Keys of different bands do not meet, nor those of documents with different `salt` (uint64 [D]: a language, say).
    """
    num_documents = len(found)
    rows = found.astype(np.uint64).reshape(-1)
    starts = np.arange(num_documents * config.bands) * config.rows
    keys = hashing.hash_sequences(rows, starts, starts + config.rows).reshape(num_documents, config.bands)
    keys = hashing.salted(keys, np.arange(config.bands, dtype=np.uint64))
    return keys if salt is None else hashing.salted(keys, salt[:, None])


def star_edges(chunks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """Candidate pairs from (keys uint64 [K], documents int64 [K]) in the order of (key, document), in chunks.

    Documents of one key are joined to the smallest of them: one edge each, not a pair for every two. Yields edges
    int64 [E, 2], smaller document first, a chunk for each chunk. Memory is that of one chunk, however large a key's
    group is. Raises ValueError where the order is broken.
    """
    last_key, last_document, centre = np.uint64(0), np.int64(-1), np.int64(-1)
    for keys, documents in chunks:
        keys = np.concatenate([[last_key], keys])
        documents = np.concatenate([[last_document], documents])
        same = keys[1:] == keys[:-1]
        if ((keys[1:] < keys[:-1]) | (same & (documents[1:] < documents[:-1]))).any():
            raise ValueError("keys are not in the order of (key, document)")
        same &= documents[:-1] >= 0  # the place before the first one is no document
        first = np.concatenate([[0], np.flatnonzero(~same) + 1])  # of each group; 0 is the one of the chunk before
        centres = documents[first]
        centres[0] = centre
        group = np.cumsum(np.concatenate([[False], ~same]))
        joined = np.flatnonzero(same & (documents[1:] != documents[:-1])) + 1
        yield np.stack([centres[group[joined]], documents[joined]], axis=1)
        last_key, last_document, centre = keys[-1], documents[-1], centres[-1]


def exact_jaccard(found: Shingles, pairs: np.ndarray, *, max_shingles: int = 1 << 22) -> np.ndarray:
    """The Jaccard similarity of the sets of n-grams of documents pairs[:, 0] and pairs[:, 1], float64 [E].

    pairs are rows of `found`, int64 [E, 2]. Up to `max_shingles` n-grams (and one pair) are looked at together. Exact
    but for collisions of 63-bit hashes.
    """
    sizes = np.diff(found.splits)[pairs].sum(axis=1)
    reach = np.concatenate([[0], np.cumsum(sizes)])
    similarity = np.empty(len(pairs))
    begin = 0
    while begin < len(pairs):
        end = max(int(np.searchsorted(reach, reach[begin] + max_shingles, side="right")) - 1, begin + 1)
        similarity[begin:end] = _jaccard(found, pairs[begin:end])
        begin = end
    return similarity


def _jaccard(found: Shingles, pairs: np.ndarray) -> np.ndarray:
    documents = pairs.reshape(-1)
    starts, counts = found.splits[documents], np.diff(found.splits)[documents]
    side = np.repeat(np.arange(len(documents)), counts)
    grams = found.hash[np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(len(side))]
    # One key says which n-gram of which pair, and its last bit on which side: what is shared stands together.
    one = np.uint64(1)
    keys = hashing.salted(grams, (side // 2).astype(np.uint64)) & ~one | side.astype(np.uint64) & one
    keys, first = np.unique(keys, return_index=True)
    pair = side[first] // 2
    num_shared = np.bincount(pair[1:][keys[1:] ^ keys[:-1] == one], minlength=len(pairs))
    return num_shared / (np.bincount(pair, minlength=len(pairs)) - num_shared)
