"""Rows of like length together: few shapes to compile, little padding, and the same bits whoever else is there.

A row's bucket follows from its own length, and every batch of a bucket has the same number of rows, the last one filled
up with empty ones. So a document's score is computed by the same program whatever other documents come with it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

STEPS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # neighbours differ by a third on average


def buckets_for(max_length: int) -> tuple[int, ...]:
    """The lengths to which rows are padded, ascending; the last is `max_length`."""
    return (*(length for length in STEPS if length < max_length), max_length)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds a row of this length. Raises ValueError when none does."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise ValueError(f"a row of {length} tokens is longer than the longest bucket of {buckets[-1]}")


def padded(windows: Sequence[np.ndarray], num_rows: int, width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """`(tokens, lengths)`: int32 `[num_rows, width]` padded on the right, `[num_rows]`; rows left over are empty."""
    tokens, lengths = np.full((num_rows, width), pad_id, np.int32), np.zeros(num_rows, np.int32)
    for row, window in enumerate(windows):
        tokens[row, : len(window)] = window
        lengths[row] = len(window)
    return tokens, lengths


class Bucket(NamedTuple):
    """A batch of rows of like length."""

    places: np.ndarray  # int64: which of the windows they are
    tokens: np.ndarray
    lengths: np.ndarray


def bucketed(
    windows: Sequence[np.ndarray], buckets: Sequence[int], batch_tokens: int, multiple: int, pad_id: int
) -> Iterator[Bucket]:
    """All windows in batches of about `batch_tokens` tokens, padding counted, shortest bucket first.

    The number of rows of a batch is a multiple of `multiple` (the mesh's batch split), and one number for each bucket.
    """
    widths = np.array([bucket_of(len(window), buckets) for window in windows], np.int64)
    for width in buckets:
        places = np.flatnonzero(widths == width)
        num_rows = max(1, batch_tokens // width // multiple) * multiple
        for start in range(0, len(places), num_rows):
            here = places[start : start + num_rows]
            yield Bucket(here, *padded([windows[place] for place in here], num_rows, width, pad_id))
