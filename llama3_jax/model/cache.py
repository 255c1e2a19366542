"""The dense key/value cache: one slot per layer, row and position."""

from typing import Any

import jax
import jax.numpy as jnp

from llama3_jax.ops.attention import AttentionMask

LayerCache = dict[str, jax.Array]  # {"k_BTKE", "v_BTKE"}; a whole model's cache has a leading layer dim N


def init_cache(num_layers: int, batch: int, length: int, num_kv_heads: int, head_dim: int, dtype: Any) -> LayerCache:
    """An empty cache for `batch` rows of at most `length` tokens: `[N, B, T, K, E]` keys and values."""
    shape = (num_layers, batch, length, num_kv_heads, head_dim)
    return {"k_BTKE": jnp.zeros(shape, dtype), "v_BTKE": jnp.zeros(shape, dtype)}


def update_cache(cache: LayerCache, k_BSKE: jax.Array, v_BSKE: jax.Array, index_BS: jax.Array | None) -> LayerCache:
    """Writes S new keys and values of every row at its places `index_BS`; places past the cache's end are dropped."""
    if index_BS is None:
        raise ValueError("a cached forward pass needs mask.query_index_BS, the place of each new token")
    rows = jnp.arange(k_BSKE.shape[0])[:, None]
    return {
        "k_BTKE": cache["k_BTKE"].at[rows, index_BS].set(k_BSKE.astype(cache["k_BTKE"].dtype), mode="drop"),
        "v_BTKE": cache["v_BTKE"].at[rows, index_BS].set(v_BSKE.astype(cache["v_BTKE"].dtype), mode="drop"),
    }


def cache_mask(index_BS: jax.Array, cache_length: int) -> AttentionMask:
    """Each new token at place `index_BS` sees every cached place up to and including its own."""
    batch = index_BS.shape[0]
    return AttentionMask(
        query_index_BS=index_BS,
        key_index_BT=jnp.broadcast_to(jnp.arange(cache_length, dtype=index_BS.dtype)[None, :], (batch, cache_length)),
    )
