"""8-bit rows against an oracle in numpy, and their products against PyTorch's scaled matrix product."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from llama3_jax.ops.quant import (
    ACTIVATION_BOUND,
    GRIDS,
    INT32_ROW,
    Rows,
    check_grid,
    dequantize_rows,
    quantize_rows,
    rows_product,
)

FP8 = ml_dtypes.float8_e4m3fn
LARGEST = {"fp8": 448.0, "int8": 127.0}
quantize = jax.jit(quantize_rows, static_argnums=(1, 2))
multiply = jax.jit(rows_product, static_argnums=2)


def oracle(x: np.ndarray, grid: str, bound: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`(values, scales)`, written by itself; FP8 is rounded by ml_dtypes."""
    largest, amax = np.float32(LARGEST[grid]), np.abs(x.astype(np.float32)).max(-1)
    bounded = amax if bound is None else np.minimum(amax, np.float32(bound))
    scales = np.maximum(bounded / largest, np.float32(1 / (largest * 512)))
    scaled = np.clip(x.astype(np.float32) * (np.float32(1) / scales)[..., None], -largest, largest)
    return (scaled.astype(FP8) if grid == "fp8" else np.rint(scaled).astype(np.int8)), scales


def rows_of_all_sizes(dtype) -> np.ndarray:
    """Rows whose largest entries go from 1e-7 to 1e7, one of zeros, one with a single huge entry."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 512)) * np.geomspace(1e-7, 1e7, 256)[:, None]
    x[3], x[4], x[4, 17] = 0, rng.normal(size=512), 6000
    return x.astype(dtype)


def bits(array) -> np.ndarray:
    return np.asarray(array).view(np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bound", [None, ACTIVATION_BOUND])
@pytest.mark.parametrize("grid", GRIDS)
def test_rows_are_those_of_the_oracle_bit_for_bit(grid, bound, dtype):
    x = rows_of_all_sizes(dtype)
    values, scales = oracle(x, grid, bound)
    rows = quantize(x, grid, bound)
    assert rows.values.dtype == GRIDS[grid].dtype and rows.scales.dtype == jnp.float32
    np.testing.assert_array_equal(rows.scales, scales)
    np.testing.assert_array_equal(bits(rows.values), bits(values))


def test_dividing_as_the_released_code_does_moves_one_value_in_ten_thousand_at_most():
    x = rows_of_all_sizes(np.float32)
    rows = quantize(x, "fp8", ACTIVATION_BOUND)
    divided = np.clip(x / np.asarray(rows.scales)[:, None], -448, 448).astype(FP8)
    ours, theirs = bits(rows.values).astype(int), bits(divided).astype(int)
    assert np.abs(ours - theirs).max() <= 1  # the neighbour
    assert (ours != theirs).mean() < 1e-4


def test_a_row_of_zeros_and_one_with_an_outlier():
    x = np.zeros((2, 8), np.float32)
    x[1] = [6000, -6000, 1, -1, 0.01, 0, 300, 1199]
    rows = quantize(x, "fp8", ACTIVATION_BOUND)
    np.testing.assert_array_equal(rows.scales, np.float32([1 / (448 * 512), 1200 / 448]))
    assert not np.asarray(rows.values[0], np.float32).any()
    back = np.asarray(dequantize_rows(rows, jnp.float32))
    np.testing.assert_allclose(back[1, :2], [1200, -1200], rtol=1e-6)
    np.testing.assert_allclose(back[1, 2:4], [1, -1], rtol=1 / 16)
    # Without the bound the same row has a scale five times as large, and small entries lose their last bits.
    unbounded = quantize(x, "fp8")
    np.testing.assert_allclose(unbounded.scales[1], 6000 / 448, rtol=1e-6)
    np.testing.assert_allclose(dequantize_rows(unbounded, jnp.float32)[1, :2], [6000, -6000], rtol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_error_of_a_row_is_half_a_step(grid):
    """FP8 keeps 4 significant bits down to 2**-6 of the grid and steps of 2**-9 below; int8 has steps of 1."""
    x = np.random.default_rng(1).normal(size=(64, 1024)).astype(np.float32)
    rows = quantize(x, grid)
    scales = np.asarray(rows.scales)[:, None]
    error = np.abs(np.asarray(dequantize_rows(rows, jnp.float32)) - x)
    steps = np.maximum(2.0 ** np.floor(np.log2(np.abs(x / scales))) / 8, 2.0**-9) if grid == "fp8" else 1.0
    assert (error <= scales * steps / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bound", [None, ACTIVATION_BOUND])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_row_that_is_not_finite_stays_visible(grid, bound, bad):
    x = np.ones((2, 16), np.float32)
    x[1, 3] = bad
    w = quantize(np.ones((4, 16), np.float32), grid, None)
    y = np.asarray(multiply(quantize(x, grid, bound), w, jnp.float32))
    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


def operands(grid: str, tokens: int = 48, inputs: int = 512, outputs: int = 320) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(tokens, inputs)) * np.exp(2 * rng.normal(size=(tokens, 1)))
    x[5, 11] = 5e4
    w = rng.normal(size=(outputs, inputs)) * np.exp(rng.normal(size=(outputs, 1))) / 16
    return quantize(x.astype(np.float32), grid, ACTIVATION_BOUND), quantize(w.astype(np.float32), grid, None)


def exact(x: Rows, w: Rows) -> np.ndarray:
    left, right = (
        np.asarray(rows.values, np.float64) * np.asarray(rows.scales, np.float64)[:, None] for rows in (x, w)
    )
    return left @ right.T


def relative(found, expected: np.ndarray) -> float:
    """Largest difference over the largest entry of its row."""
    largest = np.abs(expected).max(-1, keepdims=True)
    return float((np.abs(np.asarray(found, np.float64) - expected) / largest).max())


def test_fp8_products_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
    x, w = operands("fp8")
    left, right = (torch.from_numpy(bits(rows.values).copy()).view(torch.float8_e4m3fn) for rows in (x, w))
    of_x, of_w = (torch.from_numpy(np.array(rows.scales)) for rows in (x, w))
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 2**-8)):
        scales = {"scale_a": of_x[:, None], "scale_b": of_w[None]}
        theirs = torch._scaled_mm(left, right.t(), **scales, out_dtype=getattr(torch, dtype))
        ours = multiply(x, w, jnp.dtype(dtype))
        assert ours.dtype == dtype
        assert relative(ours, theirs.double().numpy()) <= tolerance


def test_products_of_either_grid_are_exact_but_for_float32():
    for grid in GRIDS:
        x, w = operands(grid)
        assert relative(multiply(x, w, jnp.float32), exact(x, w)) <= 1e-6


def test_int8_products_are_summed_in_32_bits():
    ones = np.full((2, 60_000), 1.0, np.float32)
    rows = quantize(ones, "int8", None)
    np.testing.assert_allclose(multiply(rows, rows, jnp.float32), 60_000, rtol=1e-6)
    longer = Rows(jnp.zeros((1, INT32_ROW + 1), jnp.int8), jnp.ones(1))
    with pytest.raises(ValueError, match="int8 rows of 133145 entries could overflow 32 bits; at most 133144"):
        rows_product(longer, longer, jnp.float32)


def test_more_dims_are_rows_all_the_same():
    x, w = operands("fp8")
    deep = Rows(x.values.reshape(4, 12, -1), x.scales.reshape(4, 12))
    np.testing.assert_array_equal(multiply(deep, w, jnp.float32).reshape(48, -1), multiply(x, w, jnp.float32))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_gradient_is_refused(grid):
    w = quantize(np.ones((4, 16), np.float32), grid, None)
    loss = lambda x: jnp.sum(rows_product(quantize_rows(x, grid, None), w, jnp.float32))
    with pytest.raises(ValueError, match=f"{grid} rows have no gradient"):
        jax.grad(loss)(jnp.ones((2, 16)))


def test_an_unknown_grid_is_refused():
    with pytest.raises(ValueError, match="quantized is 'fp4'; there are fp8, int8"):
        check_grid("fp4")
