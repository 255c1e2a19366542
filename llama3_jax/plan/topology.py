"""Accelerators that are not there: names people use for them, and the devices to compile for.

`v5p-1024` is Cloud's name of a TPU slice (v4, v5p and tpu7x count TensorCores, two a chip; v5e and v6e count chips),
`v5p:8x8x8` the same slice by its shape in chips, `h100x16384` GPUs, eight to a host. Nothing here talks to a cluster:
libtpu and the CUDA plugin describe the devices, this file says which slices exist.
"""

import dataclasses
import difflib
import functools
import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from llama3_jax.core.telemetry import PEAK_FLOPS
from llama3_jax.plan.gpu_targets import GPU_TARGETS

GIB = 2**30
GPUS_PER_HOST = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """One kind of accelerator. A device is what JAX calls one: a GPU, a TPU chip, or half a tpu7x chip."""

    name: str
    platform: str  # tpu or cuda
    kind: str  # key of PEAK_FLOPS
    memory_bytes: int  # what a program may use on a device
    link_bytes: float  # bytes/s that a device sends to its neighbours, all links together, one way
    memory_rate: float  # bytes/s of a device's memory
    network_bytes: float  # bytes/s that a device sends over the network between hosts (GPU) or slices (TPU)
    host_bytes: float  # bytes/s from a device to its host's memory
    clock: float | None = None  # Hz of the cycles that XLA estimates; None where it estimates none
    devices_per_chip: int = 1
    named_per_chip: int = 1  # what the number in a slice's name counts, per chip
    shapes: tuple[tuple[int, ...], ...] = ()  # slices smaller than a cube of 4x4x4, or all of a 2D torus
    largest: int = 0  # chips of the largest slice
    chip_config: str = "default"  # libtpu: one device per chip needs "megacore"

    @property
    def peak_flops(self) -> float:
        """Dense bf16 FLOP/s of a device."""
        return PEAK_FLOPS[self.kind]

    @property
    def dims(self) -> int:
        """2 or 3 for a TPU's torus, 0 for GPUs."""
        return len(self.shapes[0]) if self.shapes else 0


_PLANE = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4))

