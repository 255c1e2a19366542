"""Paged attention for NVIDIA GPUs: our own flash-decoding kernel in Pallas, lowered through Triton.

A job is a block of a row's queries: all G heads of a kv head times some of the S new tokens, so that keys are read once
for the whole group. Jobs with more keys than others are cut into pieces, so that one long row keeps a whole GPU busy,
alone or among short ones: a program attends to one piece, and a second kernel merges the softmaxes of the pieces
(flash-decoding, Dao et al. 2023). Nothing past a row's last token is read, neither pages nor the table.

JAX 0.12 announces when it lowers the kernels that Pallas will stop lowering through Triton.

Run so far: interpreted on a CPU; compiled ahead of time for H100 (jax 0.12), at the shapes of one device of the 8B, 70B
and 405B, where `ptxas` spills no registers. Not run on a GPU, which `pytest -m gpu tests/ops/test_paged_attention.py`
does; so the sizes of blocks and PROGRAMS are reasoned, not measured.

Letters: M queries of a block (tokens x G), T keys of a step, N jobs, U units (whole jobs and pieces), X jobs that are
cut, Z pieces merged at once, R queries merged at once.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from llama3_jax.ops.paged_rows import NEVER, PagedRows

LOG2_E = math.log2(math.e)
PROGRAMS = 528  # pieces of work to cut a batch into: four for each of an H100's 132 processors
MERGED_PIECES, MERGED_QUERIES = 16, 4
WHOLE = -1  # in the place of a slot: the unit is a whole job


def triton_paged_attention(
    q_BSHE: jax.Array, pages_PAJE: jax.Array, rows: PagedRows, *, scale: float, interpret: bool = False
) -> jax.Array:
    """Attention [B, S, H, E] of new tokens to their rows' pages, which may be of any size. Padding is left undefined.

    Raises ValueError for head sizes other than 16, 32, 64, ...
    """
    sizes = _sizes(q_BSHE, pages_PAJE)
    kv_heads, extra = sizes.num_kv_heads, -(-PROGRAMS // sizes.num_kv_heads)
    units, cuts = cut_jobs(keys_of_jobs(rows, sizes), extra, sizes.keys)
    q_BSKGE = q_BSHE.reshape(*q_BSHE.shape[:2], kv_heads, sizes.group, sizes.head_dim)
    out_BSKGE = jax.ShapeDtypeStruct(q_BSKGE.shape, q_BSHE.dtype)
    part = (2 * extra, kv_heads, sizes.queries)
    parts = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (part, part, (*part, sizes.head_dim))]
    out_BSKGE, *parts = pl.pallas_call(
        functools.partial(_attend, sizes=sizes, scale=scale * LOG2_E),
        grid=(units.job_U.shape[0] * kv_heads,),  # one dim: CUDA allows the others 65,535
        out_shape=[out_BSKGE, *parts],
        compiler_params=plgpu.CompilerParams(num_warps=sizes.warps, num_stages=sizes.stages),
        interpret=interpret,
        name="paged_attention",
    )(q_BSKGE, pages_PAJE, rows.table_BW, rows.start_B, *dataclasses.astuple(units))
    blocks_of_queries = pl.cdiv(min(sizes.queries, sizes.num_new * sizes.group), MERGED_QUERIES)
    out_BSKGE = pl.pallas_call(
        functools.partial(_merge, sizes=sizes),
        grid=(extra, kv_heads, blocks_of_queries),
        out_shape=jax.ShapeDtypeStruct(q_BSKGE.shape, q_BSHE.dtype),
        input_output_aliases={0: 0},
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="merge_paged_attention",
    )(out_BSKGE, *parts, *dataclasses.astuple(cuts))
    return out_BSKGE.reshape(q_BSHE.shape)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the kernels are compiled for."""

    num_new: int
    num_kv_heads: int
    group: int
    head_dim: int
    page_size: int
    queries: int  # M
    keys: int  # T
    warps: int
    stages: int

    @property
    def num_blocks(self) -> int:
        """Blocks of queries of a row: jobs per row."""
        return -(-self.num_new * self.group // self.queries)


def _sizes(q_BSHE: jax.Array, pages_PAJE: jax.Array) -> Sizes:
    _, num_new, num_heads, head_dim = q_BSHE.shape
    page_size, pairs = pages_PAJE.shape[1:3]
    if head_dim < 16 or head_dim & (head_dim - 1):
        raise ValueError(f'paged attention "triton" takes head sizes 16, 32, 64, ..., not {head_dim}; use "row_by_row"')
    group = num_heads // (pairs // 2)
    wide = max(q_BSHE.dtype.itemsize, pages_PAJE.dtype.itemsize) > 2  # float32 takes twice the room, no tensor cores
    queries = 16 if wide else min(max(16, pl.next_power_of_2(num_new * group)), 128)
    return Sizes(
        num_new=num_new,
        num_kv_heads=pairs // 2,
        group=group,
        head_dim=head_dim,
        page_size=page_size,
        queries=queries,
        keys=32 if wide else 64,
        warps=8 if queries > 64 else 4,
        stages=2 if wide else 3,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Units:
    """Work for one program each. All int32. Units that are left over have no keys."""

    job_U: jax.Array
    low_U: jax.Array  # the row's keys [low, high)
    high_U: jax.Array
    slot_U: jax.Array  # where to leave a piece's softmax, or WHOLE


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cuts:
    """Jobs in several pieces, which lie in neighbouring slots. All int32. Cuts that are left over have no pieces."""

    job_X: jax.Array
    slot_X: jax.Array
    pieces_X: jax.Array


def keys_of_jobs(rows: PagedRows, sizes: Sizes) -> jax.Array:
    """How many keys the last real token of each block of queries sees, int32 [N]; 0 for a block of padding."""
    block_1Q = jnp.arange(sizes.num_blocks, dtype=jnp.int32)[None]
    first_1Q = block_1Q * sizes.queries // sizes.group
    last_1Q = ((block_1Q + 1) * sizes.queries - 1) // sizes.group
    start_B1, count_B1 = rows.start_B[:, None], rows.count_B[:, None]
    keys_BQ = start_B1 + jnp.minimum(last_1Q + 1, count_B1)
    return jnp.where(first_1Q < count_B1, keys_BQ, 0).reshape(-1)


def cut_jobs(keys_N: jax.Array, extra: int, step: int) -> tuple[Units, Cuts]:
    """Cuts the keys of jobs into pieces no longer than a length that makes for up to N + `extra` units.

    That is the batch's keys over `extra`, rounded up to a multiple of `step`. At most `extra` jobs are cut, into at
    most twice as many pieces.
    """
    length = -(-jnp.sum(keys_N) // extra)
    length = jnp.maximum(-(-length // step), 1) * step
    pieces_N = -(-keys_N // length)
    end_N, slots_N = jnp.cumsum(pieces_N), jnp.where(pieces_N > 1, pieces_N, 0)
    slot_N = jnp.cumsum(slots_N) - slots_N

    job_U = _which(end_N, keys_N.shape[0] + extra)
    piece_U = jnp.arange(job_U.shape[0]) - (end_N - pieces_N)[job_U]
    low_U = piece_U * length
    high_U = jnp.minimum(low_U + length, keys_N[job_U])  # below `low` in units that are left over
    slot_U = jnp.where((pieces_N[job_U] > 1) & (low_U < high_U), slot_N[job_U] + piece_U, WHOLE)

    cut_N = jnp.cumsum(pieces_N > 1)
    job_X = _which(cut_N, extra)
    pieces_X = jnp.where(jnp.arange(extra) < cut_N[-1], pieces_N[job_X], 0)
    as_int32 = lambda tree: jax.tree.map(lambda array: array.astype(jnp.int32), tree)
    return as_int32(Units(job_U, low_U, high_U, slot_U)), as_int32(Cuts(job_X, slot_N[job_X], pieces_X))


def _which(end_N: jax.Array, count: int) -> jax.Array:
    """The job that each of 0, 1, ..., `count` - 1 belongs to, when a job's numbers stop before `end`; else the last."""
    before = jnp.sum(end_N[None] <= jnp.arange(count)[:, None], axis=1)
    return jnp.minimum(before, end_N.shape[0] - 1)


def _attend(
    q_ref,
    pages_ref,
    table_ref,
    start_ref,
    job_ref,
    low_ref,
    high_ref,
    slot_ref,
    out_ref,
    top_ref,
    sum_ref,
    part_ref,
    *,
    sizes: Sizes,
    scale: float,
):
    """One unit: the output of a whole job, or a piece's maximum, sum and output before the division."""
    unit, kv_head = pl.program_id(0) // sizes.num_kv_heads, pl.program_id(0) % sizes.num_kv_heads
    job, low, high, slot = job_ref[unit], low_ref[unit], high_ref[unit], slot_ref[unit]
    row, query_M, where = _queries(job, jnp.arange(sizes.queries), kv_head, sizes)
    real_M = query_M < sizes.num_new * sizes.group
    compute = jnp.promote_types(q_ref.dtype, pages_ref.dtype)
    q_ME = plgpu.load(q_ref.at[where], mask=real_M[:, None], other=0).astype(compute)
    place_M = start_ref[row] + query_M // sizes.group
    column_1E = jnp.arange(sizes.head_dim)[None]

    def step(number, so_far):
        top_M, sum_M, out_ME = so_far
        place_T = low + number * sizes.keys + jnp.arange(sizes.keys)
        inside_T = place_T < high
        page_T = plgpu.load(table_ref.at[row, place_T // sizes.page_size], mask=inside_T, other=0)

        def read(key_or_value):
            at = page_T[:, None], (place_T % sizes.page_size)[:, None], 2 * kv_head + key_or_value, column_1E
            return plgpu.load(pages_ref.at[at], mask=inside_T[:, None], other=0).astype(compute)

        scores_MT = _dot(q_ME, read(0), trans_b=True) * scale
        scores_MT = jnp.where(inside_T[None] & (place_T[None] <= place_M[:, None]), scores_MT, NEVER)
        new_M = jnp.maximum(top_M, scores_MT.max(1))
        weights_MT, fade_M = jnp.exp2(scores_MT - new_M[:, None]), jnp.exp2(top_M - new_M)
        out_ME = out_ME * fade_M[:, None] + _dot(weights_MT.astype(compute), read(1))
        return new_M, sum_M * fade_M + weights_MT.sum(1), out_ME

    empty = jnp.full(sizes.queries, NEVER), jnp.zeros(sizes.queries), jnp.zeros(q_ME.shape, jnp.float32)
    top_M, sum_M, out_ME = jax.lax.fori_loop(0, pl.cdiv(high - low, sizes.keys), step, empty)
    whole_M, piece_M = real_M & (slot == WHOLE) & (low < high), real_M & (slot != WHOLE)
    plgpu.store(out_ref.at[where], (out_ME / sum_M[:, None]).astype(out_ref.dtype), mask=whole_M[:, None])
    at = slot, kv_head, jnp.arange(sizes.queries)
    plgpu.store(top_ref.at[at], top_M, mask=piece_M)
    plgpu.store(sum_ref.at[at], sum_M, mask=piece_M)
    plgpu.store(part_ref.at[slot, kv_head, at[2][:, None], column_1E], out_ME, mask=piece_M[:, None])


def _merge(_, top_ref, sum_ref, part_ref, job_ref, slot_ref, pieces_ref, out_ref, *, sizes: Sizes):
    """Some queries of a job that was cut: the mean of its pieces, weighted by their sums."""
    cut, kv_head, block = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    first, pieces = slot_ref[cut], pieces_ref[cut]
    place_R = block * MERGED_QUERIES + jnp.arange(MERGED_QUERIES)
    _, query_R, where = _queries(job_ref[cut], place_R, kv_head, sizes)
    real_R = query_R < sizes.num_new * sizes.group
    column_11E = jnp.arange(sizes.head_dim)[None, None]

    def step(number, so_far):
        top_R, sum_R, out_RE = so_far
        piece_Z = number * MERGED_PIECES + jnp.arange(MERGED_PIECES)
        real_ZR = (piece_Z < pieces)[:, None] & real_R[None]
        at = (first + piece_Z)[:, None], kv_head, place_R[None]
        top_ZR = plgpu.load(top_ref.at[at], mask=real_ZR, other=NEVER)
        sum_ZR = plgpu.load(sum_ref.at[at], mask=real_ZR, other=0)
        at = (first + piece_Z)[:, None, None], kv_head, place_R[None, :, None], column_11E
        out_ZRE = plgpu.load(part_ref.at[at], mask=real_ZR[:, :, None], other=0)
        new_R = jnp.maximum(top_R, top_ZR.max(0))
        weight_ZR, fade_R = jnp.exp2(top_ZR - new_R[None]), jnp.exp2(top_R - new_R)
        out_RE = out_RE * fade_R[:, None] + (out_ZRE * weight_ZR[:, :, None]).sum(0)
        return new_R, sum_R * fade_R + (sum_ZR * weight_ZR).sum(0), out_RE

    empty = jnp.full(MERGED_QUERIES, NEVER), jnp.zeros(MERGED_QUERIES), jnp.zeros((MERGED_QUERIES, sizes.head_dim))
    _, sum_R, out_RE = jax.lax.fori_loop(0, pl.cdiv(pieces, MERGED_PIECES), step, empty)
    real_R1 = (real_R & (pieces > 0))[:, None]
    plgpu.store(out_ref.at[where], (out_RE / sum_R[:, None]).astype(out_ref.dtype), mask=real_R1)


def _queries(job: jax.Array, place_M: jax.Array, kv_head: jax.Array, sizes: Sizes):
    """A job's row, which of the row's S G queries lie at `place_M`, and where they are in [B, S, K, G, E]."""
    row, query_M = job // sizes.num_blocks, job % sizes.num_blocks * sizes.queries + place_M
    token_M1, head_M1 = (query_M // sizes.group)[:, None], (query_M % sizes.group)[:, None]
    return row, query_M, (row, token_M1, kv_head, head_M1, jnp.arange(sizes.head_dim)[None])


def _dot(left: jax.Array, right: jax.Array, **options) -> jax.Array:
    return plgpu.dot(left, right, precision=jax.lax.Precision.HIGHEST, **options)  # float32 as float32, not TF32
