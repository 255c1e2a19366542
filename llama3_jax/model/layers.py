"""The parts of one Llama 3 layer (3.2; shapes and constants from the released `llama-models`).

A module here describes ONE layer and declares its arrays without allocating them. Norms, rotary angles and softmax run
in float32 whatever the compute dtype.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llama3_jax.core.params import Constant, Normal, declare
from llama3_jax.core.sharding import Layout
from llama3_jax.ops.elementwise import rms_norm, swiglu
from llama3_jax.parallel.project import project

CONTEXT_SPLITS = ("chunks", "documents")  # the paper's 2·CP chunks, or blocks dealt out by document cost

RopeTables = tuple[jax.Array, jax.Array]  # cosine and sine, float32 [B, S, 1, E/2]
# (query, key, value of the new tokens) -> (attended values, what the caller wants back: nothing, or a KV cache)
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


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
    reshard_after_forward: bool = True  # False: gather weights once a step and keep them, as the paper does (ZeRO-2)
    sequence_parallel: bool = True  # the residual stream split along the sequence over the tensor axis
    context_split: str = "chunks"  # how sequences are split over the context axis: a key of CONTEXT_SPLITS
    context_block: int = 512  # tokens per block of a split by document cost

    def __post_init__(self):
        if self.context_split not in CONTEXT_SPLITS:
            raise ValueError(f"compute.context_split {self.context_split!r} is not one of {', '.join(CONTEXT_SPLITS)}")


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


def rope_tables(positions_BS: jax.Array, frequencies: np.ndarray) -> RopeTables:
    """Cosine and sine of every position's angles, float32 `[B, S, 1, E/2]`."""
    angles = positions_BS[:, :, None, None].astype(jnp.float32) * frequencies[None, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x_BSHE: jax.Array, tables: RopeTables) -> jax.Array:
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

    def __call__(self, x_BRD: jax.Array) -> jax.Array:
        return rms_norm(x_BRD, self.scale_M[...], self.eps)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions. Who sees whom, and from where, is for `attend` to say."""

    def __init__(self, sizes: dict[str, int], compute: ComputeConfig, layout: Layout, num_layers: int):
        self.layout = layout
        dtype, width = compute.param_dtype, sizes["D"]
        out_std = (sizes["H"] * sizes["E"]) ** -0.5 / math.sqrt(2 * num_layers)
        self.wq_DHE = declare("DHE", sizes, Normal(width**-0.5), dtype)
        self.wk_DKE = declare("DKE", sizes, Normal(width**-0.5), dtype)
        self.wv_DKE = declare("DKE", sizes, Normal(width**-0.5), dtype)
        self.wo_HED = declare("HED", sizes, Normal(out_std), dtype)

    def __call__(self, x_BRD: jax.Array, rope: RopeTables, attend: Attend) -> tuple[jax.Array, Any]:
        q_BSHE, k_BSKE, v_BSKE = project(
            self.layout,
            ("BRD,DHE->BSHE", "BRD,DKE->BSKE", "BRD,DKE->BSKE"),
            x_BRD,
            (self.wq_DHE.get_value(), self.wk_DKE.get_value(), self.wv_DKE.get_value()),
        )
        q_BSHE = checkpoint_name(apply_rope(q_BSHE, rope), "query")
        k_BSKE = checkpoint_name(apply_rope(k_BSKE, rope), "key")
        v_BSKE = checkpoint_name(v_BSKE, "value")
        out_BSHE, cache = attend(q_BSHE, k_BSKE, v_BSKE)
        out_BSHE = checkpoint_name(out_BSHE, "attention")
        (out_BRD,) = project(self.layout, ("BSHE,HED->BRD",), out_BSHE, (self.wo_HED.get_value(),))
        return out_BRD, cache


class FeedForward(nnx.Module):
    """SwiGLU: `(silu(x w1) * x w3) w2`."""

    def __init__(self, sizes: dict[str, int], compute: ComputeConfig, layout: Layout, num_layers: int):
        self.layout = layout
        dtype = compute.param_dtype
        self.w1_DF = declare("DF", sizes, Normal(sizes["D"] ** -0.5), dtype)
        self.w3_DF = declare("DF", sizes, Normal(sizes["D"] ** -0.5), dtype)
        self.w2_FD = declare("FD", sizes, Normal(sizes["F"] ** -0.5 / math.sqrt(2 * num_layers)), dtype)

    def __call__(self, x_BRD: jax.Array) -> jax.Array:
        gate_BSF, up_BSF = project(
            self.layout, ("BRD,DF->BSF", "BRD,DF->BSF"), x_BRD, (self.w1_DF.get_value(), self.w3_DF.get_value())
        )
        gate_BSF, up_BSF = checkpoint_name(gate_BSF, "gate"), checkpoint_name(up_BSF, "up")
        return project(self.layout, ("BSF,FD->BRD",), swiglu(gate_BSF, up_BSF), (self.w2_FD.get_value(),))[0]


class Layer(nnx.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(
        self,
        sizes: dict[str, int],
        eps: float,
        compute: ComputeConfig,
        layout: Layout,
        num_layers: int,
        feed_forward: Callable[..., nnx.Module] = FeedForward,
    ):
        self.attention_norm = RMSNorm(sizes, eps, compute.param_dtype)
        self.attention = Attention(sizes, compute, layout, num_layers)
        self.mlp_norm = RMSNorm(sizes, eps, compute.param_dtype)
        self.mlp: Any = feed_forward(sizes, compute, layout, num_layers)

    def __call__(self, x_BRD: jax.Array, rope: RopeTables, attend: Attend) -> tuple[jax.Array, Any]:
        attended_BRD, cache = self.attention(self.attention_norm(x_BRD), rope, attend)
        h_BRD = checkpoint_name(x_BRD + attended_BRD, "residual")
        return h_BRD + self.mlp(self.mlp_norm(h_BRD)), cache
