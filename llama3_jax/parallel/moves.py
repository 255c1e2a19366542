"""How arrays move between splits over the mesh, in two notations.

In a sharded program a move is declared: the result's spec is given and the compiler picks the collective. In code that
runs on every device's own parts (a `local` layout, as inside a pipeline) the same moves are written out. Layers and
losses call these functions and are one text for both.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from llama3_jax.core.sharding import Layout, is_matrix, whole


def use_weight(layout: Layout, weight: jax.Array, letters: str) -> jax.Array:
    """A weight at rest as products take it: whole over fsdp. Local parts come so already."""
    return weight if layout.local else layout.place(weight, letters)


def gather_sequence(layout: Layout, x: jax.Array, letters: str) -> jax.Array:
    """`x`, whose R dim is split as the residual stream is, with that dim split as sequences are (S)."""
    if not layout.local:
        return layout.place(x, whole(letters))
    return gather_parts(layout, x, letters)


def gather_parts(layout: Layout, x: jax.Array, letters: str) -> jax.Array:
    """Local parts whose R dim is split as the residual stream is, with that dim split as sequences are (S)."""
    axes = layout.sequence_parallel_axes
    return lax.all_gather(x, axes, axis=letters.index("R"), tiled=True) if axes and "R" in letters else x


def split_sequence(layout: Layout, x: jax.Array, letters: str) -> jax.Array:
    """`x`, whose sequence is split as S, with it split as the residual stream: `letters` are the result's."""
    if not layout.local:
        return layout.place(x, letters)
    axes, dim = layout.sequence_parallel_axes, letters.index("R")
    if not axes:
        return x
    length = x.shape[dim] // layout.num_devices(axes)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axes) * length, length, dim)


def product(layout: Layout, terms: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """An einsum of an activation and a weight; a result written with R is split as the residual stream is."""
    if not layout.local:
        return layout.einsum(terms, left, right)
    return close(layout, open_product(layout, terms, left, right), terms)


def open_product(layout: Layout, terms: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """`product` whose sum over devices is left open where contracted dims are split, so that sums can be added first.

    `close`, with the same letters, completes it.
    """
    operands, result = whole(terms).split("->")
    if layout.single or layout.local:
        return jnp.einsum(f"{operands}->{result}", left, right)
    spec = PartitionSpec(*layout.used(result), unreduced=frozenset(_contracted_axes(layout, terms)))
    return jnp.einsum(f"{operands}->{result}", left, right, out_sharding=spec)


def close(layout: Layout, x: jax.Array, terms: str) -> jax.Array:
    """The sum over devices that `open_product(layout, terms, ...)` left open, split as the result's letters say."""
    letters = terms.split("->")[1]
    if not layout.local:
        return layout.place(x, letters)
    return add_parts(layout, x, _contracted_axes(layout, terms), letters)


def add_parts(layout: Layout, x: jax.Array, axes: tuple[str, ...], letters: str) -> jax.Array:
    """The sum of local parts over mesh `axes`, scattered along R over those of them that split the residual stream."""
    scattered = tuple(axis for axis in layout.sequence_parallel_axes if axis in axes and "R" in letters)
    if scattered:
        x = lax.psum_scatter(x, scattered, scatter_dimension=letters.index("R"), tiled=True)
    rest = tuple(axis for axis in axes if axis not in scattered)
    return lax.psum(x, rest) if rest else x


def weight_gradient(layout: Layout, terms: str, x: jax.Array, dy: jax.Array) -> jax.Array:
    """Float32 gradient of a weight, reduced straight into its STORED spec; of local parts, the sum of this device's."""
    options: dict[str, Any] = {}
    if not (layout.single or layout.local):
        options["out_sharding"] = layout.stored(terms.split("->")[1])
    return jnp.einsum(whole(terms), x, dy, preferred_element_type=jnp.float32, **options)


def gather_stored(layout: Layout, part: jax.Array, letters: str) -> jax.Array:
    """The local part of a parameter at rest, gathered over what splits it only there (fsdp)."""
    for dim, letter in enumerate(letters):
        if axes := _axes_at_rest(layout, letter):
            part = lax.all_gather(part, axes, axis=dim, tiled=True)
    return part


def reduce_gradient(layout: Layout, gradient: jax.Array, letters: str) -> jax.Array:
    """The sum over all tokens of a gradient of this device's, split as the parameter with these letters is stored.

    A local layout leaves it open: its caller adds up first.
    """
    if layout.local:
        return gradient
    token_axes = layout.split_axes("BS" if is_matrix(letters) else "BR")  # norms see the residual stream as it is split
    for dim, letter in enumerate(letters):
        if axes := _axes_at_rest(layout, letter):
            gradient = lax.psum_scatter(gradient, axes, scatter_dimension=dim, tiled=True)
            token_axes = tuple(axis for axis in token_axes if axis not in axes)
    return lax.psum(gradient, token_axes) if token_axes else gradient


def _axes_at_rest(layout: Layout, letter: str) -> tuple[str, ...]:
    """Mesh axes that split a dim at rest and not in use (fsdp). Layers stay on their stage."""
    in_use = ("stage", *layout.split_axes(letter))
    return tuple(axis for axis in layout.split_axes(letter, stored=True) if axis not in in_use)


def _contracted_axes(layout: Layout, terms: str) -> tuple[str, ...]:
    """Mesh axes that split the dims an einsum of `terms` sums over."""
    operands, result = whole(terms).split("->")
    return layout.split_axes("".join(letter for letter in operands.split(",")[1] if letter not in result))
