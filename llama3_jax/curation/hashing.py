"""64-bit hashes of stretches of text and of sequences of such hashes, vectorised over a batch.

One family serves words, lines, documents, n-grams and bands. The state starts from length and seed, and takes in one
64-bit unit after another through `mix64`, a bijection in which every bit of its input reaches every bit of the hash:

    h = length * GOLDEN + mix64(seed);   h = mix64(h ^ unit), for each unit

A stretch of bytes is its little-endian units of 8 bytes, the last one padded with zeros. What is longer than 32 units
is hashed in blocks of 32, and then the blocks' hashes are, so that a long document needs few steps too. Words of up to
8 bytes and equal length never collide. Otherwise a collision has the odds of random 64-bit numbers, unless somebody
searches for one: the family is fast, not cryptographic. Polynomials modulo 2^64, the usual vectorised choice, have weak
low bits and fixed texts that collide under every multiplier (Thue-Morse); this has neither.

A hash depends on the bytes and the seed alone: not on machine, process, batch or neighbours.
"""

from typing import NamedTuple

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UNIT = 8  # bytes
_FANOUT = 32  # units of a block
_CHUNK = 1 << 15  # hashes made at a time, so that what they need on the way stays in the cache
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(_UNIT + 1)], np.uint64)
_PLACE = np.uint64(0xD6E8FEB86659FD93)  # odd; its powers are the weights of an n-gram's words


class Ngrams(NamedTuple):
    """Runs of n words that lie in one document, in order; entries splits[d]:splits[d + 1] are those of document d."""

    hash: np.ndarray  # uint64 [G]
    word: np.ndarray  # int64 [G]: index of the first word
    splits: np.ndarray  # int64 [D + 1]


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014) on an array of uint64, as a new array."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def salted(hashes: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """Hashes that meet only where their salts (a band, a language, a bucket) are equal; both uint64, broadcast."""
    return mix64(hashes ^ mix64(np.atleast_1d(salt) + GOLDEN))  # a lone number would warn of overflow


def hash_ranges(data: np.ndarray, start: np.ndarray, end: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The hash of data[start:end], uint64 [R], for ranges int64 [R] of data uint8 [N]; a range may be empty."""
    padded = np.zeros(len(data) + _UNIT, np.uint8)
    padded[: len(data)] = data
    units = np.ndarray((len(data) + 1,), "<u8", padded.data, strides=(1,))  # the unit that begins at each byte
    return _hash_in_blocks(units, _UNIT, start, end, seed)


def hash_sequences(units: np.ndarray, start: np.ndarray, end: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The hash of units[start:end], uint64 [R], for ranges int64 [R] of units uint64 [U]; a range may be empty."""
    units = np.append(units, np.uint64(0))  # what an empty range at the end may look at
    return _hash_in_blocks(units, 1, start, end, seed)


def _hash_block(units: np.ndarray, step: int, start: np.ndarray, length: np.ndarray, seed: int) -> np.ndarray:
    """Hashes of ranges of up to FANOUT * step places; units[i] begins at place i and is `step` places long."""
    lengths = np.arange(_FANOUT * step + 1)
    begin = lengths.astype(np.uint64) * GOLDEN + mix64(np.array([seed % 2**64], np.uint64))
    state = mix64(begin[length] ^ units[start] & _kept(lengths, step)[length])
    # The rest of the longer ones, the longest first: those that still go on are then a slice, not a selection.
    longer = np.flatnonzero(length > step)
    num_units = -(-length[longer] // step)
    order = np.argsort((_FANOUT - num_units).astype(np.uint8), kind="stable")
    longer = longer[order]
    position, going = start[longer], state[longer]
    last = _kept(length[longer] - step * (num_units[order] - 1), step)
    longer_than = len(longer) - np.cumsum(np.bincount(num_units, minlength=2))
    for place in range(1, len(longer_than) - 1):
        count, more = longer_than[place : place + 2]
        unit = units[position[:count] + step * place]
        unit[more:] &= last[more:count]
        going[:count] = mix64(going[:count] ^ unit)
    state[longer] = going
    return state


def _kept(length: np.ndarray, step: int) -> np.ndarray:
    """The bits of a unit that belong to a range of which so much is left."""
    return _FIRST_BYTES[np.minimum(length, step) * (_UNIT // step)]


def _hash_in_blocks(units: np.ndarray, step: int, start: np.ndarray, end: np.ndarray, seed: int) -> np.ndarray:
    """Hashes of ranges of any length; `units` and `step` as in `_hash_block`."""
    limit, length = _FANOUT * step, end - start
    hashes = np.empty(len(start), np.uint64)
    for first in range(0, len(start), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        # Of a longer range this is the first block's, for now.
        hashes[chunk] = _hash_block(units, step, start[chunk], np.minimum(length[chunk], limit), seed)
    long = np.flatnonzero(length > limit)
    if len(long):
        num_blocks = -(-length[long] // limit)
        splits = np.zeros(len(long) + 1, np.int64)
        np.cumsum(num_blocks, out=splits[1:])
        block_start = np.repeat(start[long] - splits[:-1] * limit, num_blocks) + np.arange(splits[-1]) * limit
        block_end = np.minimum(block_start + limit, np.repeat(end[long], num_blocks))
        blocks = _hash_in_blocks(units, step, block_start, block_end, seed)
        hashes[long] = hash_sequences(blocks, splits[:-1], splits[1:], seed=seed)
    return hashes


def ngram_hashes(hashes: np.ndarray, splits: np.ndarray, n: int) -> Ngrams:
    """The n-grams of words with `hashes` uint64 [W], where words splits[d]:splits[d + 1] are those of document d.

    A document of fewer than n words has none. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be positive, not {n}")
    found = np.zeros(len(splits), np.int64)
    np.cumsum(np.maximum(np.diff(splits) - (n - 1), 0), out=found[1:])
    begins = np.ones(max(len(hashes) - n + 1, 0), bool)
    ends = splits[1:, None] - np.arange(1, n)  # words too near the end of a document, or before it begins
    ends = ends[(ends >= splits[:-1, None]) & (ends < len(begins))]
    begins[ends] = False
    word = np.flatnonzero(begins)
    grams = np.empty(len(word), np.uint64)
    for first in range(0, len(word), _CHUNK):
        chunk = word[first : first + _CHUNK]
        stretch = hashes[chunk[0] : chunk[-1] + n]  # with the words between documents
        rolling = np.full(len(stretch) - n + 1, n, np.uint64)
        for place in range(n):
            rolling *= _PLACE
            rolling += stretch[place : place + len(rolling)]
        grams[first : first + _CHUNK] = mix64(rolling[begins[chunk[0] : chunk[-1] + 1]])
    return Ngrams(grams, word, found)
