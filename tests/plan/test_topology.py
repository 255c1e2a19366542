"""Names of devices that are not there, and what is said about names that are none."""

import math
import types

import pytest

from llama3_jax.core.telemetry import peak_flops
from llama3_jax.plan.gpu_targets import GPU_TARGETS
from llama3_jax.plan.topology import HARDWARE, parse_topology


@pytest.mark.parametrize(
    ("name", "shape", "devices"),
    [
        ("v5p-8", (2, 2, 1), 4),
        ("v5p-256", (4, 4, 8), 128),
        ("v5p-1024", (8, 8, 8), 512),
        ("v5p-3072", (8, 12, 16), 1536),
        ("v5p-12288", (16, 16, 24), 6144),
        ("v5p:8x4x4", (8, 4, 4), 128),
        ("v4-64", (2, 4, 4), 32),
        ("v5e-1", (1, 1), 1),
        ("v5litepod-8", (2, 4), 8),
        ("v6e-256", (16, 16), 256),
        ("tpu7x-8", (2, 2, 1), 8),
        ("h100x16384", (2048, 8), 16_384),
        ("h200x8", (1, 8), 8),
        ("h100x2", (1, 2), 2),
    ],
)
def test_names(name, shape, devices):
    topology = parse_topology(name)
    assert topology.shape == shape and topology.num_devices == devices and name in str(topology)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5q-8", "did you mean a v5p"),
        ("toaster", "there are v4, v5e, v5p, v6e, tpu7x, h100, h200, b200"),
        ("v5p", "did you mean a v5p"),
        ("v5p-100", r"nearest slices are v5p-32 \(2x2x4\), v5p-64 \(2x4x4\), v5p-128 \(4x4x4\)"),
        ("v5p-9", "there is no 'v5p-9'"),
        ("v5p:3x3x3", "'v5p:3x3x3' is not a slice; nearest slices are"),
        ("v6e-512", r"nearest slices are v6e-64 \(8x8\), v6e-128 \(8x16\), v6e-256 \(16x16\)"),
        ("h100x12", "try h100x16"),
        ("h100x0", "try h100x8"),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_nearest(name, said):
    with pytest.raises(ValueError, match=said):
        parse_topology(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("v4", "TPU v4"),
        ("v5e", "TPU v5 lite"),
        ("v5p", "TPU v5"),
        ("v6e", "TPU v6 lite"),
        ("tpu7x", "TPU7x"),
        ("h100", "NVIDIA H100 80GB HBM3"),
        ("h200", "NVIDIA H200"),
        ("b200", "NVIDIA B200"),
    ],
)
def test_a_plan_and_a_run_know_the_same_peak(name, kind):
    assert HARDWARE[name].peak_flops == peak_flops(types.SimpleNamespace(device_kind=kind))


def test_the_table_is_whole():
    for hardware in HARDWARE.values():
        assert hardware.memory_bytes > 2**33 and hardware.peak_flops > 1e14 and hardware.link_bytes > 5e10
        assert (hardware.platform == "cuda") == (hardware.name in GPU_TARGETS) == (hardware.clock is None)
        assert all(math.prod(shape) <= hardware.largest for shape in hardware.shapes)
