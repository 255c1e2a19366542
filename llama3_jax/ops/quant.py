"""Row-wise 8-bit quantisation and the product of two quantised operands (Llama 3, 6.2).

A row is what one product sums over: of activations a token's features, of weights the inputs of one output. Each row
gets a float32 scale, so that its largest entry lands on the largest 8-bit value; rows of activations are scaled as if
none of their entries were beyond ACTIVATION_BOUND, to which larger ones are cut.

The rule is that of the released code (FBGEMM's `quantize_fp8_per_row` for CUDA, which llama-models calls with the bound
for activations and without for weights). int8 is its twin for hardware without FP8: the same rule on another grid.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

ACTIVATION_BOUND = 1200.0  # of a row's largest entry, not of its scale: 1200 / 448 is the largest FP8 scale
SMALLEST_AMAX = 1 / 512  # rows below are scaled as if this were their largest entry


@dataclasses.dataclass(frozen=True)
class Grid:
    """What 8 bits can say."""

    dtype: Any
    largest: float
    sums: Any  # dtype in which products are summed

    @property
    def smallest_scale(self) -> float:
        """Of rows that are zero or nearly so."""
        return SMALLEST_AMAX / self.largest


GRIDS = {
    "fp8": Grid(jnp.dtype(jnp.float8_e4m3fn), 448.0, jnp.float32),
    "int8": Grid(jnp.dtype(jnp.int8), 127.0, jnp.int32),
}
INT32_ROW = (2**31 - 1) // 127**2  # the longest row whose int8 products add up in 32 bits


class Rows(NamedTuple):
    """Quantised rows: `values * scales` along the last dim is what they stand for."""

    values: jax.Array  # 8 bits, [..., K]
    scales: jax.Array  # float32, [...]


def check_grid(name: str) -> Grid:
    """The grid of this name. Raises ValueError for one that does not exist."""
    if name not in GRIDS:
        raise ValueError(f"quantized is {name!r}; there are {', '.join(GRIDS)}")
    return GRIDS[name]


def quantize_rows(x: jax.Array, grid: str, bound: float | None = None) -> Rows:
    """The rows (last dim) of `x`, `[..., K]`, in 8 bits: `scale = max(min(amax, bound) / largest, smallest)`.

    What lies beyond the grid is cut to its ends; a row with a NaN or an infinity becomes NaN. Raises ValueError for an
    unknown grid, and when differentiated.
    """
    check_grid(grid)
    rows: Any = _quantize_rows(x, grid, bound)
    return Rows(*rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _quantize_rows(x: jax.Array, grid: str, bound: float | None):
    to = GRIDS[grid]
    x = x.astype(jnp.float32)
    amax = jnp.max(jnp.abs(x), axis=-1)
    bounded = amax if bound is None else jnp.minimum(amax, bound)
    # Zero that the compiler cannot know to be zero: it would multiply by the rounded reciprocal of a constant. It also
    # turns a row with an infinity into NaN, where the bound would have hidden that something overflowed.
    zero = amax - amax
    scales = jnp.maximum(bounded / (to.largest + zero), to.smallest_scale)
    # The released code divides; XLA would divide once per row in any case, so it is written that way.
    scaled = jnp.clip(x * (1 / scales)[..., None], -to.largest, to.largest)
    if jnp.issubdtype(to.dtype, jnp.integer):
        scaled = jnp.rint(scaled)
    return scaled.astype(to.dtype), scales  # clipped before: JAX casts what is above 464 to NaN


def _no_gradient(x, grid, bound):
    raise ValueError(f"{grid} rows have no gradient; train the model before it is quantised")


_quantize_rows.defvjp(_no_gradient, _no_gradient)


def dequantize_rows(rows: Rows, dtype: Any) -> jax.Array:
    """What the rows stand for, `[..., K]`."""
    return (rows.values.astype(jnp.float32) * rows.scales[..., None]).astype(dtype)


def rows_product(x: Rows, w: Rows, dtype: Any) -> jax.Array:
    """`x w^T` of rows `[..., K]` and `[N, K]`: `[..., N]` in `dtype`.

    The product of the 8-bit operands comes first, both with the summed dim last as FP8 units take them, then the
    scales in float32, then one rounding. Raises ValueError for int8 rows whose sums could overflow.
    """
    if x.values.dtype == jnp.int8 and x.values.shape[-1] > INT32_ROW:
        raise ValueError(f"int8 rows of {x.values.shape[-1]} entries could overflow 32 bits; at most {INT32_ROW}")
    sums = next(grid.sums for grid in GRIDS.values() if grid.dtype == x.values.dtype)
    dims = (((x.values.ndim - 1,), (1,)), ((), ()))
    total = lax.dot_general(x.values, w.values, dims, preferred_element_type=sums).astype(jnp.float32)
    scales = w.scales.reshape((1,) * (total.ndim - 1) + (-1,))
    return (total * x.scales[..., None] * scales).astype(dtype)
