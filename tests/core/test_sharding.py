"""The resolver: letters to specs, collisions, uneven splits, mesh sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from llama3_jax.core.sharding import Layout, MeshConfig, batch_sharding, local_rows, make_mesh


def layout_of(**sizes) -> Layout:
    return Layout.of(make_mesh(MeshConfig(**({"fsdp": 1} | sizes))))


def test_specs_drop_axes_of_size_one():
    layout = layout_of(fsdp=4, tensor=2)
    assert layout.stored("NDHE") == PartitionSpec(None, "fsdp", "tensor", None)
    assert layout.used("DHE") == PartitionSpec(None, "tensor", None)
    assert layout.used("BSD") == PartitionSpec("fsdp", None, None)
    assert layout_of(data=2, fsdp=4).used("BS") == PartitionSpec(("data", "fsdp"), None)
    assert Layout().used("BSD") == PartitionSpec(None, None, None)


def test_without_sequence_parallelism_the_residual_stream_is_whole():
    sizes = {"context": 2, "tensor": 4}
    assert Layout.of_sizes(sizes).used("BRD") == PartitionSpec(None, ("context", "tensor"), None)
    layout = Layout.of_sizes(sizes, sequence_parallel=False)
    assert layout.used("BRD") == layout.used("BSD") == PartitionSpec(None, "context", None)
    assert layout == Layout.of(make_mesh(MeshConfig(fsdp=1, **sizes)), sequence_parallel=False)


def test_two_dims_on_one_mesh_axis_raise():
    with pytest.raises(ValueError, match="dims 'H' and 'F' of an array 'HF' are both split over mesh axis 'tensor'"):
        layout_of(tensor=8).used("HF")


def test_unknown_letters_raise():
    with pytest.raises(ValueError, match="unknown dim letter 'Z'"):
        Layout().used("BZ")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MeshConfig(), (1, 8, 1, 1, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), (2, 2, 1, 1, 2)),
        (MeshConfig(fsdp=1, data=8), (8, 1, 1, 1, 1)),
    ],
)
def test_one_axis_takes_the_devices_left(config, expected):
    mesh = make_mesh(config)
    assert mesh.devices.shape == expected
    assert mesh.axis_names == ("data", "fsdp", "stage", "context", "tensor")


@pytest.mark.parametrize("config", [MeshConfig(tensor=3), MeshConfig(fsdp=1), MeshConfig(data=16)])
def test_a_mesh_that_is_not_the_devices_raises(config):
    with pytest.raises(ValueError, match="but there are 8"):
        make_mesh(config)


@pytest.mark.parametrize("sizes", [{"data": -1, "fsdp": -1}, {"tensor": 0}, {"tensor": -2}])
def test_impossible_sizes_raise(sizes):
    with pytest.raises(ValueError, match="at most one is -1"):
        MeshConfig(**sizes)


def test_uneven_splits_name_the_nearest_legal_size():
    layout = layout_of(tensor=8)
    with pytest.raises(ValueError, match="kv_heads 12 does not divide by mesh axis tensor 8; nearest legal size: 6"):
        layout.check_divides({"D": 16, "K": 12, "E": 4}, ["DKE"])


def test_einsum_takes_the_spec_of_its_result():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    layout = Layout.of(mesh)
    with jax.set_mesh(mesh):
        x_BSD = jax.device_put(jnp.ones((4, 2, 8)), layout.used("BSD"))
        w_DF = jax.device_put(jnp.ones((8, 6)), layout.stored("DF"))
        w_FD = jax.device_put(jnp.ones((6, 8)), layout.stored("FD"))

        @jax.jit
        def mlp(x, w1, w2):
            h = layout.einsum("BSD,DF->BSF", x, layout.place(w1, "DF"))
            return layout.einsum("BSF,FD->BSD", h, layout.place(w2, "FD"))

        y_BSD = mlp(x_BSD, w_DF, w_FD)
    assert y_BSD.sharding.spec == layout.used("BSD")
    np.testing.assert_array_equal(y_BSD, np.full((4, 2, 8), 48.0))


def test_local_rows_are_those_of_this_process():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    sharding = batch_sharding(mesh, 3, leading=1)
    assert sharding.spec == PartitionSpec(None, ("data", "fsdp"), None)
    np.testing.assert_array_equal(local_rows(sharding, (2, 8, 16), 1), np.arange(8))
