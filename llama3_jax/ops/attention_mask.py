"""Who sees whom: the one typed description of an attention mask that every attention implementation takes.

The paper masks attention between documents packed into one sequence (§3.2) and gives each context-parallel rank two
distant chunks of the queries against all keys (§3.3.2). Both are data, so both are arrays here, and an implementation
that cannot honour one of them must raise rather than look away.

Letters: B batch, S query positions, T key positions.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionMask:
    """Query s sees key t if both are of one document and, when causal, t is not later than s.

    query_segment_ids_BS: int32 document number of each query; 0 is padding, which sees nothing and is seen by nothing.
        None means the whole sequence is one document.
    key_segment_ids_BT: the same for keys. None means that the keys carry the queries' numbers (self-attention, S == T).
    query_index_BS: int32 place of each query in the whole sequence, for context parallelism and caches. None means
        0, 1, 2, ..., which lets an implementation leave out the blocks above the diagonal when it is compiled.
    key_index_BT: the same for keys; None again means 0, 1, 2, ... (it does not follow the queries).
    causal: whether a query must not see keys of a higher index. False is for encoders; indices are then not looked at.

    A pytree whose leaves are the arrays, so it passes through jit, scan, vmap and shard_map; for shard_map's in_specs
    build one with PartitionSpecs in the places of the arrays.
    """

    query_segment_ids_BS: jax.Array | None = None
    key_segment_ids_BT: jax.Array | None = None
    query_index_BS: jax.Array | None = None
    key_index_BT: jax.Array | None = None
    causal: bool = dataclasses.field(default=True, metadata={"static": True})


def check_mask(mask: AttentionMask, batch: int, num_queries: int, num_keys: int) -> None:
    """Raises ValueError naming the field whose shape or dtype does not fit queries [B, S] and keys [B, T]."""
    shapes = {
        "query_segment_ids_BS": (batch, num_queries),
        "key_segment_ids_BT": (batch, num_keys),
        "query_index_BS": (batch, num_queries),
        "key_index_BT": (batch, num_keys),
    }
    for name, shape in shapes.items():
        array = getattr(mask, name)
        if array is None:
            continue
        if array.shape != shape:
            raise ValueError(f"AttentionMask.{name} has shape {array.shape}, but the queries and keys need {shape}")
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(f"AttentionMask.{name} must be of an integer type, not {array.dtype}")
    if mask.query_segment_ids_BS is None and mask.key_segment_ids_BT is not None:
        raise ValueError("AttentionMask.key_segment_ids_BT needs query_segment_ids_BS as well")
    if mask.query_segment_ids_BS is not None and mask.key_segment_ids_BT is None and num_queries != num_keys:
        raise ValueError(
            f"AttentionMask.key_segment_ids_BT may be left out only for self-attention, not for {num_queries} queries "
            f"and {num_keys} keys"
        )


def segment_ids(mask: AttentionMask) -> tuple[jax.Array, jax.Array] | None:
    """Document numbers of queries [B, S] and keys [B, T], which may be the same array; None: all is one document."""
    if mask.query_segment_ids_BS is None:
        return None
    key_ids_BT = mask.key_segment_ids_BT
    return mask.query_segment_ids_BS, mask.query_segment_ids_BS if key_ids_BT is None else key_ids_BT


def visible(mask: AttentionMask, num_queries: int, num_keys: int) -> jax.Array:
    """The rule written out: bool [B or 1, S, T], true where query s sees key t. For references and tests: S*T large."""
    seen_BST = jnp.ones((1, num_queries, num_keys), jnp.bool_)
    if ids := segment_ids(mask):
        query_BS1, key_B1T = ids[0][:, :, None], ids[1][:, None, :]
        seen_BST = (query_BS1 == key_B1T) & (query_BS1 != 0)
    if mask.causal:
        query_BS, key_BT = positions(mask, num_queries, num_keys)
        seen_BST = seen_BST & (key_BT[:, None, :] <= query_BS[:, :, None])
    return seen_BST


def positions(mask: AttentionMask, num_queries: int, num_keys: int) -> tuple[jax.Array, jax.Array]:
    """Places in the whole sequence of queries [B or 1, S] and keys [B or 1, T]; the 1 is where the mask gives none."""
    query_BS, key_BT = mask.query_index_BS, mask.key_index_BT
    if query_BS is None:
        query_BS = jnp.arange(num_queries, dtype=jnp.int32)[None]
    if key_BT is None:
        key_BT = jnp.arange(num_keys, dtype=jnp.int32)[None]
    return query_BS, key_BT


def sees_any(mask: AttentionMask, num_queries: int, num_keys: int) -> jax.Array:
    """Which queries see at least one key: bool [B or 1, S]. The comparison is reduced as it is made, never stored."""
    return jnp.any(visible(mask, num_queries, num_keys), axis=2)
