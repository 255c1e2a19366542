"""Finds the n-grams that occur more than once within their document, for n = 2, 3, ... together.

An n-gram can repeat only where the (n-1)-grams at its start and at its second word do, so each n looks only at what
the last one left: in ordinary text a fifth of all words for n = 2, a few in a hundred from n = 4 on.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_DOCUMENT = np.uint64(0xA0761D6478BD642F)


class Repeats(NamedTuple):
    """Places of the repeated n-grams of one n."""

    n: int
    positions: np.ndarray  # int64 [places] index of the first word, ascending
    first: np.ndarray  # int64 [places] position of the first copy within the document
    copies: np.ndarray  # int64 [places] number of copies within the document, at least 2


def count_copies(hashes: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(copies int64, is_first bool) [pieces]: how often each is in its document, and whether it is there first.

    Arguments as of `find_repeats`, for any pieces.
    """
    repeats, _ = _repeats(1, np.arange(hashes.size), _within_documents(hashes, bounds))
    copies = np.ones(hashes.size, np.int64)
    copies[repeats.positions] = repeats.copies
    is_first = np.ones(hashes.size, np.bool_)
    is_first[repeats.positions] = repeats.positions == repeats.first
    return copies, is_first


def find_repeats(hashes: np.ndarray, bounds: np.ndarray, largest: int) -> Iterator[Repeats]:
    """Repeated n-grams for n = 2 ... `largest`.

    `hashes` uint64 [words] are well-mixed 64-bit hashes, equal for equal words; `bounds` int64 [documents + 1] says
    which words a document has. Two n-grams are taken for equal when their 64-bit hashes are.
    """
    goes_on = np.ones(hashes.size + 1, np.bool_)  # an n-gram can go on with the (n-1)-gram that begins at this word
    goes_on[bounds] = False
    positions = np.arange(hashes.size)
    keys = _within_documents(hashes, bounds)
    for n in range(2, largest + 1):
        possible = np.flatnonzero(goes_on[positions + 1])
        positions = positions[possible]
        keys = keys[possible] * _MULTIPLIER + hashes[positions + (n - 1)]
        repeats, keys = _repeats(n, positions, keys)
        positions = repeats.positions
        goes_on[:] = False
        goes_on[positions] = True
        yield repeats


def _within_documents(hashes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Keys that are equal where hash and document are."""
    document = np.arange(bounds.size - 1, dtype=np.uint64) * _DOCUMENT
    return hashes + np.repeat(document, np.diff(bounds))


def _repeats(n: int, positions: np.ndarray, keys: np.ndarray) -> tuple[Repeats, np.ndarray]:
    """Those of `positions` whose key is not the only one of its kind, and their keys."""
    first = _first_of_its_kind(keys)
    copies = np.bincount(first, minlength=keys.size)[first]
    kept = np.flatnonzero(copies > 1)
    return Repeats(n, positions[kept], positions[first[kept]], copies[kept]), keys[kept]


def _first_of_its_kind(keys: np.ndarray) -> np.ndarray:
    """The index of the first key that is equal to each, int64 [keys].

    By a hash table, written from the last key to the first; the keys whose slot went to another one are sorted.
    """
    bits = max(keys.size, 4).bit_length() + 1
    slots = ((keys * _SPREAD) >> np.uint64(64 - bits)).view(np.int64)
    index = np.arange(keys.size)
    table = np.empty(1 << bits, np.int32)
    table[slots[::-1]] = index[::-1]
    first = table[slots].astype(np.int64)
    homeless = np.flatnonzero(keys[first] != keys)
    homeless = homeless[np.argsort(keys[homeless])]
    ordered = keys[homeless]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: ordered.size])
    if starts.size:
        firsts = np.minimum.reduceat(homeless, starts)
        first[homeless] = np.repeat(firsts, np.diff(starts, append=ordered.size))
    return first
