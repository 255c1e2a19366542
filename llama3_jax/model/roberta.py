"""The RoBERTa encoder and its head for classification (Liu et al. 2019; DistilRoBERTa of Sanh et al. 2019).

The paper's model-based quality filters are DistilRoBERTa, trained on what a chat model says of pages (3.1). Against the
decoder: learned positions, biases everywhere, LayerNorm after each sum instead of before each part, GELU, and every
token sees every other. Rows begin at place 0 and are padded on the right, so their positions need no table lookup: they
are the rows of the table after the padding id's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from llama3_jax.core.params import Constant, Normal, Params, declare, split_module, stacked
from llama3_jax.core.sharding import Layout
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.remat import check_policy, rematerialised
from llama3_jax.ops.attention import AttentionMask
from llama3_jax.ops.elementwise import add_bias, gelu, layer_norm
from llama3_jax.ops.mesh_attention import MeshMask, mesh_attention, ready_mask
from llama3_jax.parallel.embedding import embed
from llama3_jax.parallel.moves import split_sequence
from llama3_jax.parallel.project import project

INIT_STD = 0.02  # of every matrix, as BERT is initialised


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig:
    """The architecture of an encoder with its head, everything that weights must agree on; by default DistilRoBERTa."""

    vocab_size: int = 50_265
    num_layers: int = 6
    embed_dim: int = 768
    num_heads: int = 12
    mlp_dim: int = 3072
    num_positions: int = 514  # rows of the table; the first pad_id + 1 belong to no token
    pad_id: int = 1
    norm_eps: float = 1e-5
    num_labels: int = 1  # 1: a regression; more: classes; 0: the encoder alone

    def __post_init__(self):
        for field in ("vocab_size", "num_layers", "embed_dim", "num_heads", "mlp_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.pad_id < 0 or self.max_length < 1:
            raise ValueError(f"num_positions {self.num_positions} leaves none after pad_id {self.pad_id}")
        if self.num_labels < 0:
            raise ValueError(f"num_labels must not be negative, got {self.num_labels}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def max_length(self) -> int:
        """Most tokens of a row."""
        return self.num_positions - self.pad_id - 1

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every dim letter that the parameters use."""
        return {
            "V": self.vocab_size,
            "D": self.embed_dim,
            "M": self.embed_dim,
            "H": self.num_heads,
            "E": self.head_dim,
            "F": self.mlp_dim,
            "Q": self.num_positions,
            "U": self.embed_dim,
            "L": self.num_labels,
            "N": self.num_layers,
        }


def encoder_layout(mesh: Mesh) -> Layout:
    """How an encoder lies on `mesh`: sequences are short, and RoBERTa's 50,265 tokens divide by no power of two."""
    return Layout.of(mesh, sequence_parallel=False, vocab_split=False)


class LayerNorm(nnx.Module):
    """Normalises to mean 0 and variance 1, then scales and shifts, in float32."""

    def __init__(self, config: RobertaConfig, compute: ComputeConfig):
        self.eps = config.norm_eps
        self.scale_M = declare("M", config.sizes, Constant(1.0), compute.param_dtype)
        self.bias_M = declare("M", config.sizes, Constant(0.0), compute.param_dtype)

    def __call__(self, x_BRD: jax.Array) -> jax.Array:
        return layer_norm(x_BRD, self.scale_M[...], self.bias_M[...], self.eps)


