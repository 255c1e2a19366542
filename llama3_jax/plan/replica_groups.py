"""Which mesh axes a collective runs over, from the device groups that HLO names.

HLO numbers devices by their place in the mesh, row by row, and writes groups in four ways: listed `{{0,1},{2,3}}`, as
an iota `[2,2]<=[2,2]T(1,0)`, as axes of a mesh `mesh['axis_0'=2,'axis_1'=2] {'axis_0'}`, or as pairs of source and
target. All become the same question: which axes, varied alone, give these groups?
"""

import itertools
import math
import re
from collections.abc import Mapping

import numpy as np

UNKNOWN = "other"  # groups that no set of axes gives
SELF = "self"  # groups of one device: nothing moves

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[(.*?)\](.*?)\{(.*)\}$")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_MESH_PART = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


class AxisNames:
    """Names the groups of one mesh; answers are remembered, since a program repeats a few groups many times."""

    def __init__(self, sizes: Mapping[str, int]):
        """`sizes` of the mesh axes, outermost first."""
        self.sizes = {axis: size for axis, size in sizes.items() if size > 1}
        self.num_devices = math.prod(self.sizes.values())
        self._places = np.arange(self.num_devices).reshape(tuple(self.sizes.values()) or (1,))
        self._of_groups = {
            _label(self._groups_along(axes), self.num_devices): "+".join(axes)
            for count in range(1, len(self.sizes) + 1)
            for axes in itertools.combinations(self.sizes, count)
        }
        self._known: dict[str, tuple[str, int]] = {}

    def of_groups(self, text: str | None) -> tuple[str, int]:
        """Axis names joined with + and the number of devices in a group, for the value of `replica_groups=`."""
        text = (text or "{}").strip()
        if text not in self._known:
            groups = parse_groups(text, self.num_devices)
            self._known[text] = (UNKNOWN, 0) if groups is None else self._name(groups)
        return self._known[text]

    def of_pairs(self, text: str) -> tuple[str, int]:
        """The axes along which sources and targets differ, and the number of devices those span."""
        pairs = np.array(_lists(text), dtype=np.int64)
        if pairs.size == 0 or pairs.max() >= self.num_devices:
            return (SELF, 1) if pairs.size == 0 else (UNKNOWN, 0)
        shape = self._places.shape
        source, target = (np.stack(np.unravel_index(pairs[:, side], shape)) for side in (0, 1))
        moved = (source != target).any(axis=1)
        axes = [axis for axis, differs in zip(self.sizes, moved, strict=False) if differs]
        return "+".join(axes) or SELF, math.prod(self.sizes[axis] for axis in axes)

    def _name(self, groups: np.ndarray) -> tuple[str, int]:
        if groups.shape[1] == 1:
            return SELF, 1
        return self._of_groups.get(_label(groups, self.num_devices), UNKNOWN), groups.shape[1]

    def _groups_along(self, axes) -> np.ndarray:
        order = [i for i, axis in enumerate(self.sizes) if axis not in axes]
        order += [i for i, axis in enumerate(self.sizes) if axis in axes]
        return self._places.transpose(order).reshape(-1, math.prod(self.sizes[axis] for axis in axes))


def parse_groups(text: str, num_devices: int) -> np.ndarray | None:
    """Groups `[G, size]` of device numbers; None when they differ in size or are written in a way unknown here."""
    if text in ("{}", "{{}}"):
        return np.arange(num_devices)[None]
    if found := _IOTA.fullmatch(text):
        return _iota(found[2], found[3]).reshape(_numbers(found[1]))
    if text.startswith("mesh"):
        return _mesh_groups(text, num_devices)
    groups = _lists(text)
    if not groups or len({len(group) for group in groups}) != 1:
        return None
    return np.array(groups)


def _mesh_groups(text: str, num_devices: int) -> np.ndarray | None:
    """`mesh['a'=2,'b'=4] {'a'}`, with the devices in another order, or only a part `'b':(2)2` of an axis."""
    found = _MESH.fullmatch(text)
    if found is None:
        return None
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(found[1])}
    devices = np.arange(num_devices)
    if order := re.search(r"<=\[([\d,]+)\](?:T\(([\d,]+)\))?", found[1] + found[2]):
        devices = _iota(order[1], order[2]).reshape(-1)
    elif listed := re.search(r"\(([\d,\s]+)\)", found[2]):
        devices = np.array(_numbers(listed[1].replace(" ", "")))
    if math.prod(sizes.values()) != num_devices or devices.size != num_devices:
        return None
    dims: list[int] = []
    chosen: list[int] = []
    parts = {name: (before, size) for name, before, size in _MESH_PART.findall(found[3])}
    for name, size in sizes.items():
        before, part = parts.get(name, ("", ""))
        split = [int(before), int(part), size // (int(before) * int(part))] if part else [size]
        if name in parts:
            chosen.append(len(dims) + (1 if part else 0))
        dims += split
    rest = [i for i in range(len(dims)) if i not in chosen]
    return devices.reshape(dims).transpose(rest + chosen).reshape(-1, math.prod(dims[i] for i in chosen))


def _iota(dims: str, permutation: str | None) -> np.ndarray:
    values = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return values.transpose(_numbers(permutation)) if permutation else values


def _lists(text: str) -> list[list[int]]:
    return [_numbers(group) for group in re.findall(r"\{([\d,\s]+)\}", text)]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _label(groups: np.ndarray, num_devices: int) -> bytes:
    """The same bytes for the same partition, in whatever order groups and members come: each device's lowest peer."""
    lowest = np.full(num_devices, -1, dtype=np.int64)
    if groups.size != num_devices or groups.max() >= num_devices:
        return b""
    lowest[groups] = groups.min(axis=1, keepdims=True)
    return lowest.tobytes()
