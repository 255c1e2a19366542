"""How the global steps move rows: each map task cuts its table into parts, each reduce task reads one part of them all.

Rows meet in a part by a range of their key, or go back to the partition of their document. What a reduce task holds in
memory is one part, so more parts need less memory; the result does not depend on how many there are.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def by_key(keys: np.ndarray, num_parts: int) -> np.ndarray:
    """The part of each key, uint64 [N] of which every range is equally likely: int64 [N], rising with the key."""
    return ((keys >> np.uint64(32)) * np.uint64(num_parts) >> np.uint64(32)).astype(np.int64)


def by_document(numbers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The partition of each document's number, int64 [N]; `edges` are those of `documents.numbers`."""
    return np.searchsorted(edges, numbers, side="right") - 1


def cut(table: pa.Table, part: np.ndarray, num_parts: int) -> list[pa.Table]:
    """The rows of each part, in the order in which they stand."""
    order = np.argsort(part, kind="stable")
    starts = np.searchsorted(part[order], np.arange(num_parts + 1))
    table = table.take(pa.array(order))
    return [table[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]


def arrays(table: pa.Table, names: Sequence[str]) -> list[np.ndarray]:
    """Columns of numbers as arrays."""
    return [table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in names]
