"""Feed-forward layers in 8 bits for inference (Llama 3, 6.2): about half of a model's products.

All layers but the first and the last have them; attention, norms, embedding and output head stay as they are. Weights
are quantised once, activations as they come, token by token (ops/quant.py).

Split over tensor-parallel ranks, a rank quantises what it multiplies, as in the released code: the input of w1 and w3
is whole on every rank, so that its scales are those of one device, but of the input of w2 a rank has only its part of
F, and its scales are those of that part. Outputs therefore depend, within the error of quantising, on the number of
ranks. The scales of weights do not: a row of w2 has one, whatever the split (in the released code each rank's part has
its own).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from llama3_jax.core.params import Constant, Normal, Params, declare
from llama3_jax.core.sharding import Layout
from llama3_jax.model.layers import ComputeConfig, FeedForward
from llama3_jax.ops.elementwise import swiglu
from llama3_jax.ops.quant import ACTIVATION_BOUND, Rows, check_grid, quantize_rows, rows_product
from llama3_jax.parallel.manual import manual
from llama3_jax.parallel.moves import add_parts, gather_parts, use_weight

# unquantised weight, [inputs, outputs] -> its rows and their scales: products take both operands with inputs last
QUANTIZED = {
    "w1_DF": ("w1_FD", "w1_scale_F"),
    "w3_DF": ("w3_FD", "w3_scale_F"),
    "w2_FD": ("w2_DF", "w2_scale_D"),
}


def is_quantized(layer: int, num_layers: int) -> bool:
    """Whether this layer of a quantised model has an 8-bit feed-forward: all but the first and the last."""
    return 0 < layer < num_layers - 1


class QuantizedFeedForward(nnx.Module):
    """`(silu(x w1) * x w3) w2` of 8-bit weights and activations; for inference only."""

    def __init__(self, sizes: dict[str, int], compute: ComputeConfig, layout: Layout, num_layers: int, *, kind: str):
        """`kind` is a grid of ops/quant.py. Initial values are those of rows whose entries are normal draws."""
        self.kind, self.layout, self.activation_bound = kind, layout, ACTIVATION_BOUND
        grid = check_grid(kind)
        in_std, out_std = sizes["D"] ** -0.5, sizes["F"] ** -0.5 / (2 * num_layers) ** 0.5
        draws = Normal(grid.largest / 3)
        scales = lambda letter, std: declare(letter, sizes, Constant(3 * std / grid.largest))
        self.w1_FD, self.w1_scale_F = declare("FD", sizes, draws, grid.dtype), scales("F", in_std)
        self.w3_FD, self.w3_scale_F = declare("FD", sizes, draws, grid.dtype), scales("F", in_std)
        self.w2_DF, self.w2_scale_D = declare("DF", sizes, draws, grid.dtype), scales("D", out_std)

    def __call__(self, x_BRD: jax.Array) -> jax.Array:
        params = (self.w1_FD, self.w1_scale_F, self.w3_FD, self.w3_scale_F, self.w2_DF, self.w2_scale_D)
        weights = [use_weight(self.layout, param.get_value(), param.letters) for param in params]
        specs = (self.layout.used("BRD"), *(self.layout.used(param.letters) for param in params))
        return manual(self._local, self.layout, specs, self.layout.used("BRD"))(x_BRD, *weights)

    def _local(self, x_BRD, w1_FD, w1_scale_F, w3_FD, w3_scale_F, w2_DF, w2_scale_D):
        """On one device's parts. A token's row is whole before it is gathered, so it travels in 8 bits."""
        layout, dtype = self.layout, x_BRD.dtype
        w1, w3, w2 = Rows(w1_FD, w1_scale_F), Rows(w3_FD, w3_scale_F), Rows(w2_DF, w2_scale_D)
        quantize = functools.partial(quantize_rows, grid=self.kind, bound=self.activation_bound)
        x_BRD, scales_BR = quantize(x_BRD)
        x = Rows(gather_parts(layout, x_BRD, "BRD"), gather_parts(layout, scales_BR, "BR"))
        gate_BSF, up_BSF = rows_product(x, w1, dtype), rows_product(x, w3, dtype)
        out_BSD = rows_product(quantize(swiglu(gate_BSF, up_BSF)), w2, dtype)
        return add_parts(layout, out_BSD, layout.split_axes("F"), "BRD")


class MixedFeedForward(FeedForward, QuantizedFeedForward):
    """Both kinds, for a stack of layers of which some have one and some the other.

    What a layer does not have is zeros there and adds nothing.
    """

    def __init__(self, sizes: dict[str, int], compute: ComputeConfig, layout: Layout, num_layers: int, *, kind: str):
        FeedForward.__init__(self, sizes, compute, layout, num_layers)
        QuantizedFeedForward.__init__(self, sizes, compute, layout, num_layers, kind=kind)

    def __call__(self, x_BRD: jax.Array) -> jax.Array:
        return FeedForward.__call__(self, x_BRD) + QuantizedFeedForward.__call__(self, x_BRD)


def feed_forward_of(layers: Sequence[int], num_layers: int, kind: str | None) -> Callable[..., nnx.Module]:
    """What makes the feed-forward that these layers of a model have, or that a stack of them needs.

    Raises ValueError for a model of which no layer would be quantised.
    """
    if kind is None:
        return FeedForward
    check_depth(num_layers)
    in_8_bits = [is_quantized(layer, num_layers) for layer in layers]
    if not any(in_8_bits):
        return FeedForward
    return functools.partial(QuantizedFeedForward if all(in_8_bits) else MixedFeedForward, kind=kind)


def absent_from(layers: Sequence[int], num_layers: int) -> dict[str, list[int]]:
    """By name of a parameter of MixedFeedForward, those of these layers that do not have it."""
    in_8_bits = [layer for layer in layers if is_quantized(layer, num_layers)]
    plain = [layer for layer in layers if layer not in in_8_bits]
    return dict.fromkeys(QUANTIZED, in_8_bits) | {name: plain for pair in QUANTIZED.values() for name in pair}


def quantize_params(params: Params, kind: str) -> Params:
    """The parameters of a `Llama(..., layers_apart=True, quantized=kind)` from those of an unquantised one.

    One layer at a time, and the arrays that are replaced are deleted: at no time is more than one layer there twice.
    What is not replaced is shared. To be called where a mesh is set, if there is more than one device. Raises
    ValueError for an unknown kind, stacked layers, and a model that has no layer between its first and its last.
    """
    check_grid(kind)
    layers: dict[Any, Params] = params["layers"]
    if not all(isinstance(number, int) for number in layers):
        raise ValueError("the layers are stacked; parameters are quantised with layers apart")
    check_depth(len(layers))
    quantized = {}
    for number in sorted(layers):
        layer = layers[number]
        if is_quantized(number, len(layers)):
            layer = {**layer, "mlp": _quantized_mlp(layer["mlp"], kind)}
        quantized[number] = layer
    return {**params, "layers": quantized}


def check_depth(num_layers: int) -> None:
    """Raises ValueError for a model of which no layer would be quantised."""
    if num_layers < 3:
        raise ValueError(f"num_layers is {num_layers}: the first and the last layer stay, so none is left to quantise")


def _quantized_mlp(mlp: Params, kind: str) -> Params:
    quantized = jax.block_until_ready(_quantize(mlp, kind))
    for array in mlp.values():
        if isinstance(array, jax.Array):
            array.delete()
    return quantized


@functools.partial(jax.jit, static_argnums=1)
def _quantize(mlp: Params, kind: str) -> Params:
    quantized = {}
    for name, array in mlp.items():
        values, scales = QUANTIZED[name]
        quantized[values], quantized[scales] = quantize_rows(array.T, kind)
    return quantized
