"""Matrix products of activations and weights with their communication spelled out (Llama 3, 3.3.2).

What one device computes as an einsum is, on a mesh, a sequence of steps that this module alone decides:

- fully sharded weights are gathered in the compute dtype just before use (FSDP), or taken from copies gathered once
  before the first micro-batch and kept (`Gathered`), which saves the gathers of the backward pass;
- the input of a column-parallel product is gathered over the tensor axis, the result of a row-parallel one is scattered
  over it, and between the two the residual stream is split along the sequence (sequence parallelism, Korthikanti et al.
  2022); several products of one input share that gather, and one scatter of the sum of their input gradients;
- a weight's gradient is a float32 product, reduced in float32 straight into the shape it is stored in.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llama3_jax.core.sharding import Layout, is_matrix
from llama3_jax.parallel.moves import close, gather_sequence, open_product, product, use_weight, weight_gradient


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gathered:
    """A weight at rest, which receives the gradient, and the copy that takes part in products."""

    stored: jax.Array  # STORED spec, parameter dtype
    used: jax.Array  # USED spec, compute dtype


Weight = jax.Array | Gathered


def project(layout: Layout, terms: Sequence[str], x: jax.Array, weights: Sequence[Weight]) -> tuple[jax.Array, ...]:
    """`einsum(term, x, weight)` for each term, e.g. `("BRD,DHE->BSHE", "BRD,DKE->BSKE")`: the inputs' letters agree.

    R in place of S says that an operand or a result is split along the sequence over the tensor axis as well. Results
    have x's dtype; gradients have the dtype and the STORED spec of their weight and are summed in float32.
    """
    inputs = {term.split(",")[0] for term in terms}
    if len(inputs) != 1 or len(terms) != len(weights):
        raise ValueError(f"project takes one input and a weight per term, got {terms} and {len(weights)} weights")
    return _project(layout, tuple(terms), x, tuple(weights))


def _use(layout: Layout, weight: Weight, letters: str, dtype: Any) -> jax.Array:
    """The weight as it takes part in a product: USED spec, `dtype`. Not differentiable for `Gathered`."""
    return weight.used if isinstance(weight, Gathered) else use_weight(layout, weight.astype(dtype), letters)


def gather_weights(params: Any, letters: Any, layout: Layout, dtype: Any) -> Any:
    """Copies of all stacked matrices as products use them, None in the places of other arrays (norms, embedding, head).

    `params` and `letters` are trees of one form. Made once a step, they are what "not resharded after forward" keeps.
    """

    def copy(array, names):
        return _use(layout, array, names, dtype) if names.startswith("N") and is_matrix(names) else None

    return jax.tree.map(copy, params, letters)


def with_gathered(params: Any, copies: Any) -> Any:
    """`params` whose products take the `copies` where there are any; gradients go to the arrays at rest."""
    pair = lambda copy, array: array if copy is None else Gathered(array, jax.lax.stop_gradient(copy))
    return jax.tree.map(pair, copies, params, is_leaf=lambda leaf: leaf is None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _project(layout, terms, x, weights):
    outputs, _ = _forward(layout, terms, x, weights)
    return outputs


def _forward(layout, terms, x, weights):
    full = gather_sequence(layout, x, _split(terms[0])[0])
    outputs = []
    for term, weight in zip(terms, weights, strict=True):
        _, letters, _ = _split(term)
        outputs.append(product(layout, term, full, _use(layout, weight, letters, x.dtype)))
    return tuple(outputs), (x, weights)


def _backward(layout, terms, residuals, cotangents):
    x, weights = residuals
    inputs = _split(terms[0])[0]
    full, parts, dweights = gather_sequence(layout, x, inputs), [], []
    for term, weight, dy in zip(terms, weights, cotangents, strict=True):
        _, letters, result = _split(term)
        dy, used = gather_sequence(layout, dy, result), _use(layout, weight, letters, x.dtype)
        parts.append(open_product(layout, f"{result},{letters}->{inputs}", dy, used))
        dweights.append(_weight_gradient(layout, f"{inputs},{result}->{letters}", full, dy, weight))
    _, letters, result = _split(terms[0])
    return close(layout, functools.reduce(jnp.add, parts), f"{result},{letters}->{inputs}"), tuple(dweights)


_project.defvjp(_forward, _backward)


def _weight_gradient(layout: Layout, terms: str, x: jax.Array, dy: jax.Array, weight: Weight):
    if isinstance(weight, Gathered):
        gradient = weight_gradient(layout, terms, x, dy).astype(weight.stored.dtype)
        return Gathered(gradient, jnp.zeros_like(weight.used))
    return weight_gradient(layout, terms, x, dy).astype(weight.dtype)


def _split(term: str) -> tuple[str, str, str]:
    """Letters of the input, the weight and the result."""
    operands, result = term.split("->")
    inputs, letters = operands.split(",")
    return inputs, letters, result