class EncoderAttention(nnx.Module):
    """Attention among all tokens of a row, with biases."""

    def __init__(self, config: RobertaConfig, compute: ComputeConfig, layout: Layout):
        self.layout, self.implementation = layout, compute.attention
        sizes, dtype = config.sizes, compute.param_dtype
        self.wq_DHE = declare("DHE", sizes, Normal(INIT_STD), dtype)
        self.wk_DHE = declare("DHE", sizes, Normal(INIT_STD), dtype)
        self.wv_DHE = declare("DHE", sizes, Normal(INIT_STD), dtype)
        self.wo_HED = declare("HED", sizes, Normal(INIT_STD), dtype)
        self.bias_q_HE = declare("HE", sizes, Constant(0.0), dtype)
        self.bias_k_HE = declare("HE", sizes, Constant(0.0), dtype)
        self.bias_v_HE = declare("HE", sizes, Constant(0.0), dtype)
        self.bias_o_M = declare("M", sizes, Constant(0.0), dtype)

    def __call__(self, x_BRD: jax.Array, mask: MeshMask) -> jax.Array:
        weights = (self.wq_DHE.get_value(), self.wk_DHE.get_value(), self.wv_DHE.get_value())
        biases = (self.bias_q_HE[...], self.bias_k_HE[...], self.bias_v_HE[...])
        products = project(self.layout, ("BRD,DHE->BSHE",) * 3, x_BRD, weights)
        q_BSHE, k_BSHE, v_BSHE = (add_bias(x, bias) for x, bias in zip(products, biases, strict=True))
        out_BSHE = mesh_attention(q_BSHE, k_BSHE, v_BSHE, mask, self.layout, self.implementation)
        (out_BRD,) = project(self.layout, ("BSHE,HED->BRD",), out_BSHE, (self.wo_HED.get_value(),))
        return add_bias(out_BRD, self.bias_o_M[...])


class EncoderFeedForward(nnx.Module):
    """`gelu(x w1 + b1) w2 + b2`."""

    def __init__(self, config: RobertaConfig, compute: ComputeConfig, layout: Layout):
        self.layout, sizes, dtype = layout, config.sizes, compute.param_dtype
        self.w1_DF = declare("DF", sizes, Normal(INIT_STD), dtype)
        self.w2_FD = declare("FD", sizes, Normal(INIT_STD), dtype)
        self.bias_1_F = declare("F", sizes, Constant(0.0), dtype)
        self.bias_2_M = declare("M", sizes, Constant(0.0), dtype)

    def __call__(self, x_BRD: jax.Array) -> jax.Array:
        (up_BSF,) = project(self.layout, ("BRD,DF->BSF",), x_BRD, (self.w1_DF.get_value(),))
        up_BSF = gelu(add_bias(up_BSF, self.bias_1_F[...]))
        (out_BRD,) = project(self.layout, ("BSF,FD->BRD",), up_BSF, (self.w2_FD.get_value(),))
        return add_bias(out_BRD, self.bias_2_M[...])


class EncoderLayer(nnx.Module):
    """Attention and feed-forward, each added to the residual stream, which is then normalised."""

    def __init__(self, config: RobertaConfig, compute: ComputeConfig, layout: Layout):
        self.attention = EncoderAttention(config, compute, layout)
        self.attention_norm = LayerNorm(config, compute)
        self.mlp = EncoderFeedForward(config, compute, layout)
        self.mlp_norm = LayerNorm(config, compute)

    def __call__(self, x_BRD: jax.Array, mask: MeshMask) -> jax.Array:
        h_BRD = self.attention_norm(x_BRD + self.attention(x_BRD, mask))
        return self.mlp_norm(h_BRD + self.mlp(h_BRD))


class Head(nnx.Module):
    """What the first token's state says of the row: a dense layer, tanh, and the outputs; in float32."""

    def __init__(self, config: RobertaConfig, compute: ComputeConfig, layout: Layout):
        self.layout, sizes, dtype = layout, config.sizes, compute.param_dtype
        self.dense_DU = declare("DU", sizes, Normal(INIT_STD), dtype)
        self.bias_U = declare("U", sizes, Constant(0.0), dtype)
        self.out_UL = declare("UL", sizes, Normal(INIT_STD), dtype)
        self.bias_L = declare("L", sizes, Constant(0.0), dtype)

    def __call__(self, x_BD: jax.Array) -> jax.Array:
        dense_DU = self.layout.place(self.dense_DU[...].astype(jnp.float32), "DU")
        dense_BU = self.layout.einsum("BD,DU->BU", x_BD.astype(jnp.float32), dense_DU)
        hidden_BU = jnp.tanh(dense_BU + self.bias_U[...].astype(jnp.float32)[None, :])
        out_BL = self.layout.einsum("BU,UL->BL", hidden_BU, self.out_UL[...].astype(jnp.float32))
        return out_BL + self.bias_L[...].astype(jnp.float32)[None, :]


