"""Weights with feed-forward layers in 8-bit rows, made of those without, and the other way (Llama 3, 6.2).

Both are a `Source` around another: an array is quantised, or multiplied out, when it is read, a few rows at a time. In
numpy, so that files do not depend on the device that a conversion runs beside.
"""

import math
from collections.abc import Iterator

import numpy as np

from llama3_jax.model.convert import MATRIX_OF_ROWS, ROWS, SCALES, Slot, matrix_of, rows_of
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.model.quantized import check_depth, is_quantized
from llama3_jax.ops.quant import GRIDS, Grid
from llama3_jax.weights.format import Source

BLOCK_BYTES = 2**22  # of float32 rows worked on at once


class QuantizedSource:
    """Unquantised weights as those of a quantised model."""

    def __init__(self, source: Source, grid: str):
        """Raises ValueError for weights that are quantised already, and for a model too small."""
        if source.quantized is not None:
            raise ValueError(f"the weights are {source.quantized} already; {grid} is made of those they came from")
        check_depth(source.config.num_layers)
        self.config: LlamaConfig = source.config
        self.quantized: str | None = grid
        self._source, self._grid = source, GRIDS[grid]
        self._scales: dict[Slot, np.ndarray] = {}  # of the rows that were read last

    def dtype(self, slot: Slot) -> np.dtype:
        """See `Source`; of rows, the grid's."""
        if slot.path not in MATRIX_OF_ROWS:
            return self._source.dtype(slot)
        return np.dtype(np.float32) if slot.path in SCALES else self._grid.dtype

    def num_bytes(self, slot: Slot) -> int:
        """See `Source`; scales come with the rows."""
        if slot.path in SCALES:
            return 0
        return self._source.num_bytes(matrix_of(slot) if slot.path in MATRIX_OF_ROWS else slot)

    def read(self, slot: Slot) -> np.ndarray:
        """See `Source`."""
        if slot.path not in MATRIX_OF_ROWS:
            return self._source.read(slot)
        if slot in self._scales:
            return self._scales.pop(slot)
        matrix = matrix_of(slot)
        try:
            values, scales = quantized_rows(self._source.read(matrix).T, self._grid)
        except ValueError as error:
            raise ValueError(f"{matrix.path}, layer {matrix.layer}: {error}") from error
        self._scales = {rows_of(matrix)[1]: scales}
        return scales if slot.path in SCALES else values


class MultipliedOut:
    """Quantised weights as those of an unquantised model."""

    quantized: str | None = None

    def __init__(self, source: Source, dtype: np.dtype):
        """`dtype`: of the matrices that are multiplied out."""
        self.config: LlamaConfig = source.config
        self._source, self._dtype = source, dtype

    def dtype(self, slot: Slot) -> np.dtype:
        """See `Source`."""
        return self._dtype if self._in_rows(slot) else self._source.dtype(slot)

    def num_bytes(self, slot: Slot) -> int:
        """See `Source`."""
        parts = rows_of(slot) if self._in_rows(slot) else (slot,)
        return sum(map(self._source.num_bytes, parts))

    def read(self, slot: Slot) -> np.ndarray:
        """See `Source`."""
        if not self._in_rows(slot):
            return self._source.read(slot)
        values, scales = (self._source.read(part) for part in rows_of(slot))
        matrix = np.empty(values.shape, self._dtype)
        for rows in _blocks(values):
            matrix[rows] = values[rows].astype(np.float32) * scales[rows, None]
        return matrix.T

    def _in_rows(self, slot: Slot) -> bool:
        return slot.path in ROWS and slot.layer is not None and is_quantized(slot.layer, self.config.num_layers)


def quantized_rows(matrix: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """`(values, scales)` of the rows of a matrix, without a bound: bit for bit `ops.quant.quantize_rows` on a CPU.

    Raises ValueError for a matrix that is not finite.
    """
    largest, smallest = np.float32(grid.largest), np.float32(grid.smallest_scale)
    values, scales = np.empty(matrix.shape, grid.dtype), np.empty(len(matrix), np.float32)
    for rows in _blocks(matrix):
        block = matrix[rows].astype(np.float32)
        scales[rows] = np.maximum(np.abs(block).max(axis=1) / largest, smallest)
        if not np.isfinite(scales[rows]).all():
            raise ValueError("a row that is not finite cannot be quantised")
        block *= (np.float32(1) / scales[rows])[:, None]
        np.clip(block, -largest, largest, out=block)
        values[rows] = np.rint(block, out=block) if grid.dtype == np.int8 else block
    return values, scales


def _blocks(matrix: np.ndarray) -> Iterator[slice]:
    count = max(1, BLOCK_BYTES // (4 * math.prod(matrix.shape[1:])))
    return (slice(start, start + count) for start in range(0, len(matrix), count))
