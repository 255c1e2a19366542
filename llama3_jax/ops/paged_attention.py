"""Attention over a paged key/value cache, ragged: every row has a length of its own (4.2.2; Kwon et al. 2023).

A row's tokens lie in pages that its line of a table names, in order, so rows may share pages. A step brings S new
tokens per row, one when decoding or a piece of a prompt, of which a row uses its first `count`. `paged_attention` is
the only door, IMPLEMENTATIONS what is behind it; a request that an implementation cannot honour raises.

The kernels cannot be split by the compiler: call inside `jax.shard_map`, each device with its own rows and heads.

Letters: B rows, S new tokens, W pages of a row, P pages, A places in a page, H query heads, K kv heads, J = 2K: keys
and values of the kv heads in turn, G = H/K, E head size.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llama3_jax.ops.kernels.paged_gpu import triton_paged_attention
from llama3_jax.ops.kernels.paged_tpu import LANES, ragged_paged_attention
from llama3_jax.ops.paged_rows import NEVER, PagedRows

__all__ = ["IMPLEMENTATIONS", "PagedRows", "default_implementation", "paged_attention", "write_pages"]


def write_pages(pages_PAJE: jax.Array, k_BSKE: jax.Array, v_BSKE: jax.Array, rows: PagedRows) -> jax.Array:
    """The pages with the new tokens' keys and values in their rows' next places; padding is written nowhere."""
    num_pages, page_size, _, _ = pages_PAJE.shape
    batch, num_new, num_kv_heads, head_dim = k_BSKE.shape
    pairs_BSJE = jnp.stack([k_BSKE, v_BSKE], axis=3).reshape(batch, num_new, 2 * num_kv_heads, head_dim)
    place_BS = rows.positions(num_new)
    slot_BS = jnp.minimum(place_BS // page_size, rows.table_BW.shape[1] - 1)
    page_BS = rows.table_BW[jnp.arange(batch)[:, None], slot_BS]
    real_BS = jnp.arange(num_new)[None] < rows.count_B[:, None]
    page_BS = jnp.where(real_BS, page_BS, num_pages)  # outside: dropped
    return pages_PAJE.at[page_BS, place_BS % page_size].set(pairs_BSJE.astype(pages_PAJE.dtype), mode="drop")


def paged_attention(
    q_BSHE: jax.Array,
    pages_PAJE: jax.Array,
    rows: PagedRows,
    *,
    implementation: str,
    scale: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Softmax(scale q k) v of each new token over its row's tokens up to itself: [B, S, H, E] in q's dtype.

    The new tokens are in the pages already (`write_pages`). Scores, softmax and sums are float32; `scale` is 1/sqrt(E)
    unless given. Padding gives zeros, whatever the pages hold. `interpret` runs Pallas kernels on a CPU, for tests.

    Raises ValueError for shapes that do not fit, for an unknown implementation, and for a request that the chosen one
    cannot honour.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"paged attention {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    _check_shapes(q_BSHE, pages_PAJE, rows)
    scale = 1 / math.sqrt(q_BSHE.shape[-1]) if scale is None else scale
    out_BSHE = IMPLEMENTATIONS[implementation](q_BSHE, pages_PAJE, rows, scale=scale, interpret=interpret)
    real_BS = jnp.arange(q_BSHE.shape[1])[None] < rows.count_B[:, None]
    return jnp.where(real_BS[:, :, None, None], out_BSHE, jnp.zeros_like(out_BSHE))


def reference_paged_attention(
    q_BSHE: jax.Array, pages_PAJE: jax.Array, rows: PagedRows, *, scale: float, interpret: bool = False
) -> jax.Array:
    """The definition: every row's pages gathered into one long sequence. What the others are tested against."""
    del interpret
    batch, num_new, num_heads, head_dim = q_BSHE.shape
    page_size, pairs = pages_PAJE.shape[1:3]
    pairs_BTKCE = pages_PAJE[rows.table_BW].reshape(batch, -1, pairs // 2, 2, head_dim).astype(jnp.float32)
    seen_BST = jnp.arange(pairs_BTKCE.shape[1])[None, None] <= rows.positions(num_new)[:, :, None]
    in_row_BT = jnp.arange(pairs_BTKCE.shape[1])[None] < (rows.start_B + rows.count_B)[:, None]
    pairs_BTKCE = jnp.where(in_row_BT[:, :, None, None, None], pairs_BTKCE, 0)
    q_BSKGE = q_BSHE.astype(jnp.float32).reshape(batch, num_new, pairs // 2, -1, head_dim)
    highest = jax.lax.Precision.HIGHEST
    scores_BKGST = jnp.einsum("BSKGE,BTKE->BKGST", q_BSKGE, pairs_BTKCE[:, :, :, 0], precision=highest) * scale
    weights_BKGST = jax.nn.softmax(jnp.where(seen_BST[:, None, None], scores_BKGST, NEVER), axis=-1)
    out_BSKGE = jnp.einsum("BKGST,BTKE->BSKGE", weights_BKGST, pairs_BTKCE[:, :, :, 1], precision=highest)
    return out_BSKGE.reshape(q_BSHE.shape).astype(q_BSHE.dtype)


def row_by_row(
    q_BSHE: jax.Array, pages_PAJE: jax.Array, rows: PagedRows, *, scale: float, interpret: bool = False
) -> jax.Array:
    """Each row by itself over its own pages and no others, with the softmax of Milakov and Gimelshein (2018).

    Plain XLA for every platform, and the fast one on CPUs: a row costs what its length asks, and a page stays in the
    processor's cache for all the heads.
    """
    del interpret
    _, num_new, num_heads, head_dim = q_BSHE.shape
    page_size, pairs = pages_PAJE.shape[1:3]
    group = num_heads // (pairs // 2)
    compute = jnp.promote_types(pages_PAJE.dtype, q_BSHE.dtype)

    def one_row(row):
        q_SHE, table_W, start, count = row
        q_KQE = q_SHE.reshape(num_new, -1, group, head_dim).transpose(1, 2, 0, 3)  # Q: group x new tokens
        q_KQE = (q_KQE.astype(jnp.float32) * scale).astype(compute).reshape(pairs // 2, -1, head_dim)
        place_Q = start + jnp.tile(jnp.arange(num_new), group)

        def one_page(number, so_far):
            top_KQ, sum_KQ, out_KQE = so_far
            page_AJE = jax.lax.dynamic_index_in_dim(pages_PAJE, table_W[number], keepdims=False).astype(compute)
            page_KCAE = page_AJE.reshape(page_size, -1, 2, head_dim).transpose(1, 2, 0, 3)
            place_A = number * page_size + jnp.arange(page_size)
            values_KAE = jnp.where((place_A < start + count)[:, None], page_KCAE[:, 1], 0)  # 0 * NaN is NaN
            scores_KQA = _dot("KQE,KAE->KQA", q_KQE, page_KCAE[:, 0])
            scores_KQA = jnp.where(place_A[None] <= jnp.minimum(place_Q, start + count - 1)[:, None], scores_KQA, NEVER)
            new_KQ = jnp.maximum(top_KQ, scores_KQA.max(-1))
            weights_KQA, fade_KQ = jnp.exp(scores_KQA - new_KQ[..., None]), jnp.exp(top_KQ - new_KQ)
            added_KQE = _dot("KQA,KAE->KQE", weights_KQA.astype(compute), values_KAE)
            return new_KQ, sum_KQ * fade_KQ + weights_KQA.sum(-1), out_KQE * fade_KQ[..., None] + added_KQE

        shape = q_KQE.shape[:2]
        empty = jnp.full(shape, NEVER), jnp.zeros(shape), jnp.zeros(q_KQE.shape, jnp.float32)
        _, sum_KQ, out_KQE = jax.lax.fori_loop(0, -(-(start + count) // page_size), one_page, empty)
        out_KGSE = (out_KQE / jnp.maximum(sum_KQ, 1e-30)[..., None]).reshape(-1, group, num_new, head_dim)
        return out_KGSE.transpose(2, 0, 1, 3).reshape(q_SHE.shape).astype(q_SHE.dtype)

    return jax.lax.map(one_row, (q_BSHE, rows.table_BW, rows.start_B, rows.count_B))


def _dot(terms: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(terms, left, right, preferred_element_type=jnp.float32)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "reference": reference_paged_attention,
    "row_by_row": row_by_row,
    "triton": triton_paged_attention,
    "ragged": ragged_paged_attention,
}


def default_implementation(platform: str, head_dim: int = 128) -> str:
    """The best that takes heads of this size on `platform`, named as by `jax.default_backend()`: cpu, tpu, gpu, ..."""
    name = {"tpu": "ragged", "gpu": "triton", "cuda": "triton"}.get(platform, "row_by_row")
    return "row_by_row" if name == "ragged" and head_dim % LANES else name


def _check_shapes(q_BSHE: jax.Array, pages_PAJE: jax.Array, rows: PagedRows) -> None:
    if q_BSHE.ndim != 4 or pages_PAJE.ndim != 4 or pages_PAJE.shape[2] % 2 or q_BSHE.shape[3] != pages_PAJE.shape[3]:
        raise ValueError(
            f"paged attention takes q [B,S,H,E] and pages [P,A,2K,E], not {q_BSHE.shape}, {pages_PAJE.shape}"
        )
    if q_BSHE.shape[2] % (pages_PAJE.shape[2] // 2):
        raise ValueError(f"{q_BSHE.shape[2]} query heads are not a multiple of {pages_PAJE.shape[2] // 2} kv heads")
    batch = q_BSHE.shape[0]
    found = rows.table_BW.shape[:1], rows.start_B.shape, rows.count_B.shape
    if found != ((batch,),) * 3:
        raise ValueError(f"PagedRows of {found} rows do not fit {batch} rows of queries")
