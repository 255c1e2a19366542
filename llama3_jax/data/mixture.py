"""Which source each row of training comes from: a mixture of sources as integer arithmetic.

Weights become whole numbers over one denominator, and one period of that many rows is laid out so that every source's
rows are spread as evenly as can be. Row r then has its source, and the number of rows that each source gave before r,
without looking at any other row: resume and changes of the mixture are arithmetic (paper section 3.1.2, and 3.4.1 for
changes during training).
"""

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

DENOMINATOR = 1024


def quantise_weights(weights: Mapping[str, float], denominator: int = DENOMINATOR) -> dict[str, int]:
    """Weights, in any unit, as whole parts of `denominator`: rounded down, the rest to the largest remainders.

    Exact arithmetic throughout; ties go by name. Raises ValueError for a weight that is negative or not finite, for a
    sum of zero, and for a positive weight too small to get one part (it would otherwise silently never be seen).
    """
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"The weight of {name!r} is {weight}; it must be finite and at least 0.")
    exact = {name: Fraction(weight) for name, weight in sorted(weights.items())}
    total = sum(exact.values())
    if total == 0:
        raise ValueError(f"The weights of {sorted(weights)} sum to 0; at least one must be positive.")
    shares = {name: weight * denominator / total for name, weight in exact.items()}
    parts = {name: math.floor(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: parts[name] - shares[name])
    for name in by_remainder[: denominator - sum(parts.values())]:
        parts[name] += 1
    lost = [name for name in parts if parts[name] == 0 and exact[name] > 0]
    if lost:
        share = float(min(exact[name] for name in lost) / total)
        raise ValueError(f"{lost}: a share of {share:.2g} rounds to 0 of {denominator}; raise it or leave it out.")
    return parts


def spread_rows(parts: np.ndarray) -> np.ndarray:
    """One period of rows by smooth weighted round-robin: int64 [sum(parts)] of indices into `parts` [sources].

    Each row goes to the source that lags its share most, the first of equals; so after any number of rows no source is
    a whole row ahead of its share, nor (sources - 1) rows behind it.
    """
    owed = np.zeros_like(parts)
    table = np.empty(int(parts.sum()), np.int64)
    for row in range(table.size):
        owed += parts
        table[row] = owed.argmax()
        owed[table[row]] -= table.size
    return table


class Mixture:
    """Rows over sources in given proportions. `names` is sorted, whatever the order of `weights`."""

    def __init__(self, weights: Mapping[str, float], *, denominator: int = DENOMINATOR):
        parts = quantise_weights(weights, denominator)
        self.names = tuple(parts)
        self._table = spread_rows(np.array(list(parts.values()), np.int64))
        taken = self._table[:, None] == np.arange(len(parts))
        self._before = np.concatenate([np.zeros((1, len(parts)), np.int64), np.cumsum(taken, axis=0)])

    def source_of(self, rows: np.ndarray) -> np.ndarray:
        """The index into `names` of each row's source, int64, in the shape of `rows` (row numbers from 0)."""
        return self._table[np.asarray(rows) % self._table.size]

    def rows_before(self, rows: np.ndarray | int) -> np.ndarray:
        """How many of the rows before each row came from each source: int64 [..., sources]."""
        periods, rest = np.divmod(np.asarray(rows), self._table.size)
        return periods[..., None] * self._before[-1] + self._before[rest]
