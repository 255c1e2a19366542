"""Every attention implementation against the reference, and the reference against plain loops."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.ops.attention import AttentionMask, attention
from llama3_jax.ops.attention_mask import visible
from llama3_jax.ops.kernels.chunked import chunked_attention
from tests.ops.attention_cases import (
    CHUNKED_MASKS,
    MASKS,
    NAMES,
    PACKED_300,
    PACKED_384,
    assert_close,
    ids,
    make_inputs,
    run,
)


def naive_attention(q, k, v, sees):
    """Loops over rows in float64; `sees(b, s, t)` is the rule."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, s, h in np.ndindex(q.shape[:3]):
        keys = [t for t in range(k.shape[1]) if sees(b, s, t)]
        if keys:
            kv_head = h // (q.shape[2] // k.shape[2])
            scores = k[b, keys, kv_head] @ q[b, s, h] / np.sqrt(q.shape[3])
            weights = np.exp(scores - scores.max())
            out[b, s, h] = weights / weights.sum() @ v[b, keys, kv_head]
    return out


def test_reference_matches_plain_loops():
    segments = np.asarray(ids([(1, 3), (2, 1), (3, 5), (0, 3)], [(1, 12)]))
    index = np.asarray([[0, 1, 10, 11], [4, 5, 6, 7]])
    q, k, v, grad = make_inputs(2, 12, 12, 4, 2, 8)
    out = run("reference", (q, k, v, grad), AttentionMask(query_segment_ids_BS=jnp.asarray(segments)))[0]
    same = lambda b, s, t: segments[b, s] == segments[b, t] != 0 and t <= s
    np.testing.assert_allclose(out, naive_attention(q, k, v, same), atol=1e-5)
    assert (out[0, 9:] == 0).all()
    mask = AttentionMask(query_index_BS=jnp.asarray(index, jnp.int32))
    out = run("reference", (q[:, :4], k, v, grad[:, :4]), mask)[0]
    np.testing.assert_allclose(out, naive_attention(q[:, :4], k, v, lambda b, s, t: t <= index[b, s]), atol=1e-5)
    out = run("reference", (q, k, v, grad), AttentionMask(causal=False), scale=8**-0.5)[0]
    np.testing.assert_allclose(out, naive_attention(q, k, v, lambda b, s, t: True), atol=1e-5)


def slow_but(masks, *quick):
    """All names of `masks`, those outside `quick` marked slow: each costs two compilations."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in masks]


@pytest.mark.parametrize(
    "name", slow_but(CHUNKED_MASKS, "plain", "encoder", "zigzag_packed", "ragged_packed", "shuffled_keys", "cache")
)
def test_chunked_matches_reference_for_every_mask(name):
    queries, keys, mask = CHUNKED_MASKS[name]
    inputs = make_inputs(2, queries, keys, 4, 1, 16)
    assert_close(run("chunked", inputs, mask), run("reference", inputs, mask))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 1)])
def test_chunked_matches_reference_for_every_group(heads, kv_heads):
    inputs = make_inputs(2, 300, 300, heads, kv_heads, 8)
    mask = AttentionMask(query_segment_ids_BS=PACKED_300)
    assert_close(run("chunked", inputs, mask, scale=0.3), run("reference", inputs, mask, scale=0.3))


@pytest.mark.parametrize(("queries", "keys"), [(1, 700), (256, 256)])
def test_chunked_bfloat16(queries, keys):
    """Also guards against XLA's CPU runtime, which has no bfloat16 products of some layouts."""
    inputs = make_inputs(2, queries, keys, 4, 2, 32, jnp.bfloat16)
    mask = AttentionMask(query_index_BS=jnp.broadcast_to(jnp.arange(keys - queries, keys), (2, queries)))
    assert_close(run("chunked", inputs, mask), run("reference", inputs, mask), tolerance=2e-2)


@pytest.mark.parametrize("name", slow_but(MASKS, "plain", "both_ids", "zigzag_packed"))
def test_splash_matches_reference(name):
    queries, keys, mask = MASKS[name]
    inputs = make_inputs(2, queries, keys, 4, 1, 16)
    assert_close(run("splash", inputs, mask, interpret=True), run("reference", inputs, mask))


@pytest.mark.parametrize(("name", "kv_heads"), [("packed", 1), ("encoder", 2)])
def test_triton_matches_reference(name, kv_heads):
    mask = MASKS[name][2]
    cut = jax.tree.map(lambda x: x[:, :256], mask)
    inputs = make_inputs(2, 256, 256, 4, kv_heads, 16)
    assert_close(run("triton", inputs, cut, interpret=True), run("reference", inputs, cut))


@pytest.mark.parametrize("implementation", ["splash", "triton"])
def test_kernels_in_bfloat16(implementation):
    inputs = make_inputs(1, 256, 256, 2, 1, 64, jnp.bfloat16)
    mask = AttentionMask(query_segment_ids_BS=PACKED_384[1:, 128:])
    assert_close(run(implementation, inputs, mask, interpret=True), run("reference", inputs, mask), tolerance=2e-2)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.data())