# Checked against Cloud's pages as stored in 2026 (docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e,tpu7x}): memory rates,
# "bidirectional inter-chip interconnect bandwidth per chip" (400, 1200, 800 and 1200 GB/s; half is one way), "data
# center network bandwidth per chip" (25, 50, 100 and 100 Gb/s) and slice shapes. A tpu7x device has half of its chip.
# Not checked: all of v4, host rates of TPUs. Usable memory: what libtpu 0.0.50 says is available when a program does
# not fit (a little less than the data sheet's 32, 16, 95, 32 and, for the two devices of a chip, 192). Clocks: peak
# FLOP/s over the FLOPs a device's matrix units do in a cycle. GPUs: NVLink 900 GB/s both ways and memory by MLPerf's
# descriptions of systems; 400 Gb/s of network a GPU by 3.3.1 and torchtitan's benchmark notes; B200 and PCIe from
# memory of the data sheets. Usable memory: the target description's total less what CUDA contexts and NCCL take (3%).
HARDWARE = {
    hardware.name: hardware
    for hardware in (
        Hardware(
            name="v4", platform="tpu", kind="TPU v4", memory_bytes=int(30.75 * GIB), link_bytes=300e9,
            memory_rate=1.2e12, network_bytes=6.25e9, host_bytes=10e9,
            clock=1.05e9, named_per_chip=2, shapes=_CUBE, largest=4096, chip_config="megacore",
        ),
        Hardware(
            name="v5e", platform="tpu", kind="TPU v5 lite", memory_bytes=int(15.75 * GIB), link_bytes=200e9,
            memory_rate=819e9, network_bytes=3.125e9, host_bytes=10e9,
            clock=1.5e9, shapes=_PLANE, largest=256,
        ),
        Hardware(
            name="v5p", platform="tpu", kind="TPU v5", memory_bytes=int(95.74 * GIB), link_bytes=600e9,
            memory_rate=2765e9, network_bytes=6.25e9, host_bytes=10e9,
            clock=1.75e9, named_per_chip=2, shapes=_CUBE, largest=6144, chip_config="megacore",
        ),
        Hardware(
            name="v6e", platform="tpu", kind="TPU v6 lite", memory_bytes=int(31.25 * GIB), link_bytes=400e9,
            memory_rate=1638e9, network_bytes=12.5e9, host_bytes=10e9,
            clock=1.75e9, shapes=_PLANE, largest=256,
        ),
        Hardware(
            name="tpu7x", platform="tpu", kind="TPU7x", memory_bytes=int(94.75 * GIB), link_bytes=300e9,
            memory_rate=3690e9, network_bytes=6.25e9, host_bytes=10e9,
            clock=2.2e9, devices_per_chip=2, named_per_chip=2, shapes=_CUBE, largest=9216,
        ),
        Hardware(
            name="h100", platform="cuda", kind="H100", memory_bytes=int(79.1 * 0.97 * GIB), link_bytes=450e9,
            memory_rate=3350e9, network_bytes=50e9, host_bytes=50e9,
        ),
        Hardware(
            name="h200", platform="cuda", kind="H200", memory_bytes=int(139.8 * 0.97 * GIB), link_bytes=450e9,
            memory_rate=4800e9, network_bytes=50e9, host_bytes=50e9,
        ),
        Hardware(
            name="b200", platform="cuda", kind="B200", memory_bytes=int(178.3 * 0.97 * GIB), link_bytes=900e9,
            memory_rate=8000e9, network_bytes=50e9, host_bytes=50e9,
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """A set of devices by name."""

    name: str
    hardware: Hardware
    shape: tuple[int, ...]  # chips along each dim of the torus; hosts and GPUs per host

    @property
    def num_devices(self) -> int:
        """Devices as JAX counts them."""
        return math.prod(self.shape) * self.hardware.devices_per_chip

    def __str__(self):
        unit = "GPUs" if self.hardware.platform == "cuda" else "chips"
        return f"{self.name} ({'x'.join(map(str, self.shape))} {unit}, {self.num_devices} devices)"


def parse_topology(name: str) -> Topology:
    """The topology called `name`. Raises ValueError with the nearest legal names."""
    found = re.fullmatch(r"([a-z]+\d*[a-z]*)(?:-(\d+)|:(\d+(?:x\d+)+)|x(\d+))", name)
    kind = found[1].replace("v5litepod", "v5e") if found else re.split(r"[-:]|x\d", name)[0]
    if found is None or kind not in HARDWARE:
        raise ValueError(f"unknown topology {name!r}; {_nearest_kind(kind)}")
    hardware = HARDWARE[kind]
    if hardware.platform == "cuda":
        return Topology(name, hardware, _gpu_shape(name, hardware, found[4] or found[2]))
    if found[3]:
        shape = tuple(int(size) for size in found[3].split("x"))
        if tuple(sorted(shape)) not in {tuple(sorted(legal)) for legal in _shapes(hardware)}:
            raise ValueError(f"{name!r} is not a slice; {_nearest_slices(hardware, math.prod(shape))}")
        return Topology(name, hardware, shape)
    chips, left = divmod(int(found[2] or 0), hardware.named_per_chip)
    shapes = [shape for shape in _shapes(hardware) if math.prod(shape) == chips]
    if left or not shapes:
        raise ValueError(f"there is no {name!r}; {_nearest_slices(hardware, chips)}")
    return Topology(name, hardware, min(shapes, key=sum))  # the most cube-like


def topology_devices(topology: Topology) -> list[Any]:
    """Devices to compile for, as many as the topology has. Call `prepare_process` before JAX starts.

    Raises ValueError when the compiler library is missing or refuses the shape.
    """
    hardware = topology.hardware
    shape = "x".join(str(size) for size in topology.shape)
    try:
        if hardware.platform == "tpu":
            return list(
                topologies.get_topology_desc(f"{hardware.name}:{shape}", "tpu", **_tpu_options(topology)).devices
            )
        target = GPU_TARGETS[hardware.name]
        # slices x hosts x GPUs of a host
        return list(topologies.get_topology_desc("", "cuda", topology=f"1x{shape}", target_config=target).devices)
    except (RuntimeError, IndexError) as error:
        library = {"tpu": "libtpu (the tpu extra)", "cuda": "the CUDA plugin (the cuda extra)"}[hardware.platform]
        raise ValueError(f"{library} cannot describe {topology}: {str(error).splitlines()[0]}") from error


# libtpu warns about the host it is not on, and logs to stderr.
_QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5e-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def prepare_process() -> None:
    """Sets this process up to compile without devices: JAX computes on the CPU, no library looks for hardware.

    Raises ValueError when JAX has already started on something else.
    """
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # libtpu: ask no metadata server where we are
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU is opened, so its lock is not ours to take
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    if jax.default_backend() != "cpu":
        raise ValueError(f"JAX already runs on {jax.default_backend()}; compile in a process of its own")


def _tpu_options(topology: Topology) -> dict[str, Any]:
    shape = (*topology.shape, 1)[:3]
    host = (2, 2, 1) if math.prod(shape) > 1 else (1, 1, 1)
    if topology.hardware.dims == 2:  # a plane wraps around where it spans the pod's 16, a cube in multiples of 4
        wrap = tuple(size == 16 for size in topology.shape) + (False,)
    else:
        wrap = tuple(size % 4 == 0 and min(shape) >= 4 for size in shape)
    return {"chip_config_name": topology.hardware.chip_config, "chips_per_host_bounds": host, "wrap": wrap}


def _gpu_shape(name: str, hardware: Hardware, count: str | None) -> tuple[int, int]:
    gpus = int(count or 0)
    if gpus < 1 or (gpus > GPUS_PER_HOST and gpus % GPUS_PER_HOST):
        near = max(1, round(gpus / GPUS_PER_HOST)) * GPUS_PER_HOST
        raise ValueError(f"{name!r}: GPUs come in hosts of {GPUS_PER_HOST}; try {hardware.name}x{near}")
    return max(1, gpus // GPUS_PER_HOST), min(gpus, GPUS_PER_HOST)


@functools.cache
def _shapes(hardware: Hardware) -> tuple[tuple[int, ...], ...]:
    """Every slice of a kind of TPU: the listed ones, and from 4x4x4 on any box of such cubes."""
    if hardware.dims == 2:
        return hardware.shapes
    sides = range(4, hardware.largest // 16 + 1, 4)
    boxes = (
        (a, b, c)
        for a, b in itertools.combinations_with_replacement(sides, 2)
        if a * b * b <= hardware.largest
        for c in range(b, hardware.largest // (a * b) + 1, 4)
    )
    return tuple(dict.fromkeys((*hardware.shapes, *boxes)))


def _nearest_slices(hardware: Hardware, chips: int) -> str:
    sizes: Sequence[int] = sorted({math.prod(shape) for shape in _shapes(hardware)})
    near = sorted(sorted(sizes, key=lambda size: abs(size - chips))[:3])
    names = []
    for size in near:
        shape = min((shape for shape in _shapes(hardware) if math.prod(shape) == size), key=sum)
        names.append(f"{hardware.name}-{size * hardware.named_per_chip} ({'x'.join(map(str, shape))})")
    return f"nearest slices are {', '.join(names)}"


def _nearest_kind(kind: str) -> str:
    near = difflib.get_close_matches(kind, HARDWARE, n=1)
    examples = "v5p-256, v6e-256 or h100x16384"
    if near:
        return f"did you mean a {near[0]}? Names are like {examples}"
    return f"there are {', '.join(HARDWARE)}, written like {examples}"
