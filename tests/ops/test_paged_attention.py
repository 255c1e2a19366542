"""Paged attention: every implementation against the definition, and the definition against attention itself."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.ops.attention import AttentionMask, reference_attention
from llama3_jax.ops.kernels import paged_gpu
from llama3_jax.ops.kernels.paged_tpu import ragged_tokens
from llama3_jax.ops.paged_attention import (
    IMPLEMENTATIONS,
    PagedRows,
    default_implementation,
    paged_attention,
    write_pages,
)
from tests.ops.paged_cases import FAST, head_dim_of, interpreted, problem, run

# Rows of (tokens in the cache, new tokens); S is the largest number of new ones. Two pairs of equal shapes: to compile
# a kernel takes longer than to run it.
WORKLOADS = {
    "decode": [(0, 1), (1, 1), (3, 1), (4, 1), (17, 1)],
    "nothing": [(0, 0), (9, 0), (3, 0), (18, 0), (0, 0)],
    "prefill": [(0, 8), (0, 1), (0, 4), (16, 0)],
    "chunks": [(5, 6), (12, 3), (0, 0), (8, 8)],
}
HEADS = [(6, 2), (4, 4), (4, 1)]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_definition_is_attention_to_the_row_so_far(workload):
    q, k, v, pages, rows = problem(WORKLOADS[workload])
    mask = AttentionMask(query_index_BS=rows.positions(q.shape[1]))
    expected = reference_attention(q, k, v, mask, scale=q.shape[-1] ** -0.5)
    real = np.arange(q.shape[1])[None] < np.asarray(rows.count_B)[:, None]
    found = np.asarray(run(q, pages, rows, implementation="reference"))
    np.testing.assert_allclose(found[real], np.asarray(expected)[real], atol=1e-6)
    assert not found[~real].any()


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize(
    ("implementation", "heads"),
    [
        pytest.param(name, heads, marks=[pytest.mark.slow] if name == "ragged" and heads != HEADS[0] else [])
        for name in FAST
        for heads in HEADS
    ],
)
def test_every_implementation_is_the_definition(implementation, workload, heads):
    q, _, _, pages, rows = problem(WORKLOADS[workload], heads, head_dim_of(implementation))
    expected = run(q, pages, rows, implementation="reference")
    np.testing.assert_allclose(interpreted(implementation, q, pages, rows), expected, atol=2e-6)


@pytest.mark.parametrize("implementation", FAST)
def test_bfloat16_is_summed_in_float32(implementation):
    q, _, _, pages, rows = problem(WORKLOADS["chunks"], head_dim=head_dim_of(implementation), dtype=jnp.bfloat16)
    exact = run(q.astype(jnp.float32), pages.astype(jnp.float32), rows, implementation="reference", scale=0.3)
    np.testing.assert_allclose(interpreted(implementation, q, pages, rows, scale=0.3), exact, atol=2e-2)


@pytest.mark.parametrize("implementation", FAST)
def test_rows_may_share_pages(implementation):
    q, _, _, pages, rows = problem(WORKLOADS["decode"], head_dim=head_dim_of(implementation))
    shared = rows.table_BW.at[2, 0].set(rows.table_BW[4, 0]).at[3, 0].set(rows.table_BW[4, 0])
    rows = PagedRows(shared, rows.start_B, rows.count_B)
    expected = run(q, pages, rows, implementation="reference")
    np.testing.assert_allclose(interpreted(implementation, q, pages, rows), expected, atol=2e-6)


LONG = {  # several steps of a kernel over keys and over queries, long rows beside short ones
    "decode": [(1500, 1), (0, 0), (70, 1), (1, 1)],
    "chunks": [(137, 40), (0, 1), (300, 13), (3, 0)],
}


@pytest.mark.parametrize("workload", LONG)
@pytest.mark.parametrize(
    ("implementation", "pieces"),
    [("row_by_row", None), ("triton", 2), ("triton", 60), pytest.param("ragged", None, marks=pytest.mark.slow)],
)
def test_long_rows_among_short_ones(implementation, pieces, workload, monkeypatch):
    """On GPUs a batch is cut into `pieces` for two kv heads: at 2 no row is, at 60 the longest into more than 16."""
    if pieces is not None:
        monkeypatch.setattr(paged_gpu, "PROGRAMS", pieces)
        run.clear_cache()  # it is no argument
    q, _, _, pages, rows = problem(LONG[workload], (6, 2), head_dim_of(implementation), page_size=16)
    expected = run(q, pages, rows, implementation="reference")
    np.testing.assert_allclose(interpreted(implementation, q, pages, rows), expected, atol=2e-6)


cut_jobs = jax.jit(paged_gpu.cut_jobs, static_argnums=(1, 2))
table_of = lambda tree: np.stack(jax.tree.leaves(tree), axis=1).tolist()
NUM_KEYS = st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 5000))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.lists(NUM_KEYS, min_size=12, max_size=12), st.sampled_from([1, 7, 40]))
@hypothesis.example([0] * 11 + [5000], 7)
@hypothesis.example([5000] + [0] * 11, 40)
def test_pieces_cover_every_key_once(keys, extra):
    units, cuts = cut_jobs(np.array(keys, np.int32), extra, 32)
    work = {"whole": [[] for _ in keys], "pieces": [[] for _ in keys]}
    for job, low, high, slot in table_of(units):
        if low >= high:
            assert slot == paged_gpu.WHOLE, "would write"
            continue
        assert high - low <= -(-sum(keys) // extra) + 31
        work["whole" if slot == paged_gpu.WHOLE else "pieces"][job].append((low, high, slot))
    slots = {job: [] for job in range(12)}
    for job, first, pieces in table_of(cuts):
        slots[job] += range(first, first + pieces)
    for job, length in enumerate(keys):
        whole, pieces = work["whole"][job], work["pieces"][job]
        assert len(whole) + (len(pieces) > 1) == (length > 0)
        assert [place for low, high, _ in whole + pieces for place in range(low, high)] == list(range(length))
        assert [slot for *_, slot in pieces] == slots[job]
    taken = sum(slots.values(), [])
    assert len(set(taken)) == len(taken) and set(taken) <= set(range(2 * extra))


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=4, max_size=4))
def test_a_ragged_list_has_every_token_once(lengths):
    start, count = np.array(lengths).T
    rows = PagedRows(*(jnp.asarray(x, jnp.int32) for x in (np.full((4, 9), 7), start, count)))
    ragged = ragged_tokens(rows, 5, page_size=4)
    first, token, place = (np.asarray(x) for x in (ragged.first_B1, ragged.token_R, ragged.place_BS))
    expected = [row * 5 + new for row in range(4) for new in range(max(1, count[row]))]
    assert token[: first[-1]].tolist() == expected
    real = np.arange(5)[None] < count[:, None]
    np.testing.assert_array_equal(token[place][real], np.arange(20).reshape(4, 5)[real])
    np.testing.assert_array_equal(ragged.length_B, np.where(count > 0, start + count, 1))
    held = np.arange(9)[None] * 4 < np.where(count > 0, start + count, 0)[:, None]
    np.testing.assert_array_equal(ragged.table_BW, np.where(held, 7, 0))


@pytest.mark.parametrize("workload", WORKLOADS)
def test_new_tokens_are_written_to_their_places_and_padding_nowhere(workload):
    q, k, v, pages, rows = problem(WORKLOADS[workload])
    start, count = np.asarray(rows.start_B), np.asarray(rows.count_B)
    places = np.minimum(rows.positions(q.shape[1]), k.shape[1] - 1)
    new_k, new_v = (jnp.take_along_axis(x, places[:, :, None, None], axis=1) for x in (k, v))
    before = np.array(pages)
    for row in range(len(start)):  # forget what is to be written
        for place in range(start[row], start[row] + count[row]):
            before[rows.table_BW[row, place // 4], place % 4] = 7.0
    written = write_pages(jnp.asarray(before), new_k, new_v, rows)
    np.testing.assert_array_equal(np.asarray(written), np.asarray(pages))


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(32, 8), (8, 1), (16, 1)])
@pytest.mark.parametrize("workload", ["decode", "chunks"])
def test_gpu_kernel_is_the_definition(workload, heads):
    """Run with JAX_PLATFORMS=cuda -m gpu."""
    q, _, _, pages, rows = problem(LONG[workload], heads, 128, jnp.bfloat16, page_size=64)
    expected = run(q.astype(jnp.float32), pages.astype(jnp.float32), rows, implementation="reference")
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)):
        found = run(q.astype(dtype), pages.astype(dtype), rows, implementation="triton")
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=tolerance)


def test_what_does_not_fit_is_refused():
    q, _, _, pages, rows = problem(WORKLOADS["decode"])
    with pytest.raises(ValueError, match="'flash' is not one of reference, row_by_row"):
        paged_attention(q, pages, rows, implementation="flash")
    with pytest.raises(ValueError, match="pages \\[P,A,2K,E\\]"):
        paged_attention(q, pages[:, :, :3], rows, implementation="reference")
    with pytest.raises(ValueError, match="6 query heads are not a multiple of 4 kv heads"):
        paged_attention(q, jnp.concatenate([pages, pages], axis=2), rows, implementation="reference")
    with pytest.raises(ValueError, match="rows do not fit 4 rows of queries"):
        paged_attention(q[:4], pages, rows, implementation="reference")


@pytest.mark.parametrize(
    ("implementation", "heads", "head_dim", "width", "interpret", "words"),
    [
        ("triton", (6, 2), 24, 6, True, "head sizes 16, 32, 64, ..., not 24"),
        ("ragged", (6, 2), 64, 6, False, "multiples of 128, not 64"),
        ("ragged", (6, 3), 128, 6, False, "1, 2, 4 or a multiple of 8 kv heads, not 3"),
        ("ragged", (6, 2), 128, 60_000, False, "a table of 258,048 pages, not 5 x 60000: take larger pages"),
        ("ragged", (6, 2), 128, 6, True, "cannot be interpreted"),
    ],
)
def test_what_a_kernel_cannot_honour_is_refused(implementation, heads, head_dim, width, interpret, words):
    q, _, _, pages, rows = problem(WORKLOADS["decode"], heads, head_dim)
    rows = PagedRows(jnp.zeros((5, width), jnp.int32), rows.start_B, rows.count_B)
    with pytest.raises(ValueError, match=f'paged attention "{implementation}" .*{words}.*"row_by_row"'):
        paged_attention(q, pages, rows, implementation=implementation, interpret=interpret)
    if implementation == "ragged":
        with pytest.raises(ValueError, match='not bfloat16 and float32; use "row_by_row"'):
            paged_attention(q.astype(jnp.bfloat16), pages, rows, implementation="ragged")


def test_default_implementations_exist():
    names = {platform: default_implementation(platform) for platform in ("cpu", "tpu", "gpu", "cuda", "rocm")}
    assert default_implementation("tpu", head_dim=64) == "row_by_row"  # the 1B's heads
    assert names == {"cpu": "row_by_row", "tpu": "ragged", "gpu": "triton", "cuda": "triton", "rocm": "row_by_row"}
    assert set(names.values()) <= set(IMPLEMENTATIONS)