def test_chunked_random_documents(data):
    """Small blocks, random documents and places: one compilation, any data."""
    segment = st.lists(st.integers(0, 4), min_size=40, max_size=40).map(lambda row: np.array(row, np.int32))
    if data.draw(st.booleans()):
        segment = segment.map(np.sort)
    place = st.lists(st.integers(-2, 50), min_size=40, max_size=40).map(lambda row: np.array(row, np.int32))
    mask = AttentionMask(
        query_segment_ids_BS=np.stack([data.draw(segment) for _ in range(2)]),
        key_segment_ids_BT=np.stack([data.draw(segment) for _ in range(2)]),
        query_index_BS=np.stack([data.draw(place) for _ in range(2)]),
        key_index_BT=np.stack([data.draw(place) for _ in range(2)]),
    )
    inputs = make_inputs(2, 40, 40, 2, 1, 8)
    assert_close(_small_blocks(*inputs, mask), _small_blocks_reference(*inputs, mask))


@jax.jit
def _small_blocks(q, k, v, grad, mask):
    out, vjp = jax.vjp(lambda q, k, v: chunked_attention(q, k, v, mask, scale=0.5, blocks=(16, 8)), q, k, v)
    return out, *vjp(grad)


@jax.jit
def _small_blocks_reference(q, k, v, grad, mask):
    run = functools.partial(attention, mask=mask, scale=0.5, implementation="reference")
    out, vjp = jax.vjp(lambda q, k, v: run(q, k, v), q, k, v)
    return out, *vjp(grad)


@pytest.mark.parametrize("implementation", ["reference", "chunked", "splash", "triton"])
def test_padding_may_be_nan(implementation):
    """NaN in padding, and in the gradient that comes back to it, reaches no real token and leaves exact zeros."""
    segments = ids([(1, 100), (0, 56), (2, 60), (0, 40)], [(0, 256)])
    padding = np.asarray(segments == 0)
    clean = make_inputs(2, 256, 256, 2, 1, 16)
    poisoned = [jnp.where(padding[:, :, None, None], jnp.nan, x) for x in clean]
    mask = AttentionMask(query_segment_ids_BS=segments)
    got = run(implementation, poisoned, mask, interpret=True)
    for name, x in zip(NAMES, got, strict=True):
        assert (x[padding] == 0).all(), name
    wanted = run("reference", [jnp.where(padding[:, :, None, None], 0.0, x) for x in clean], mask)
    assert_close(got, wanted)


@pytest.mark.parametrize("implementation", ["chunked", "splash"])
def test_blind_rows_are_zero(implementation):
    """Queries of a document that has no keys, and a query placed before every key of its document."""
    queries = ids([(1, 100), (7, 28)])
    keys = ids([(1, 200), (2, 56)])
    index = jnp.concatenate([jnp.arange(99, -1, -1), jnp.arange(200, 228)]).astype(jnp.int32)[None]
    late_keys = ids([(2, 50), (1, 206)])
    inputs = make_inputs(1, 128, 256, 2, 1, 16)
    for key_ids in (keys, late_keys):
        mask = AttentionMask(query_segment_ids_BS=queries, key_segment_ids_BT=key_ids, query_index_BS=index)
        blind = ~np.asarray(visible(mask, 128, 256)).any(axis=2)
        assert blind.sum() == (28 if key_ids is keys else 78)
        got = run(implementation, inputs, mask, interpret=True)
        wanted = run("reference", inputs, mask)
        for result in (got, wanted):
            assert (result[0][blind] == 0).all() and (result[1][blind] == 0).all()
        assert_close(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_chunked_long_sequence(dtype):
    segments = ids([(1, 1000), (2, 1), (3, 2000), (4, 700), (0, 395)])
    inputs = make_inputs(1, 4096, 4096, 2, 1, 64, dtype)
    mask = AttentionMask(query_segment_ids_BS=segments)
    tolerance = 5e-5 if dtype == jnp.float32 else 3e-2
    assert_close(run("chunked", inputs, mask), run("reference", inputs, mask), tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["mosaic", "triton"])
@pytest.mark.parametrize("name", MASKS)
def test_gpu_kernels_match_reference(name, implementation):
    """Run with JAX_PLATFORMS=cuda -m gpu. A mask that the kernel refuses is skipped."""
    queries, keys, mask = MASKS[name]
    inputs = make_inputs(2, queries, keys, 8, 2, 128, jnp.bfloat16)
    wanted = run("reference", inputs, mask)
    try:
        got = run(implementation, inputs, mask)
    except ValueError as refusal:
        pytest.skip(str(refusal))
    assert_close(got, wanted, tolerance=2e-2)
