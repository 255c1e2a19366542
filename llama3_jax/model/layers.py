"""The parts of one Llama 3 layer (3.2; shapes and constants from the released `llama-models`).

A module here describes ONE layer and declares its arrays without allocating them. Norms, rotary angles and softmax run
in float32 whatever the compute dtype.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llama3_jax.core.params import Constant, Normal, declare
from llama3_jax.core.sharding import Layout
from llama3_jax.model.cache import LayerCache, update_cache
from llama3_jax.ops.attention import AttentionMask, attention
from llama3_jax.parallel.manual import manual

CACHED_ATTENTION = "chunked"  # few queries against a dense cache: the kernels for training do not apply


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Frequency scaling of Llama 3.1 and later: long wavelengths are slowed by `factor`, short ones are kept."""

    factor: float = 8.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        if not (self.factor >= 1 and 0 < self.low_frequency < self.high_frequency):
            raise ValueError(f"rope scaling needs factor >= 1 and 0 < low < high frequency, got {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a model is computed; nothing here changes what it is."""

    param_dtype: str = "float32"
    compute_dtype: str = "bfloat16"
    attention: str = "chunked"  # an implementation of ops/attention.py; runs also take auto, the platform's best
    remat: str = "full"  # a policy of model/remat.py
    loss_chunk: int = 1024  # tokens per device whose logits are alive at once
    scan_unroll: int = 1  # layers per scan iteration


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Rotary frequencies in radians per position, float32 `[E/2]` (3.2; scaling as shipped with Llama 3.1).

    On the host, in the order of roundings of the released code: past position 100,000 one unit in the last place of a
    frequency is 0.01 radians, and a compiler that rewrites 1/x^y would move it.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1.0) / np.power(theta, exponents.astype(np.float64)).astype(np.float32)
    if scaling is None:
        return frequencies
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = np.float32(scaling.original_length) / wavelengths - np.float32(scaling.low_frequency)
    smooth = np.clip(smooth / np.float32(scaling.high_frequency - scaling.low_frequency), 0, 1, dtype=np.float32)
    return (1 - smooth) * frequencies / np.float32(scaling.factor) + smooth * frequencies


def rope_tables(positions_BS: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, float32 `[B, S, 1, E/2]`."""
    angles = positions_BS[:, :, None, None].astype(jnp.float32) * frequencies[None, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x_BSHE: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the two halves of each head. Meta's interleaved weights are permuted when they are converted."""
    cos, sin = tables
    first, second = jnp.split(x_BSHE.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BSHE.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a learned scale, in float32."""

    def __init__(self, sizes: dict[str, int], eps: float, dtype: Any):
        self.eps = eps
        self.scale_M = declare("M", sizes, Constant(1.0), dtype)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        x32 = x_BSD.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * inverse * self.scale_M[...].astype(jnp.float32)[None, None, :]).astype(x_BSD.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions and a document mask."""

    def __init__(self, sizes: dict[str, int], compute: ComputeConfig, layout: Layout, num_layers: int):
        self.compute, self.layout = compute, layout
        dtype, width = compute.param_dtype, sizes["D"]
        out_std = (sizes["H"] * sizes["E"]) ** -0.5 / math.sqrt(2 * num_layers)
        self.wq_DHE = declare("DHE", sizes, Normal(width**-0.5), dtype)
        self.wk_DKE = declare("DKE", sizes, Normal(width**-0.5), dtype)
        self.wv_DKE = declare("DKE", sizes, Normal(width**-0.5), dtype)
        self.wo_HED = declare("HED", sizes, Normal(out_std), dtype)

    def __call__(
        self, x_BSD: jax.Array, rope: tuple[jax.Array, jax.Array], mask: AttentionMask, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        layout, dtype = self.layout, x_BSD.dtype
        wq, wk, wv, wo = (
            layout.place(weight[...].astype(dtype), letters)
            for weight, letters in (
                (self.wq_DHE, "DHE"),
                (self.wk_DKE, "DKE"),
                (self.wv_DKE, "DKE"),
                (self.wo_HED, "HED"),
            )
        )
        q_BSHE = checkpoint_name(apply_rope(layout.einsum("BSD,DHE->BSHE", x_BSD, wq), rope), "query")
        k_BSKE = checkpoint_name(apply_rope(layout.einsum("BSD,DKE->BSKE", x_BSD, wk), rope), "key")
        v_BSKE = checkpoint_name(layout.einsum("BSD,DKE->BSKE", x_BSD, wv), "value")
        if cache is not None:
            cache = update_cache(cache, k_BSKE, v_BSKE, mask.query_index_BS)
            k_BSKE, v_BSKE = cache["k_BTKE"], cache["v_BTKE"]
        implementation = self.compute.attention if cache is None else CACHED_ATTENTION
        out_BSHE = checkpoint_name(self._attend(q_BSHE, k_BSKE, v_BSKE, mask, implementation), "attention")
        return layout.einsum("BSHE,HED->BSD", out_BSHE, wo), cache

    def _attend(self, q_BSHE, k_BTKE, v_BTKE, mask, implementation):
        """Attention on each device's own rows and heads: kernels are not split by the compiler."""
        used = self.layout.used
        inputs = (used("BSHE"), used("BTKE"), used("BTKE"), jax.tree.map(lambda _: used("BS"), mask))
        run = functools.partial(attention, implementation=implementation)
        return manual(run, self.layout, inputs, used("BSHE"))(q_BSHE, k_BTKE, v_BTKE, mask)


class FeedForward(nnx.Module):
    """SwiGLU: `(silu(x w1) * x w3) w2`."""

    def __init__(self, sizes: dict[str, int], compute: ComputeConfig, layout: Layout, num_layers: int):
        self.layout = layout
        dtype = compute.param_dtype
        self.w1_DF = declare("DF", sizes, Normal(sizes["D"] ** -0.5), dtype)
        self.w3_DF = declare("DF", sizes, Normal(sizes["D"] ** -0.5), dtype)
        self.w2_FD = declare("FD", sizes, Normal(sizes["F"] ** -0.5 / math.sqrt(2 * num_layers)), dtype)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        layout, dtype = self.layout, x_BSD.dtype
        w1, w3, w2 = (
            layout.place(weight[...].astype(dtype), letters)
            for weight, letters in ((self.w1_DF, "DF"), (self.w3_DF, "DF"), (self.w2_FD, "FD"))
        )
        gate_BSF = checkpoint_name(layout.einsum("BSD,DF->BSF", x_BSD, w1), "gate")
        up_BSF = checkpoint_name(layout.einsum("BSD,DF->BSF", x_BSD, w3), "up")
        return layout.einsum("BSF,FD->BSD", jax.nn.silu(gate_BSF) * up_BSF, w2)


class Layer(nnx.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, sizes: dict[str, int], eps: float, compute: ComputeConfig, layout: Layout, num_layers: int):
        self.attention_norm = RMSNorm(sizes, eps, compute.param_dtype)
        self.attention = Attention(sizes, compute, layout, num_layers)
        self.mlp_norm = RMSNorm(sizes, eps, compute.param_dtype)
        self.mlp = FeedForward(sizes, compute, layout, num_layers)

    def __call__(
        self, x_BSD: jax.Array, rope: tuple[jax.Array, jax.Array], mask: AttentionMask, cache: LayerCache | None = None
    ) -> tuple[jax.Array, LayerCache | None]:
        attended_BSD, cache = self.attention(self.attention_norm(x_BSD), rope, mask, cache)
        h_BSD = checkpoint_name(x_BSD + attended_BSD, "residual")
        return h_BSD + self.mlp(self.mlp_norm(h_BSD)), cache