class Roberta(nnx.Module):
    """Encoder and head; layers are stacked, and `hidden` scans over them."""

    def __init__(self, config: RobertaConfig, compute: ComputeConfig = ComputeConfig(), layout: Layout = Layout()):
        """Raises ValueError for a mesh that splits layers or sequences, which are few and short here."""
        check_policy(compute.remat)
        for axis in ("stage", "context"):
            if layout.size(axis) > 1:
                raise ValueError(f"an encoder is split over data, fsdp and tensor, not over {axis} {layout.size(axis)}")
        layout.check_divides(config.sizes, ("VD", "DHE", "DF"))
        sizes, dtype = config.sizes, compute.param_dtype
        self.config, self.compute, self.layout = config, compute, layout
        self.embedding_VD = declare("VD", sizes, Normal(INIT_STD), dtype)
        self.positions_QD = declare("QD", sizes, Normal(INIT_STD), dtype)
        self.type_M = declare("M", sizes, Normal(INIT_STD), dtype)  # of token type 0, the only one
        self.norm = LayerNorm(config, compute)
        self.layers = stacked(EncoderLayer(config, compute, layout), range(config.num_layers))
        if config.num_labels:
            self.head = Head(config, compute, layout)

    def __call__(self, tokens_BS: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """Float32 outputs `[B, L]` of rows of int32 tokens, of which the first `lengths_B` count."""
        return self.head(self.first(tokens_BS, lengths_B))

    def first(self, tokens_BS: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """The last layer's state of every row's first token, `[B, D]`."""
        return self.layout.place(self.hidden(tokens_BS, lengths_B), "BSD")[:, 0]

    def hidden(self, tokens_BS: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """The last layer's states `[B, R, D]` in the compute dtype; those past a row's length mean nothing.

        Raises ValueError for rows longer than the table of positions.
        """
        if tokens_BS.shape[1] > self.config.max_length:
            raise ValueError(f"rows of {tokens_BS.shape[1]} tokens; the encoder takes {self.config.max_length}")
        places_S = jnp.arange(tokens_BS.shape[1], dtype=jnp.int32)
        counts_BS = self.layout.place((places_S[None, :] < lengths_B[:, None]).astype(jnp.int32), "BS")
        mask = ready_mask(AttentionMask(query_segment_ids_BS=counts_BS, causal=False), self.layout)
        body = rematerialised(self._run_layer, self.compute.remat)
        scan_body = lambda x_BRD, layer: (body(layer, x_BRD, mask), None)
        x_BRD, layers = self._embed(tokens_BS, counts_BS), split_module(self.layers)[1]
        return jax.lax.scan(scan_body, x_BRD, layers, unroll=self.compute.scan_unroll)[0]

    def _run_layer(self, params: Params, x_BRD: jax.Array, mask: MeshMask) -> jax.Array:
        return nnx.merge(split_module(self.layers)[0], params)(x_BRD, mask)

    def _embed(self, tokens_BS: jax.Array, counts_BS: jax.Array) -> jax.Array:
        """Tokens, positions and type added up and normalised in float32, `[B, R, D]`; padding enters as zeros."""
        first, length = self.config.pad_id + 1, tokens_BS.shape[1]
        positions_RD = self.layout.place(self.positions_QD[...].astype(jnp.float32), "QM")[first : first + length]
        positions_RD = self.layout.place(positions_RD, "RM")
        x_BRD = embed(self.embedding_VD[...], tokens_BS, "float32", self.layout)
        x_BRD = add_bias(x_BRD + positions_RD[None], self.type_M[...])
        counts_BR = split_sequence(self.layout, counts_BS, "BR")
        x_BRD = jnp.where((counts_BR != 0)[:, :, None], self.norm(x_BRD), 0.0)
        return x_BRD.astype(self.compute.compute_dtype)
