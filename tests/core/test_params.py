"""Declarations: counts without arrays, values that depend on neither mesh nor order, one truth about sharding."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llama3_jax.core import params as params_lib
from llama3_jax.core.sharding import MeshConfig, make_mesh

SIZES = {"D": 16, "F": 32, "M": 16}


class Layer(nnx.Module):
    def __init__(self):
        self.w_DF = params_lib.declare("DF", SIZES, params_lib.Normal(0.1))
        self.scale_M = params_lib.declare("M", SIZES, params_lib.Constant(1.0))


class Model(nnx.Module):
    def __init__(self):
        self.layers = params_lib.stacked(Layer(), range(3))
        self.out_FD = params_lib.declare("FD", SIZES, params_lib.Normal(0.2))


class Reordered(nnx.Module):
    def __init__(self):
        self.out_FD = params_lib.declare("FD", SIZES, params_lib.Normal(0.2))
        self.layers = params_lib.stacked(Layer(), range(3))


def single_mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def test_stacking_adds_a_layer_dim_to_every_declaration():
    assert params_lib.letters_of(Model()) == {"layers": {"w_DF": "NDF", "scale_M": "NM"}, "out_FD": "FD"}
    assert params_lib.count_params(Model()) == 3 * (16 * 32 + 16) + 32 * 16


def test_split_and_merge_are_inverse_and_code_is_comparable():
    graphdef, _ = params_lib.split_module(Model())
    values = params_lib.init_params(Model(), 0, single_mesh())
    model = nnx.merge(graphdef, values)
    np.testing.assert_array_equal(model.layers.w_DF[...], values["layers"]["w_DF"])
    assert params_lib.split_module(Model())[0] == graphdef
    assert hash(params_lib.split_module(Model())[0]) == hash(graphdef)


class Apart(nnx.Module):
    def __init__(self):
        self.layers = nnx.List(Model().layers for _ in range(12))


def test_members_of_a_list_keep_their_order():
    """Also where it has more than ten: as text "10" comes before "2"."""
    graphdef, declared = params_lib.split_module(Apart())
    numbered = params_lib.map_declarations(lambda path, param: jnp.full(param.get_value().shape, int(path[1])), Apart())
    assert jax.tree.structure(numbered) == jax.tree.structure(declared)
    model = nnx.merge(graphdef, numbered)
    assert [int(layer.w_DF[...].min()) for layer in model.layers] == list(range(12))


def test_values_depend_on_seed_and_path_alone():
    base = params_lib.init_params(Model(), 0, single_mesh())
    for other in (
        params_lib.init_params(Model(), 0, make_mesh(MeshConfig(tensor=2))),
        params_lib.init_params(Reordered(), 0, single_mesh()),
    ):
        # The same draws; a differently split program may round the last bit of the inverse error function otherwise.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), base, other)
    assert not np.array_equal(base["out_FD"], params_lib.init_params(Model(), 1, single_mesh())["out_FD"])
    layers = np.asarray(base["layers"]["w_DF"])
    assert not np.array_equal(layers[0], layers[1])
    assert abs(layers.std() / 0.1 - 1) < 0.05
    np.testing.assert_array_equal(base["layers"]["scale_M"], 1.0)


def test_arrays_are_created_where_their_declaration_says():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    values = params_lib.init_params(Model(), 0, mesh)
    abstract = params_lib.abstract_params(Model(), mesh)
    shardings = params_lib.shardings_of(Model(), mesh)
    for array, shape, sharding in zip(*map(jax.tree.leaves, (values, abstract, shardings)), strict=True):
        assert array.sharding == shape.sharding == sharding
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
    assert values["layers"]["w_DF"].addressable_shards[0].data.shape == (3, 4, 16)


def test_no_device_draws_more_than_its_share():
    sizes = {"D": 256, "F": 1024}

    class Wide(nnx.Module):
        def __init__(self):
            self.w_DF = params_lib.declare("DF", sizes, params_lib.Normal(1.0))

    class Stack(nnx.Module):
        def __init__(self):
            self.layers = params_lib.stacked(Wide(), range(16))

    total = 16 * 256 * 1024 * 4
    memory = params_lib.make_init(Stack(), make_mesh(MeshConfig(fsdp=8))).lower(jax.random.key(0)).compile()
    assert memory.memory_analysis().temp_size_in_bytes < total / 2
