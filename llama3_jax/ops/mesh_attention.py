"""Attention on a mesh: every device its own rows, heads and, under context parallelism, its own part of the queries.

Kernels are not split by the compiler, so this is `shard_map` around the local attention. What the layers of one step
share is gathered once: the documents of all keys and, for a split by document cost, where each block of keys lies.
"""

import dataclasses
import functools
from typing import Any

import jax

from llama3_jax.core.sharding import Layout
from llama3_jax.ops.attention import AttentionMask, attention
from llama3_jax.parallel.context import BlockOrder, context_attention, gather_block_order, gather_ids
from llama3_jax.parallel.manual import manual

CONTEXT = "context"  # the mesh axis over which sequences are split


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshMask:
    """A mask made ready for all layers of a step."""

    mask: AttentionMask
    order: BlockOrder | None = None  # None: the paper's split, or sequences that are not split


def ready_mask(mask: AttentionMask, layout: Layout, block: int | None = None) -> MeshMask:
    """`mask` with what context parallelism gathers. `block`: tokens per block of a split by document cost, else None.

    Raises ValueError for a split by document cost without `query_index_BS`.
    """
    if layout.size(CONTEXT) == 1:
        return MeshMask(mask=mask)
    if block is not None and mask.query_index_BS is None:
        raise ValueError("a split by document cost needs query_index_BS, the batch's index")

    def gather(mask):
        order = None if block is None else gather_block_order(mask.query_index_BS, CONTEXT, block)
        if mask.query_segment_ids_BS is None:
            return MeshMask(mask=mask, order=order)
        ids_BT = gather_ids(mask.query_segment_ids_BS, CONTEXT, order)
        return MeshMask(mask=dataclasses.replace(mask, key_segment_ids_BT=ids_BT), order=order)

    return manual(gather, layout, (_mask_specs(mask, layout),), _ready_specs(mask, layout, block))(mask)


def mesh_attention(
    q_BSHE: jax.Array, k_BSKE: jax.Array, v_BSKE: jax.Array, ready: MeshMask, layout: Layout, implementation: str
) -> jax.Array:
    """`ops.attention.attention` of arrays split as `layout` says: [B, S, H, E]. Errors are those of `attention`."""
    attend = functools.partial(attention, implementation=implementation)

    def local(q_BSHE, k_BSKE, v_BSKE, ready):
        if layout.size(CONTEXT) == 1:
            return attend(q_BSHE, k_BSKE, v_BSKE, ready.mask)
        return context_attention(q_BSHE, k_BSKE, v_BSKE, ready.mask, attend, CONTEXT, ready.order)

    used = layout.used
    ready_specs = MeshMask(mask=_mask_specs(ready.mask, layout), order=jax.tree.map(lambda _: used("BT"), ready.order))
    inputs = (used("BSHE"), used("BSKE"), used("BSKE"), ready_specs)
    return manual(local, layout, inputs, used("BSHE"))(q_BSHE, k_BSKE, v_BSKE, ready)


def _mask_specs(mask: AttentionMask, layout: Layout) -> AttentionMask:
    """Specs in the places of the mask's arrays: queries split along the sequence, keys whole."""
    specs = {
        field.name: layout.used(field.name[-2:])
        for field in dataclasses.fields(mask)
        if field.name[-2:] in ("BS", "BT") and getattr(mask, field.name) is not None
    }
    return dataclasses.replace(mask, **specs)


def _ready_specs(mask: AttentionMask, layout: Layout, block: int | None) -> MeshMask:
    specs = _mask_specs(mask, layout)
    if mask.query_segment_ids_BS is not None:
        specs = dataclasses.replace(specs, key_segment_ids_BT=layout.used("BT"))
    order: Any = (layout.used("BT"), layout.used("BT"))
    return MeshMask(mask=specs, order=None if block is None else BlockOrder(*order))
