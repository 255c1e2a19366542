"""Which device stands where in the mesh (Llama 3, 3.3.2 and Figure 5).

The axis that talks most is innermost and gets the fastest wires: tensor stays on NVLink or neighbouring ICI links, data
and fsdp go outermost and cross the network between hosts or slices, where prefetch and reduction hide the latency. With
the paper's order [TP, CP, PP, DP], all of size 2, device 0 talks to device 1 (TP), 2 (CP), 4 (PP) and 8 (DP).
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

INNERMOST = "tensor"  # an exchange in every layer, both ways: never over the network between islands
ISLANDS = {"gpu": "host", "cuda": "host", "rocm": "host", "tpu": "slice"}  # what a platform's fast wires join


def arrange_devices(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices as an array with one dim per axis of `sizes`, which names them outermost first.

    TPU slices are laid out along their torus, several slices and GPU hosts are joined along the outermost axes that
    divide their number; other platforms keep the order given. Raises ValueError when the sizes do not multiply to the
    number of devices, when islands differ in size, and when the tensor axis would leave its slice or host.
    """
    shape = tuple(sizes.values())
    if math.prod(shape) != len(devices):
        raise ValueError(f"mesh: {_said(sizes)} is {math.prod(shape)} devices, but there are {len(devices)}")
    platform = devices[0].platform
    if platform not in ISLANDS:
        return np.asarray(devices, dtype=object).reshape(shape)
    islands = _islands(devices)
    if len(islands) == 1:
        return _within(shape, devices)
    outer = _outer_sizes(sizes, islands, ISLANDS[platform])
    inner = tuple(size // out for size, out in zip(shape, outer, strict=True))
    parts = np.empty(len(islands), dtype=object)
    for number, key in enumerate(sorted(islands)):
        parts[number] = _within(inner, islands[key])
    return np.block(parts.reshape(outer).tolist())


def island_of(device: Any) -> int:
    """The slice or host whose fast wires `device` is on: JAX numbers both as slices, older plug-ins only processes."""
    number = getattr(device, "slice_index", None)
    if number is None and device.platform != "tpu":
        number = getattr(device, "process_index", None)
    return number or 0


def _islands(devices: Sequence[Any]) -> dict[int, list[Any]]:
    islands = collections.defaultdict(list)
    for device in devices:
        islands[island_of(device)].append(device)
    return islands


def _outer_sizes(sizes: Mapping[str, int], islands: Mapping[int, list[Any]], what: str) -> tuple[int, ...]:
    """How far each axis reaches over islands: as much as divides, the outermost first."""
    counts = sorted({len(island) for island in islands.values()})
    if len(counts) > 1:
        raise ValueError(f"mesh: every {what} must have as many devices as the others, but some have {counts}")
    left, outer = len(islands), []
    for size in sizes.values():
        outer.append(math.gcd(size, left))
        left //= outer[-1]
    crossing = dict(zip(sizes, outer, strict=True)).get(INNERMOST, 1)
    if crossing > 1 or left > 1:
        raise ValueError(
            f"mesh: {_said(sizes)} puts the tensor axis over more than one {what}: {len(islands)} of them have "
            f"{counts[0]} devices each, so {INNERMOST} must divide {counts[0]} and the other axes multiply to a "
            f"multiple of {len(islands)}"
        )
    return tuple(outer)


def _within(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """One island. On a torus an axis takes whole physical axes where it can, and pieces of them where it cannot."""
    for split in (False, True):
        try:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=split)
        except RuntimeError as error:  # no way to assign axes
            reason = str(error)
        except AssertionError as error:  # mesh_utils found a gap
            raise ValueError(f"mesh: these {len(devices)} devices are not a whole block of their slice") from error
    raise ValueError(f"mesh: {' x '.join(map(str, shape))} does not fit the slice's torus: {reason}")


def _said(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())
