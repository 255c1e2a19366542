"""The Llama 3 decoder: shapes of the herd and the forward pass (3.2, Table 3).

`Llama(config)` declares a model and allocates nothing, so the 405B is as cheap to describe as a toy:

    model = Llama(HERD["llama3_405b"])
    count_params(model)  # 405_853_388_800
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llama3_jax.core.params import Normal, Params, declare, split_module, stacked
from llama3_jax.core.sharding import Layout
from llama3_jax.model.cache import PagedRows, attend_paged
from llama3_jax.model.layers import (
    ComputeConfig,
    Layer,
    RMSNorm,
    RopeScaling,
    RopeTables,
    rope_frequencies,
    rope_tables,
)
from llama3_jax.model.quantized import feed_forward_of
from llama3_jax.model.remat import check_policy, rematerialised
from llama3_jax.ops.attention import AttentionMask
from llama3_jax.ops.mesh_attention import MeshMask, mesh_attention, ready_mask
from llama3_jax.parallel.embedding import embed
from llama3_jax.parallel.moves import split_sequence

SharedInputs = tuple[RopeTables, MeshMask]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The architecture of one member of the herd: everything a checkpoint must agree on."""

    vocab_size: int = 128_256
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int = 128
    mlp_dim: int
    max_length: int = 8192
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False  # the output head is the embedding table

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embeddings turn pairs")
        for field in ("vocab_size", "num_layers", "embed_dim", "num_kv_heads", "head_dim", "mlp_dim", "max_length"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every dim letter that the parameters use."""
        return {
            "V": self.vocab_size,
            "D": self.embed_dim,
            "M": self.embed_dim,
            "H": self.num_heads,
            "K": self.num_kv_heads,
            "E": self.head_dim,
            "F": self.mlp_dim,
            "N": self.num_layers,
        }


_8B = LlamaConfig(num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, mlp_dim=14_336)
_70B = LlamaConfig(num_layers=80, embed_dim=8192, num_heads=64, num_kv_heads=8, mlp_dim=28_672)
_405B = LlamaConfig(num_layers=126, embed_dim=16_384, num_heads=128, num_kv_heads=8, mlp_dim=53_248)
_LONG = {"max_length": 131_072, "rope_scaling": RopeScaling(factor=8.0)}
_SMALL = {"max_length": 131_072, "rope_scaling": RopeScaling(factor=32.0), "tied": True}

HERD: dict[str, LlamaConfig] = {
    "llama3_8b": _8B,
    "llama3_70b": _70B,
    "llama3_405b": _405B,
    "llama3_1_8b": dataclasses.replace(_8B, **_LONG),
    "llama3_1_70b": dataclasses.replace(_70B, **_LONG),
    "llama3_1_405b": dataclasses.replace(_405B, **_LONG),
    "llama3_2_1b": LlamaConfig(
        num_layers=16, embed_dim=2048, num_heads=32, num_kv_heads=8, head_dim=64, mlp_dim=8192, **_SMALL
    ),
    "llama3_2_3b": LlamaConfig(num_layers=28, embed_dim=3072, num_heads=24, num_kv_heads=8, mlp_dim=8192, **_SMALL),
    "llama3_3_70b": dataclasses.replace(_70B, **_LONG),
}


class Llama(nnx.Module):
    """Decoder-only Transformer. For training its layers are stacked, and `hidden` scans over them.

    For generation they stand apart: a scan would copy each layer's weights before it multiplies by them.
    """

    def __init__(
        self,
        config: LlamaConfig,
        compute: ComputeConfig = ComputeConfig(),
        layout: Layout = Layout(),
        layer_rows: Sequence[int] | None = None,
        layers_apart: bool = False,
        quantized: str | None = None,
    ):
        """`layer_rows`: the layer that each row of the stacked parameters holds, EMPTY_ROW for none; all, in order.

        `quantized`: the grid of ops/quant.py for the feed-forward layers of all but the first and the last layer, which
        then stand apart. Raises ValueError for what cannot be combined.
        """
        check_policy(compute.remat)
        sizes, dtype = config.sizes, compute.param_dtype
        self.config, self.compute, self.layout = config, compute, layout
        self.embedding_VD = declare("VD", sizes, Normal(config.embed_dim**-0.5), dtype)
        one_layer = functools.partial(Layer, sizes, config.norm_eps, compute, layout, config.num_layers)
        self.layers_apart, self.quantized = layers_apart, quantized
        if layers_apart:
            makers = [feed_forward_of((layer,), config.num_layers, quantized) for layer in range(config.num_layers)]
            self.layers: Any = nnx.List(map(one_layer, makers))
        elif quantized is not None:
            raise ValueError("the layers of a quantised model differ and cannot be stacked; it needs layers_apart")
        else:
            self.layers = stacked(one_layer(), range(config.num_layers) if layer_rows is None else layer_rows)
        self.norm = RMSNorm(sizes, config.norm_eps, dtype)
        if not config.tied:
            self.head_DV = declare("DV", sizes, Normal(config.embed_dim**-0.5), dtype)

    def __call__(
        self, tokens_BS: jax.Array, positions_BS: jax.Array | None = None, mask: AttentionMask | None = None
    ) -> jax.Array:
        """Logits `[B, S, V]` in float32. For training use `hidden` and the chunked loss: these logits may not fit."""
        return self.logits(self.hidden(tokens_BS, positions_BS, mask))

    def hidden(
        self, tokens_BS: jax.Array, positions_BS: jax.Array | None = None, mask: AttentionMask | None = None
    ) -> jax.Array:
        """Final hidden states `[B, R, D]`, normed, in the compute dtype; R is S split as the residual stream is.

        `positions_BS` (int32, for rotary angles) count from 0 in every row when absent; `mask` says who sees whom and
        is plainly causal when absent.
        """
        mask = AttentionMask() if mask is None else mask
        x_BRD = self.embed(tokens_BS, mask)
        shared = self.shared_inputs(tokens_BS, positions_BS, mask)
        if self.layers_apart:
            for layer in self.layers:
                x_BRD = self._run(layer, x_BRD, shared)
            return self.norm(x_BRD)
        body = rematerialised(self.run_layer, self.compute.remat)
        scan_body = lambda x_BRD, layer: (body(layer, x_BRD, shared), None)
        x_BRD, _ = jax.lax.scan(scan_body, x_BRD, split_module(self.layers)[1], unroll=self.compute.scan_unroll)
        return self.norm(x_BRD)

    def embed(self, tokens_BS: jax.Array, mask: AttentionMask) -> jax.Array:
        """The residual stream `[B, R, D]` before the first layer, in the compute dtype; padding enters as zeros."""
        x_BRD = self.embed_tokens(tokens_BS)
        if mask.query_segment_ids_BS is None:
            return x_BRD
        counts_BR = split_sequence(self.layout, mask.query_segment_ids_BS != 0, "BR")
        return jnp.where(counts_BR[:, :, None], x_BRD, jnp.zeros_like(x_BRD))

    def embed_tokens(self, tokens_BS: jax.Array) -> jax.Array:
        """The tokens' rows of the embedding table, `[B, R, D]`, in the compute dtype."""
        return embed(self.embedding_VD[...], tokens_BS, self.compute.compute_dtype, self.layout)

    def shared_inputs(self, tokens_BS: jax.Array, positions_BS: jax.Array | None, mask: AttentionMask) -> SharedInputs:
        """What all layers of a step need besides the residual stream: rotary tables, and the mask made ready."""
        block = self.compute.context_block if self.compute.context_split == "documents" else None
        return self._rope(tokens_BS, positions_BS), ready_mask(mask, self.layout, block)

    def run_layer(self, params: Params, x_BRD: jax.Array, shared: SharedInputs) -> jax.Array:
        """The residual stream `[B, R, D]` after the layer that has these parameters."""
        return self._run(nnx.merge(split_module(self.layers)[0], params), x_BRD, shared)

    def _run(self, layer: Layer, x_BRD: jax.Array, shared: SharedInputs) -> jax.Array:
        rope, mask = shared
        attend = lambda q, k, v: (mesh_attention(q, k, v, mask, self.layout, self.compute.attention), None)
        return layer(x_BRD, rope, attend)[0]

    def hidden_paged(
        self, tokens_BS: jax.Array, rows: PagedRows, cache: Sequence[jax.Array], implementation: str
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Final hidden states `[B, S, D]` of new tokens, and the cache with their keys and values written in.

        `cache` has one array of pages `[P, A, J, E]` per layer, `rows` says where each row's tokens lie in them;
        `implementation` is one of ops/paged_attention.py. For a model whose layers stand apart.
        """
        x_BSD, cache = self.layers_paged(self.embed_tokens(tokens_BS), rows, cache, implementation)
        return self.norm(x_BSD), cache

    def layers_paged(
        self, x_BSD: jax.Array, rows: PagedRows, cache: Sequence[jax.Array], implementation: str
    ) -> tuple[jax.Array, list[jax.Array]]:
        """The residual stream after all layers, before the norm: the middle of `hidden_paged`."""
        rope, updated = self._rope(x_BSD, rows.positions(x_BSD.shape[1])), []
        for layer, pages_PAJE in zip(self.layers, cache, strict=True):
            attend = functools.partial(attend_paged, pages_PAJE, rows, self.layout, implementation)
            x_BSD, pages_PAJE = layer(x_BSD, rope, attend)
            updated.append(pages_PAJE)
        return x_BSD, updated

    def whole_logits(self, x_BSD: jax.Array) -> jax.Array:
        """`logits` with the whole vocabulary on every device, for drawing from; also of local parts."""
        if not self.layout.local:
            return self.layout.place(self.logits(x_BSD), "BSM")
        head_DV = self.output_head().astype(x_BSD.dtype)
        part_BSV = jnp.einsum("BSD,DV->BSV", x_BSD, head_DV, preferred_element_type=jnp.float32)
        axes = self.layout.split_axes("V")
        return jax.lax.all_gather(part_BSV, axes, axis=2, tiled=True) if axes else part_BSV

    def logits(self, x_BRD: jax.Array) -> jax.Array:
        """Float32 logits `[B, S, V]` of normed hidden states."""
        head_DV = self.layout.place(self.output_head().astype(x_BRD.dtype), "DV")
        x_BSD = self.layout.place(x_BRD, "BSD")
        return self.layout.einsum("BSD,DV->BSV", x_BSD, head_DV, preferred_element_type=jnp.float32)

    def output_head(self) -> jax.Array:
        """The output projection `[D, V]` as stored: its own array, or the embedding table transposed when tied."""
        return self.embedding_VD[...].T if self.config.tied else self.head_DV[...]

    def _rope(self, tokens_BS, positions_BS):
        if positions_BS is None:
            positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1], dtype=jnp.int32)[None, :], tokens_BS.shape)
            positions_BS = self.layout.place(positions_BS, "BS")
        frequencies = rope_frequencies(self.config.head_dim, self.config.rope_theta, self.config.rope_scaling)
        return rope_tables(positions_BS, frequencies)


def layer_products(config: LlamaConfig) -> dict[str, int]:
    """Weights of one layer's products, by the name under which a remat policy keeps the product's result.

    `residual` is the product that leads out of attention; nothing needs the result of `down` a second time.
    """
    width, query, key = config.embed_dim, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    mlp = width * config.mlp_dim
    return {
        "query": width * query,
        "key": width * key,
        "value": width * key,
        "residual": query * width,
        "gate": mlp,
        "up": mlp,
        "down": mlp,
    }


def layer_weights(config: LlamaConfig) -> int:
    """Weights of one layer's products."""
    return sum(layer_products(config).values())


def flops_per_token(config: LlamaConfig, sequence_length: int, *, causal: bool = True) -> float:
    """Training FLOPs per token, forward and backward: 6 per matmul weight plus attention scores and values.

    The embedding gather is not counted, the output head is, rematerialisation is not. With `causal` the attention term
    counts only the half of the score matrix that is computed (6·N·H·E·S), else all of it (12·N·H·E·S).
    """
    weights = config.num_layers * layer_weights(config) + config.embed_dim * config.vocab_size
    scores = (6 if causal else 12) * config.num_layers * config.num_heads * config.head_dim * sequence_length
    return 6.0 * weights + scores
