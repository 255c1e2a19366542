"""One declaration per array: shape, dtype, initialiser and dim letters (house idea 1).

A module declares its arrays with `declare`; nothing is allocated. Abstract state, shardings, counts, initial values and
checkpoint keys are all read off the declaration, so they cannot disagree. `stacked` turns the declaration of one layer
into that of N layers.

A module is split once into its code (`graphdef`) and a plain nested dict of arrays (`Params`); from there on everything
is pure pytrees, joined again by `nnx.merge(graphdef, params)` inside the traced function.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jax.sharding import Mesh, NamedSharding

from llama3_jax.core.sharding import Layout

Params = dict[Any, Any]  # nested: attribute name, or number in a list -> ... -> jax.Array
EMPTY_ROW = -1  # the number of a stack's row that holds no layer


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal draws cut at three standard deviations, so that no single draw can start a spike."""

    std: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return (self.std * jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Constant:
    """Every entry the same (norm scales, gates)."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del key
        return jnp.full(shape, self.value, dtype)


def declare(letters: str, sizes: Mapping[str, int], init: Any, dtype: Any = jnp.float32) -> nnx.Param:
    """A parameter with one dim per letter, sized by `sizes`; it holds its declaration, not an array."""
    shape = tuple(sizes[letter] for letter in letters)
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)), letters=letters, init=init)


def stacked(layer: nnx.Module, rows: Sequence[int], absent: Mapping[str, Collection[int]] | None = None) -> nnx.Module:
    """The same module with a leading layer dim N on every declaration: many layers as one, for `lax.scan`.

    `rows` are the layers' numbers in the order of their rows (a pipeline's ranks hold rows that are not neighbours in
    the model); an EMPTY_ROW holds zeros and no layer. `absent`: by name, the layers that do not have a parameter.
    """

    def stack(path: tuple[Any, ...], param: nnx.Param) -> nnx.Param:
        one, without = param.get_value(), (absent or {}).get(path[-1].key, ())
        held = tuple(EMPTY_ROW if row in without else row for row in rows)
        shape = jax.ShapeDtypeStruct((len(rows), *one.shape), one.dtype)
        return nnx.Param(shape, letters="N" + param.letters, init=param.init, rows=held)

    graphdef, state = nnx.split(layer, graph=False)
    is_param = lambda node: isinstance(node, nnx.Param)
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(stack, state, is_leaf=is_param))


def split_module(module: nnx.Module) -> tuple[Any, Params]:
    """`(graphdef, params)`; params hold arrays or, for a module fresh from its constructor, `ShapeDtypeStruct`s."""
    graphdef, state = nnx.split(module, graph=False)
    return graphdef, nnx.to_pure_dict(state)


def map_declarations(function: Callable[[tuple[str, ...], nnx.Param], Any], module: nnx.Module) -> Params:
    """Nested dict shaped like the module's params with `function(path, param)` in each place.

    The keys of a list's members are their numbers, as in `split_module`: JAX takes a dict's entries in the order of its
    keys, and as text "10" comes before "2".
    """
    _, state = nnx.split(module, graph=False)
    flat = {path: function(tuple(map(str, path)), param) for path, param in nnx.to_flat_state(state)}
    return traverse_util.unflatten_dict(flat)


def letters_of(module: nnx.Module) -> Params:
    """Dim letters of every parameter, e.g. `{"layers": {"attention": {"wq_DHE": "NDHE"}}}`."""
    return map_declarations(lambda _, param: param.letters, module)


def shardings_of(module: nnx.Module, mesh: Mesh, layout: Layout | None = None) -> Params:
    """`NamedSharding` of every parameter at rest on `mesh`, by the rules of `layout` (the standard ones when None)."""
    layout = layout or Layout.of(mesh)
    return map_declarations(lambda _, param: NamedSharding(mesh, layout.stored(param.letters)), module)


def abstract_params(module: nnx.Module, mesh: Mesh, layout: Layout | None = None) -> Params:
    """`ShapeDtypeStruct` with sharding for every parameter: the whole model without allocating it."""

    def leaf(declared, sharding):
        return jax.ShapeDtypeStruct(declared.shape, declared.dtype, sharding=sharding)

    declarations = map_declarations(lambda _, param: param.get_value(), module)
    return jax.tree.map(leaf, declarations, shardings_of(module, mesh, layout))


def count_params(module: nnx.Module) -> int:
    """Number of scalars in the module, from its declarations alone."""
    sizes = map_declarations(lambda _, param: math.prod(param.get_value().shape), module)
    return sum(jax.tree.leaves(sizes))


def init_params(module: nnx.Module, seed: int, mesh: Mesh, layout: Layout | None = None) -> Params:
    """Initial values, created already sharded on `mesh`: no device ever draws more than a few layers' share.

    Each array's key is the seed folded with the CRC of its path, and for one layer of a stack with the layer's number,
    so values depend neither on the mesh nor on the order in which arrays are declared or layers lie.
    """
    return make_init(module, mesh, layout)(jax.random.key(seed))


def make_init(module: nnx.Module, mesh: Mesh, layout: Layout | None = None) -> jax.stages.Wrapped:
    """`init(key) -> params`, jitted.

    To be called outside the mesh's context: the compiler then splits the drawing as its results are split. Inside,
    arrays without a spec would be whole on every device.
    """

    def values(key):
        def leaf(path, param):
            path_key = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
            declared = param.get_value()
            if "N" not in param.letters:
                return param.init(path_key, declared.shape, declared.dtype)
            return _stacked_values(path_key, param.rows, param.init, declared)

        return map_declarations(leaf, module)

    return jax.jit(values, out_shardings=shardings_of(module, mesh, layout))


def _stacked_values(key: jax.Array, rows: tuple[int, ...], init: Any, declared: jax.ShapeDtypeStruct) -> jax.Array:
    def of_row(row):
        values = init(jax.random.fold_in(key, jnp.maximum(row, 0)), declared.shape[1:], declared.dtype)
        return jnp.where(row == EMPTY_ROW, jnp.zeros_like(values), values)

    return jax.vmap(of_row)(jnp.array(rows, jnp.int32))
