"""Grouped-query attention under a typed mask: one signature, several implementations, none of which looks away.

The paper's attention is grouped-query (8 key/value heads, §3.2) over packed documents that do not see each other.
`attention` is the only door: it checks shapes, keeps padding out of every implementation, and hands over to one of
IMPLEMENTATIONS. A request that an implementation cannot honour raises; nothing falls back by itself.

Sharding: "reference" and "chunked" are plain XLA and may be called on arrays sharded over batch and heads, with
automatic or explicit mesh axes (the devices along the head axis must then divide the kv heads). The kernels cannot be
split by the compiler: call them inside `jax.shard_map`, each device with its own rows and heads. A sequence split over
devices (context parallelism) always needs shard_map: gather keys and values, in order, and give the mask the places of
the local queries.

Letters: B batch, S query positions, T key positions, H query heads, K kv heads, G = H/K, E head size.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llama3_jax.ops.attention_mask import AttentionMask, check_mask, segment_ids, visible
from llama3_jax.ops.kernels.chunked import chunked_attention
from llama3_jax.ops.kernels.flash_gpu import MOSAIC_AVAILABLE, mosaic_attention, triton_attention
from llama3_jax.ops.kernels.splash import splash_attention

__all__ = ["IMPLEMENTATIONS", "AttentionMask", "attention", "default_implementation", "reference_attention"]


def attention(
    q_BSHE: jax.Array,
    k_BTKE: jax.Array,
    v_BTKE: jax.Array,
    mask: AttentionMask,
    *,
    implementation: str,
    scale: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Softmax(scale q k) v over the keys that `mask` lets each query see: [B, S, H, E] in q's dtype.

    Query head h uses kv head h // G. Logits, softmax and sums are float32. `scale` is 1/sqrt(E) unless given. A row
    that sees no key is exactly zero and has zero gradients; padding (segment 0) may hold anything, NaN included.
    `interpret` runs Pallas kernels without their accelerator, for tests.

    Raises ValueError for shapes that do not fit, for an unknown `implementation`, and, in one sentence that names an
    implementation that can, for a mask or shape that the chosen one cannot honour.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention implementation {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    _check_shapes(q_BSHE, k_BTKE, v_BTKE)
    check_mask(mask, q_BSHE.shape[0], q_BSHE.shape[1], k_BTKE.shape[1])
    query_ids_BS, key_ids_BT = segment_ids(mask) or (None, None)
    q_BSHE = _zero_padding(q_BSHE, query_ids_BS)
    k_BTKE, v_BTKE = _zero_padding(k_BTKE, key_ids_BT), _zero_padding(v_BTKE, key_ids_BT)
    scale = 1 / math.sqrt(q_BSHE.shape[-1]) if scale is None else scale
    run = IMPLEMENTATIONS[implementation]
    out_BSHE = run(q_BSHE, k_BTKE, v_BTKE, mask, scale=scale, interpret=interpret)
    return _zero_padding(out_BSHE, query_ids_BS)


def reference_attention(
    q_BSHE: jax.Array,
    k_BTKE: jax.Array,
    v_BTKE: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """The definition, in float32 with the whole [B, K, G, S, T] score matrix: what the others are tested against."""
    del interpret
    batch, num_queries, num_heads, head_dim = q_BSHE.shape
    num_kv_heads = k_BTKE.shape[2]
    q_BSKGE = q_BSHE.astype(jnp.float32).reshape(batch, num_queries, num_kv_heads, num_heads // num_kv_heads, head_dim)
    highest = jax.lax.Precision.HIGHEST
    scores_BKGST = jnp.einsum("BSKGE,BTKE->BKGST", q_BSKGE, k_BTKE.astype(jnp.float32), precision=highest) * scale
    seen_B11ST = visible(mask, num_queries, k_BTKE.shape[1])[:, None, None]
    scores_BKGST = jnp.where(seen_B11ST, scores_BKGST, jnp.finfo(jnp.float32).min)
    weights_BKGST = jnp.where(seen_B11ST, jax.nn.softmax(scores_BKGST, axis=-1), 0.0)  # zero for a row that is blind
    out_BSKGE = jnp.einsum("BKGST,BTKE->BSKGE", weights_BKGST, v_BTKE.astype(jnp.float32), precision=highest)
    return out_BSKGE.reshape(q_BSHE.shape).astype(q_BSHE.dtype)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "reference": reference_attention,
    "chunked": chunked_attention,
    "splash": splash_attention,
    "mosaic": mosaic_attention,
    "triton": triton_attention,
}


def default_implementation(platform: str) -> str:
    """The implementation for training on `platform`, named as by `jax.default_backend()`: cpu, tpu, gpu, ...

    The kernels take lengths and masks of training; for a cache, whose queries are few, name "chunked".
    """
    gpu = "mosaic" if MOSAIC_AVAILABLE else "triton"
    return {"tpu": "splash", "gpu": gpu, "cuda": gpu}.get(platform, "chunked")


def _check_shapes(q_BSHE: jax.Array, k_BTKE: jax.Array, v_BTKE: jax.Array) -> None:
    if q_BSHE.ndim != 4 or k_BTKE.ndim != 4 or k_BTKE.shape != v_BTKE.shape:
        raise ValueError(
            f"attention takes q [B,S,H,E] and k, v [B,T,K,E], not {q_BSHE.shape}, {k_BTKE.shape} and {v_BTKE.shape}"
        )
    batch, _, num_heads, head_dim = q_BSHE.shape
    if (k_BTKE.shape[0], k_BTKE.shape[3]) != (batch, head_dim):
        raise ValueError(f"q {q_BSHE.shape} and k {k_BTKE.shape} differ in batch or head size")
    if num_heads % k_BTKE.shape[2]:
        raise ValueError(f"{num_heads} query heads are not a multiple of {k_BTKE.shape[2]} kv heads")


def _zero_padding(x_BSHE: jax.Array, segment_ids_BS: jax.Array | None) -> jax.Array:
    """Zero, with zero gradient, where the segment id is 0: kernels multiply masked values by 0, and 0 * NaN is NaN."""
    if segment_ids_BS is None:
        return x_BSHE
    return jnp.where((segment_ids_BS != 0)[:, :, None, None], x_BSHE, jnp.zeros_like(x_BSHE))
