"""Sums and choices within consecutive segments of one long array: documents of a batch, lines of a document.

`bounds` int64 [segments + 1] never decreases; segment i is `values[bounds[i]:bounds[i + 1]]` and may be empty.
"""

from collections.abc import Iterator

import numpy as np


def segment_sums(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """int64 [segments] sums of whole numbers or booleans; exact, so the same for any cut of a corpus into batches."""
    if values.dtype == np.bool_:
        return _segment_counts(values, bounds)
    sums = np.zeros(bounds.size - 1, np.int64)
    filled = np.flatnonzero(bounds[1:] > bounds[:-1])
    if filled.size:
        sums[filled] = np.add.reduceat(values[: bounds[-1]], bounds[filled], dtype=np.int64)
    return sums


def _segment_counts(flags: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """A running count, kept for every eighth flag: one product adds up the eight bytes of a word."""
    padded = np.zeros((flags.size // 8 + 1) * 8, np.uint8)
    padded[: flags.size] = flags
    eights = padded.view("<u8")
    before = np.zeros(eights.size + 1, np.int64)
    np.cumsum(eights * _ONES >> _TOP, out=before[1:], dtype=np.int64)
    within = eights[bounds >> 3] & _FIRST[bounds & 7]
    return np.diff(before[bounds >> 3] + (within * _ONES >> _TOP).view(np.int64))


_ONES, _TOP = np.uint64(0x0101010101010101), np.uint64(56)
_FIRST = np.array([(1 << 8 * count) - 1 for count in range(8)], np.uint64)  # the first bytes of eight


def segment_any(flags: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """bool [segments]: whether any of flags[start:end] is set, for segments in order that are not empty."""
    if not starts.size:
        return np.zeros(0, np.bool_)
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    edges = edges[:-1] if ends[-1] == flags.size else edges  # the last segment goes to the end anyway
    return np.logical_or.reduceat(flags, edges)[::2]


def segment_maxima(values: np.ndarray, bounds: np.ndarray, empty: int) -> np.ndarray:
    """[segments] of the dtype of `values`: the largest of each segment, `empty` where there is none."""
    maxima = np.full(bounds.size - 1, empty, values.dtype)
    filled = np.flatnonzero(bounds[1:] > bounds[:-1])
    if filled.size:
        maxima[filled] = np.maximum.reduceat(values[: bounds[-1]], bounds[filled])
    return maxima


def count_positions(positions: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How many of `positions` lie in each segment of what they are indices into, int64 [segments].

    `positions` ascend and are different; the segments begin at 0.
    """
    if 4 * positions.size < bounds.size:  # look up the fewer in the more
        return np.bincount(np.searchsorted(bounds, positions, side="right") - 1, minlength=bounds.size - 1)
    if bounds[-1] > _SHORT * bounds.size:
        return np.diff(np.searchsorted(positions, bounds))
    flags = np.zeros(bounds[-1], np.bool_)
    flags[positions] = True
    return segment_sums(flags, bounds)


_SHORT = 128  # segments shorter than this are read through sooner than looked up


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64 part / whole, 0 where there is no whole."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def chunks_of_segments(bounds: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of segments with at most `size` elements together, or with one segment that is larger.

    What is computed chunk by chunk stays in the processor's cache.
    """
    first, count = 0, bounds.size - 1
    while first < count:
        last = int(np.searchsorted(bounds, bounds[first] + size, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last
