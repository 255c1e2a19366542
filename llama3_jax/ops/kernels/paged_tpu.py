"""Paged attention for TPUs: JAX's own kernel (jax.experimental.pallas.ops.tpu.ragged_paged_attention) under our rows.

The kernel takes one list of tokens, row after row without padding, and reads our layout of pages. It never looks at
pages past a row's last token, but it fetches the next row's first page ahead, so every row must have one: a row without
new tokens stands in the list as one token that sees one place, whatever that place holds.

Run so far: interpreted on a CPU, which jax 0.10 to 0.12 cannot without the help of tests/ops/paged_cases.py; compiled
ahead of time for TPU v4, v5e, v5p, v6e and 7x (jax 0.12), at the shapes of one device of the 8B, 70B and 405B. Not run
on a TPU. Sizes of blocks follow the kernel's own table of tuned ones, which begins at 512 tokens.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention as jax_ragged

from llama3_jax.ops.paged_rows import PagedRows

LANES = 128
TABLE_BYTES = 2**20 - 2**14  # the table lies in scalar memory, 1 MiB of v5e, v5p and v6e, beside what else is there
VMEM_BYTES = 32 * 2**20  # of 64 MiB on a v5p, 128 MiB on a v5e or v6e
BUFFER_BYTES = 4 * 2**20  # keys and values of a step; there are two such buffers
MAX_PAGES, MAX_KEYS = 16, 1024  # of a step: where the kernel's own table of tuned sizes ends


def ragged_paged_attention(
    q_BSHE: jax.Array, pages_PAJE: jax.Array, rows: PagedRows, *, scale: float, interpret: bool = False
) -> jax.Array:
    """Attention [B, S, H, E] of bfloat16 or float32 queries to pages of the same dtype.

    Raises ValueError for other dtypes, for head sizes that are no multiple of 128, for numbers of kv heads that do not
    tile, for a table that scalar memory does not hold, and for interpretation.
    """
    _check(q_BSHE, pages_PAJE, rows, interpret)
    batch, num_new, num_heads, _ = q_BSHE.shape
    tokens = ragged_tokens(rows, num_new, pages_PAJE.shape[1])
    pages, queries = _block_sizes(q_BSHE, pages_PAJE, rows.table_BW.shape[1])
    q_RHE = q_BSHE.reshape(batch * num_new, *q_BSHE.shape[2:])
    out_RHE = jax_ragged(
        q_RHE if tokens.token_R is None else q_RHE[tokens.token_R],
        pages_PAJE,
        tokens.length_B,
        tokens.table_BW,
        tokens.first_B1,
        jnp.full(1, batch, jnp.int32),
        sm_scale=scale,
        num_kv_pages_per_block=pages,
        num_queries_per_block=queries,
        vmem_limit_bytes=VMEM_BYTES,
    )
    return out_RHE.reshape(q_BSHE.shape) if tokens.place_BS is None else out_RHE[tokens.place_BS]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RaggedTokens:
    """The rows as one list of R = B S places, filled from the front. All int32; None where list and rows agree."""

    first_B1: jax.Array  # where each row's tokens begin in the list, [B + 1], and where the last row's end
    length_B: jax.Array  # keys of each row, at least one
    table_BW: jax.Array  # as in `PagedRows`, and page 0 past a row's end
    token_R: jax.Array | None  # which of the B S tokens stands here
    place_BS: jax.Array | None  # where a token stands in the list; somewhere for padding


def ragged_tokens(rows: PagedRows, num_new: int, page_size: int) -> RaggedTokens:
    """`rows` in the kernel's terms. A row without new tokens has one, of padding, that sees one place of page 0."""
    batch, width = rows.table_BW.shape
    real_B = rows.count_B > 0
    length_B = jnp.where(real_B, rows.start_B + rows.count_B, 1)
    held_BW = real_B[:, None] & (jnp.arange(width, dtype=jnp.int32)[None] * page_size < length_B[:, None])
    end_B = jnp.cumsum(jnp.maximum(rows.count_B, 1), dtype=jnp.int32)
    first_B1 = jnp.concatenate([jnp.zeros(1, jnp.int32), end_B])
    token_R, place_BS = None, None
    if batch > 1 and num_new > 1:
        place_R, place_S = (jnp.arange(size, dtype=jnp.int32) for size in (batch * num_new, num_new))
        row_R = jnp.sum(end_B[None, :-1] <= place_R[:, None], axis=1, dtype=jnp.int32)
        token_R = jnp.minimum(row_R * num_new + place_R - first_B1[row_R], batch * num_new - 1)
        place_BS = jnp.minimum(first_B1[:-1, None] + place_S[None], batch * num_new - 1)
    return RaggedTokens(first_B1, length_B, jnp.where(held_BW, rows.table_BW, 0), token_R, place_BS)


def _block_sizes(q_BSHE: jax.Array, pages_PAJE: jax.Array, width: int) -> tuple[int, int]:
    """Pages and tokens of a step.

    When decoding, a step works on its whole block of tokens for each row in turn, so the block is small: 8, a tile.
    """
    _, num_new, num_heads, _ = q_BSHE.shape
    page_size = pages_PAJE.shape[1]
    page_bytes = pages_PAJE.dtype.itemsize * math.prod(pages_PAJE.shape[1:])
    pages = max(1, min(MAX_PAGES, MAX_KEYS // page_size, BUFFER_BYTES // page_bytes, width))
    queries = 8 if num_new == 1 else max(8, min(32, 2048 // num_heads))
    return pages, queries


def _check(q_BSHE: jax.Array, pages_PAJE: jax.Array, rows: PagedRows, interpret: bool) -> None:
    otherwise = 'use "row_by_row"'
    num_kv_heads, head_dim = pages_PAJE.shape[2] // 2, pages_PAJE.shape[3]
    if interpret:
        raise ValueError(
            f'paged attention "ragged" cannot be interpreted: JAX cannot interpret its kernel; {otherwise}'
        )
    if q_BSHE.dtype != pages_PAJE.dtype or q_BSHE.dtype not in (jnp.bfloat16, jnp.float32):
        raise ValueError(
            f'paged attention "ragged" takes queries and pages both bfloat16 or both float32, not {q_BSHE.dtype} and '
            f"{pages_PAJE.dtype}; {otherwise}"
        )
    if head_dim % LANES:
        raise ValueError(
            f'paged attention "ragged" takes head sizes that are multiples of {LANES}, not {head_dim}; {otherwise}'
        )
    if num_kv_heads not in (1, 2, 4) and num_kv_heads % 8:
        raise ValueError(
            f'paged attention "ragged" takes 1, 2, 4 or a multiple of 8 kv heads, not {num_kv_heads}; {otherwise}'
        )
    batch, width = rows.table_BW.shape
    padded = 1 << (batch - 1).bit_length() if batch < 8 else -(-batch // 8) * 8
    if 4 * padded * -(-width // LANES) * LANES > TABLE_BYTES:
        raise ValueError(
            f'paged attention "ragged" has room for a table of {TABLE_BYTES // 4:,} pages, not {batch} x {width}: take '
            f"larger pages or fewer rows, or {otherwise}"
        )
