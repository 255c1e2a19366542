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
    """Places of the repeated n-grams of one n. A group is all copies of one n-gram in one document."""

    n: int
    positions: np.ndarray  # int64 [places] index of the first word, ascending
    group: np.ndarray  # int64 [places]
    size: np.ndarray  # int64 [groups] number of copies, at least 2
    first: np.ndarray  # int64 [groups] position of the first copy


def count_copies(hashes: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(copies int64, is_first bool) [pieces]: how often each is in its document, and whether it is there first.

    Arguments as of `find_repeats`, for any pieces.
    """
    repeats, _ = _repeats(1, np.arange(hashes.size), _within_documents(hashes, bounds))
    copies = np.ones(hashes.size, np.int64)
    copies[repeats.positions] = repeats.size[repeats.group]
    is_first = np.ones(hashes.size, np.bool_)
    is_first[repeats.positions] = repeats.positions == repeats.first[repeats.group]
    return copies, is_first


def find_repeats(hashes: np.ndarray, bounds: np.ndarray, largest: int) -> Iterator[Repeats]:
    """Repeated n-grams for n = 2 ... `largest`.

    `hashes` uint64 [words] are well-mixed 64-bit hashes, equal for equal words; `bounds` int64 [documents + 1] says
    which words a document has. Two n-grams are taken for equal when their 64-bit hashes are.
    """
    end_of_document = np.repeat(bounds[1:], np.diff(bounds))
    positions = np.arange(hashes.size)
    keys = _within_documents(hashes, bounds)
    repeated = np.ones(hashes.size + 1, np.bool_)
    for n in range(2, largest + 1):
        possible = (positions + n <= end_of_document[positions]) & repeated[positions + 1]
        positions = positions[possible]
        keys = keys[possible] * _MULTIPLIER + hashes[positions + (n - 1)]
        repeats, keys = _repeats(n, positions, keys)
        positions = repeats.positions
        repeated[:] = False
        repeated[positions] = True
        yield repeats


def _within_documents(hashes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Keys that are equal where hash and document are."""
    document = np.arange(bounds.size - 1, dtype=np.uint64) * _DOCUMENT
    return hashes + np.repeat(document, np.diff(bounds))


def _repeats(n: int, positions: np.ndarray, keys: np.ndarray) -> tuple[Repeats, np.ndarray]:
    """Those of `positions` whose key is not the only one of its kind, and their keys."""
    likely = np.flatnonzero(_shares_a_slot(keys))
    order = np.argsort(keys[likely])
    keys_sorted = keys[likely][order]
    new = np.concatenate([[True], keys_sorted[1:] != keys_sorted[:-1]]) if order.size else np.zeros(0, np.bool_)
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, order.size))
    several = sizes > 1
    kept = np.repeat(several, sizes)
    places = likely[order[kept]]
    group_of_place = np.repeat(np.arange(several.sum()), sizes[several])
    group = np.full(positions.size, -1)
    group[places] = group_of_place
    is_repeat = group >= 0
    found = Repeats(
        n, positions[is_repeat], group[is_repeat], sizes[several], _first(positions[places], sizes[several])
    )
    return found, keys[is_repeat]


def _first(positions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    starts = np.cumsum(sizes) - sizes
    return np.minimum.reduceat(positions, starts) if sizes.size else positions


def _shares_a_slot(keys: np.ndarray) -> np.ndarray:
    """bool [keys], True for every key that is there twice and for a few that are not: one table, no sorting."""
    bits = max(keys.size, 4).bit_length() + 2
    slots = ((keys * _SPREAD) >> np.uint64(64 - bits)).astype(np.int64)
    return np.bincount(slots, minlength=1 << bits)[slots] > 1
