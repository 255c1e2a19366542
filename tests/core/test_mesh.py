"""Where devices stand: the paper's rank map, hosts and slices outermost, tensor groups on neighbouring links."""

import importlib.util
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from llama3_jax.core.mesh import arrange_devices
from llama3_jax.core.sharding import MESH_AXES


def sizes_of(**sizes) -> dict[str, int]:
    return {axis: sizes.get(axis, 1) for axis in MESH_AXES}


def fake(count: int, platform: str = "cpu", **more):
    """Devices with an id and the attributes in `more`, functions of the id."""
    return [
        types.SimpleNamespace(
            id=number, platform=platform, device_kind="fake", **{name: of(number) for name, of in more.items()}
        )
        for number in range(count)
    ]


def ids(mesh: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda device: device.id)(mesh)


@pytest.mark.parametrize("platform", ["cpu", "gpu"], ids=["order_given", "by_host"])
def test_the_rank_map_is_that_of_figure_5(platform):
    """Order [TP, CP, PP, DP], all sizes 2: the peers of GPU 0 are 1, 2, 4 and 8."""
    devices = fake(16, platform, slice_index=lambda number: number // 8)
    numbers = ids(arrange_devices(sizes_of(fsdp=2, stage=2, context=2, tensor=2), devices))
    peers = {axis: np.take(numbers, 1, MESH_AXES.index(axis)).flat[0] for axis in MESH_AXES[1:]}
    assert peers == {"tensor": 1, "context": 2, "stage": 4, "fsdp": 8}
    np.testing.assert_array_equal(numbers.reshape(-1), np.arange(16))


def test_an_axis_may_lie_within_and_across_hosts():
    devices = fake(128, "gpu", slice_index=lambda number: number // 8)
    numbers = ids(arrange_devices(sizes_of(data=4, fsdp=8, context=2, tensor=2), devices))
    np.testing.assert_array_equal(numbers.reshape(-1), np.arange(128))


def test_hosts_are_joined_in_order_also_when_their_devices_come_mixed():
    devices = fake(16, "gpu", process_index=lambda number: number % 2)  # no slice_index: processes are hosts
    mesh = arrange_devices(sizes_of(fsdp=2, tensor=8), devices)
    for group in mesh.reshape(2, 8):
        assert len({device.process_index for device in group}) == 1


def test_processes_of_one_host_are_one_island():
    devices = fake(8, "gpu", slice_index=lambda number: 0, process_index=lambda number: number)
    assert ids(arrange_devices(sizes_of(tensor=8), devices)).reshape(-1).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [
        ({"tensor": 16}, 16, "tensor 16 puts the tensor axis over more than one host: 2 of them have 8 devices each"),
        ({"fsdp": 2, "tensor": 4}, 16, "is 8 devices, but there are 16"),
        ({"fsdp": 3, "tensor": 4}, 12, r"every host must have as many devices as the others, but some have \[4, 8\]"),
    ],
)
def test_what_cannot_be_placed_is_refused(sizes, count, message):
    devices = fake(count, "gpu", slice_index=lambda number: number // 8)
    with pytest.raises(ValueError, match=message):
        arrange_devices(sizes_of(**sizes), devices)


def torus(slices: int, *bounds: int):
    """TPU-like devices, x fastest, slice after slice."""
    found = []
    for number in range(slices):
        for z, y, x in np.ndindex(*reversed(bounds)):
            found.append(
                types.SimpleNamespace(
                    id=len(found), platform="tpu", device_kind="TPU v6 lite", coords=(x, y, z), core_on_chip=0,
                    slice_index=number, process_index=len(found) // 4,
                )
            )  # fmt: skip
    return found


def assert_neighbours(mesh: np.ndarray) -> None:
    """Every tensor group lies in one slice, each device one link from the next."""
    for group in mesh.reshape(-1, mesh.shape[-1]):
        assert len({getattr(device, "slice_index", 0) for device in group}) == 1
        coords = np.array([device.coords for device in group])
        assert (np.abs(np.diff(coords, axis=0)).sum(axis=1) == 1).all(), coords


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize(
    "inner", [{"tensor": 8}, {"tensor": 4}, {"tensor": 2, "context": 4}, {"stage": 4, "tensor": 4}]
)
def test_tensor_groups_are_neighbours_on_the_torus(slices, inner):
    devices = torus(slices, 4, 8, 8)
    fsdp = 256 // int(np.prod(list(inner.values())))
    mesh = arrange_devices(sizes_of(data=slices, fsdp=fsdp, **inner), devices)
    assert mesh.shape == tuple(sizes_of(data=slices, fsdp=fsdp, **inner).values())
    assert_neighbours(mesh)
    for number in range(slices):
        assert {device.slice_index for device in mesh[number].flat} == {number}


def test_a_slice_with_a_gap_is_refused():
    with pytest.raises(ValueError, match="these 3 devices are not a whole block of their slice"):
        arrange_devices(sizes_of(fsdp=3), torus(1, 2, 2, 1)[:3])


def test_tensor_over_slices_is_refused():
    with pytest.raises(ValueError, match="tensor 32 puts the tensor axis over more than one slice"):
        arrange_devices(sizes_of(tensor=32), torus(2, 4, 4, 1))


TOPOLOGIES = """
import sys
from jax.experimental import topologies
from tests.core.test_mesh import assert_neighbours, sizes_of
from llama3_jax.core.mesh import arrange_devices

for name, slices, sizes in (
    ("v5p:8x8x8", 1, {"fsdp": 64, "tensor": 8}),
    ("v5p:8x8x8", 1, {"data": 2, "fsdp": 32, "tensor": 8}),
    ("v5p:8x8x8", 1, {"fsdp": 8, "stage": 16, "tensor": 4}),
    ("v6e:16x16", 1, {"fsdp": 32, "tensor": 8}),
    ("v6e:16x16", 1, {"fsdp": 16, "context": 4, "tensor": 4}),
    ("v5p:4x4x8", 2, {"data": 2, "fsdp": 32, "tensor": 4}),
    ("v5p:4x4x8", 2, {"fsdp": 32, "tensor": 8}),
):
    more = {"num_slices": slices} if slices > 1 else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices
    mesh = arrange_devices(sizes_of(**sizes), devices)
    assert len({device.id for device in mesh.flat}) == len(devices)
    assert_neighbours(mesh)
    print(name, sizes, "placed", flush=True)
"""


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_devices_of_real_topologies_are_placed():
    result = subprocess.run(
        [sys.executable, "-c", TOPOLOGIES],
        env={**os.environ, "TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("placed") == 7
