"""Paged attention: every implementation against the definition, and the definition against attention itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.ops.attention import AttentionMask, reference_attention
from llama3_jax.ops.paged_attention import IMPLEMENTATIONS, PagedRows, paged_attention, write_pages

# rows of (tokens in the cache, new tokens); S is the largest number of new ones
WORKLOADS = {
    "decode": [(0, 1), (1, 1), (3, 1), (4, 1), (17, 1)],
    "prefill": [(0, 7), (0, 1), (0, 4)],
    "chunks": [(5, 6), (12, 3), (0, 0), (8, 8)],
    "nothing": [(0, 0), (9, 0)],
}
PAGE = 4


def problem(workload, heads=6, kv_heads=2, head_dim=8, dtype=jnp.float32, seed=0):
    """`(q, k, v, pages, rows)`: k and v `[B, T, K, E]` of whole rows; pages scattered, the places of nobody NaN."""
    lengths = np.array(WORKLOADS[workload])
    start, count = lengths[:, 0], lengths[:, 1]
    batch, num_new, total = len(lengths), max(1, count.max()), int((start + count).max()) + PAGE
    rng = np.random.default_rng(seed)
    width = -(-total // PAGE)
    num_pages = batch * width + 3
    table = rng.permutation(num_pages)[: batch * width].reshape(batch, width)
    k, v = (rng.normal(size=(batch, width * PAGE, kv_heads, head_dim)) for _ in range(2))
    pages = np.full((num_pages, PAGE, 2 * kv_heads, head_dim), np.nan)
    for row in range(batch):
        for place in range(start[row] + count[row]):
            slot = pages[table[row, place // PAGE], place % PAGE]
            slot[0::2], slot[1::2] = k[row, place], v[row, place]
    q = rng.normal(size=(batch, num_new, heads, head_dim))
    rows = PagedRows(*(jnp.asarray(x, jnp.int32) for x in (table, start, count)))
    return tuple(jnp.asarray(x, dtype) for x in (q, k, v, pages)) + (rows,)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_definition_is_attention_to_the_row_so_far(workload):
    q, k, v, pages, rows = problem(workload)
    mask = AttentionMask(query_index_BS=rows.positions(q.shape[1]))
    expected = reference_attention(q, k, v, mask, scale=q.shape[-1] ** -0.5)
    real = np.arange(q.shape[1])[None] < np.asarray(rows.count_B)[:, None]
    found = np.asarray(paged_attention(q, pages, rows, implementation="reference"))
    np.testing.assert_allclose(found[real], np.asarray(expected)[real], atol=1e-6)
    assert not found[~real].any()


@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (4, 1)])
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("implementation", [name for name in IMPLEMENTATIONS if name != "reference"])
def test_every_implementation_is_the_definition(implementation, workload, heads):
    q, _, _, pages, rows = problem(workload, *heads)
    expected = paged_attention(q, pages, rows, implementation="reference")
    found = paged_attention(q, pages, rows, implementation=implementation, interpret=True)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("implementation", [name for name in IMPLEMENTATIONS if name != "reference"])
def test_bfloat16_is_summed_in_float32(implementation):
    q, _, _, pages, rows = problem("chunks", dtype=jnp.bfloat16)
    exact = paged_attention(q.astype(jnp.float32), pages.astype(jnp.float32), rows, implementation="reference")
    found = paged_attention(q, pages, rows, implementation=implementation, interpret=True)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=2e-2)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_new_tokens_are_written_to_their_places_and_padding_nowhere(workload):
    q, k, v, pages, rows = problem(workload)
    start, count = np.asarray(rows.start_B), np.asarray(rows.count_B)
    places = np.minimum(rows.positions(q.shape[1]), k.shape[1] - 1)
    new_k, new_v = (jnp.take_along_axis(x, places[:, :, None, None], axis=1) for x in (k, v))
    before = np.array(pages)
    for row in range(len(start)):  # forget what is to be written
        for place in range(start[row], start[row] + count[row]):
            before[rows.table_BW[row, place // PAGE], place % PAGE] = 7.0
    written = write_pages(jnp.asarray(before), new_k, new_v, rows)
    np.testing.assert_array_equal(np.asarray(written), np.asarray(pages))


def test_what_does_not_fit_is_refused():
    q, _, _, pages, rows = problem("decode")
    with pytest.raises(ValueError, match="'flash' is not one of reference, row_by_row"):
        paged_attention(q, pages, rows, implementation="flash")
    with pytest.raises(ValueError, match="pages \\[P,A,2K,E\\]"):
        paged_attention(q, pages[:, :, :3], rows, implementation="reference")
    with pytest.raises(ValueError, match="6 query heads are not a multiple of 4 kv heads"):
        paged_attention(q, jnp.concatenate([pages, pages], axis=2), rows, implementation="reference")
    with pytest.raises(ValueError, match="rows do not fit 4 rows of queries"):
        paged_attention(q[:4], pages, rows, implementation="reference")
