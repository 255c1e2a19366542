"""How fast an axis of the mesh talks: fast links inside an island (a GPU host, a TPU slice), the network beyond it.

Axes are laid out with the innermost ones in the same island (core/mesh.py). A group of an axis that leaves its island
has `k` members in each; these share the crossing, so its rate is k times one device's network rate.
"""

import dataclasses
import math

from llama3_jax.core.sharding import MESH_AXES, Layout
from llama3_jax.plan.topology import GPUS_PER_HOST, Hardware

ACHIEVED = 0.8  # of a link's rate by large collectives: NCCL measures 370 to 380 of NVLink's 450 GB/s


@dataclasses.dataclass(frozen=True)
class Links:
    """The wires of `hardware` under `layout`."""

    hardware: Hardware
    layout: Layout

    @property
    def island(self) -> int:
        """Devices that the fast links join."""
        if self.hardware.platform == "cuda":
            return GPUS_PER_HOST
        return self.hardware.largest * self.hardware.devices_per_chip

    def members(self, axis: str) -> int:
        """Members of one group of `axis` in one island."""
        inside, size = self.layout.num_devices(MESH_AXES[MESH_AXES.index(axis) + 1 :]), self.layout.size(axis)
        return size if inside * size <= self.island else math.gcd(max(1, self.island // inside), size)

    def rate(self, axis: str) -> float:
        """Bytes/s that a device receives in a gather, or sends in a scatter, over `axis`."""
        rate = self.hardware.link_bytes * self._torus_share(axis)
        if self.members(axis) < self.layout.size(axis):
            rate = min(rate, self.members(axis) * self.hardware.network_bytes)
        return ACHIEVED * rate

    def message_rate(self) -> float:
        """Bytes/s of a message to the next stage."""
        crosses = self.members("stage") < self.layout.size("stage")
        if self.hardware.platform == "cuda":
            return ACHIEVED * (self.hardware.network_bytes if crosses else self.hardware.link_bytes)
        return ACHIEVED * self.hardware.link_bytes / (2 * self.hardware.dims)  # one of a torus's links

    def _torus_share(self, axis: str) -> float:
        """The part of a device's links that an axis has: on a torus each has some of its dims, the largest most."""
        if self.hardware.platform == "cuda":
            return 1.0
        axes = [name for name in MESH_AXES if self.members(name) > 1]
        if axis not in axes:
            return 1.0
        spare = max(0, self.hardware.dims - len(axes))
        largest = max(axes, key=self.members)
        return (1 + spare * (axis == largest)) / max(self.hardware.dims, len(axes))
