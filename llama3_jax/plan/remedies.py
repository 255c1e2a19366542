"""When a step does not fit: where the bytes go, and the cheapest changes of the config that would make it fit.

A program that does not compile has no buffers to measure, so bytes and seconds are the planner's estimates: the next
`llama3 compile` says what is true.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from llama3_jax.core.sharding import Layout
from llama3_jax.plan.search import is_legal, judge
from llama3_jax.plan.topology import Topology
from llama3_jax.train.recipe import Plan, Segment
from llama3_jax.train.run_config import PretrainConfig, layout_of

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_LISTED = re.compile(r"Size: ([\d.]+)([KMGT])\s+(?:Operator: (.*)\s+)?Shape: (\S+)")


@dataclasses.dataclass(frozen=True)
class Shortage:
    """What the compiler said when memory ran out."""

    needed: int  # bytes
    available: int
    buffers: tuple[tuple[str, int], ...]  # the largest, where it names them


@dataclasses.dataclass(frozen=True)
class WayOut:
    """One change of the config."""

    flags: str  # as written on the command line
    saves: float  # bytes of a device
    costs: float  # more time per step, as a share of it
    enough: bool


def read_shortage(message: str) -> Shortage | None:
    """The compiler's RESOURCE_EXHAUSTED message in numbers; None when it is not one."""
    found = _NEEDED.search(message) or _USED.search(message)
    if found is None or "RESOURCE_EXHAUSTED" not in message:
        return None
    listed = tuple(
        (f"{shape} {operator or ''}".strip(), _bytes(size, unit))
        for size, unit, operator, shape in _LISTED.findall(message)
    )
    return Shortage(_bytes(found[1], found[2]), _bytes(found[3], found[4]), listed)


@dataclasses.dataclass(frozen=True)
class _Change:
    """A changed config and mesh, and the flags that say so."""

    kind: str
    flags: Mapping[str, int | str]
    config: PretrainConfig
    sizes: Mapping[str, int]

    @property
    def layout(self) -> Layout:
        return layout_of(self.config, self.sizes)


def ways_out(
    config: PretrainConfig, topology: Topology, segment: Segment, missing: float, count: int = 3
) -> list[WayOut]:
    """The `count` cheapest legal changes that suffice, alone or two together; then those that only help.

    Empty when nothing known would help.
    """
    start = _Change("", {}, config, config.mesh.resolve(topology.num_devices))
    now, before = _costs(start, topology, segment)

    def judged(changes: Iterable[_Change]) -> dict[str, tuple[WayOut, _Change]]:
        """The gentlest change of each kind that suffices, else the one that saves most."""
        best: dict[str, tuple[WayOut, _Change]] = {}
        for change in changes:
            if (change.kind in best and best[change.kind][0].enough) or not is_legal(
                change.config, Plan(change.config.recipe), change.layout
            ):
                continue
            seconds, after = _costs(change, topology, segment)
            flags = " ".join(f"--config.{name}={value}" for name, value in change.flags.items())
            way = WayOut(flags, before - after, max(0.0, seconds / now - 1), before - after >= missing)
            if way.saves > 0.01 * missing and (
                change.kind not in best or way.enough or way.saves > best[change.kind][0].saves
            ):
                best[change.kind] = way, change
        return best

    single = judged(_changes(start))
    is_enough = lambda kind: kind in single and single[kind][0].enough
    both = judged(
        change
        for way, first in single.values()
        if not way.enough
        for change in _changes(first)
        if (added := change.kind.removeprefix(first.kind)) != first.kind and not is_enough(added)
    )
    ways = {way.flags: way for way, _ in (*single.values(), *both.values())}.values()
    enough = sorted((way for way in ways if way.enough), key=lambda way: way.costs)
    helpful = sorted((way for way in ways if not way.enough), key=lambda way: -way.saves)
    return [*enough, *helpful][:count]


def _changes(start: _Change) -> Iterator[_Change]:
    """Every change worth a thought on top of `start`, gentler ones of a kind first."""
    config, sizes, compute = start.config, start.sizes, start.config.compute

    def computed(kind: str, **fields: int | str) -> _Change:
        changed = dataclasses.replace(config, compute=dataclasses.replace(compute, **fields))  # pyright: ignore
        flags = {f"compute.{name}": value for name, value in fields.items()}
        return _Change(start.kind + kind, {**start.flags, **flags}, changed, sizes)

    for part in (2, 4, 8):
        if compute.loss_chunk // part >= 128:
            yield computed(" loss", loss_chunk=compute.loss_chunk // part)
    for policy in _gentler_than(compute.remat):
        yield computed(" remat", remat=policy)
    if not compute.reshard_after_forward:
        yield computed(" reshard", reshard_after_forward=True)
    micro = config.micro_batch_tokens or max(segment.batch_tokens for segment in Plan(config.recipe).segments)
    for part in (2**power for power in range(1, 16)):
        changed = dataclasses.replace(config, micro_batch_tokens=micro // part)
        yield _Change(start.kind + " micro", {**start.flags, "micro_batch_tokens": micro // part}, changed, sizes)
    for source, target in (("data", "fsdp"), ("fsdp", "tensor"), ("data", "tensor"), ("fsdp", "context")):
        for factor in (2, 4, 8, 16):
            if sizes[source] % factor:
                continue
            mesh = dict(sizes) | {source: sizes[source] // factor, target: sizes[target] * factor}
            flags = {**start.flags, **{f"mesh.{axis}": mesh[axis] for axis in (source, target)}}
            kind = f"{start.kind} {source} to {target}"
            yield _Change(kind, flags, config, mesh)
            part = dataclasses.replace(config, micro_batch_tokens=micro // factor)  # the same rows on each device
            yield _Change(f"{kind} micro", {**flags, "micro_batch_tokens": micro // factor}, part, mesh)


def _costs(change: _Change, topology: Topology, segment: Segment) -> tuple[float, float]:
    """Estimated seconds of a step and bytes of a device."""
    judged = judge(change.config, change.layout, segment, topology.hardware)
    small = 1 + 0.02 * 128 / change.config.compute.loss_chunk  # small chunks feed the matrix units badly
    return judged.projection.step * small, judged.memory.peak


def _gentler_than(policy: str) -> tuple[str, ...]:
    """Policies that keep less than `policy`, the one that keeps most first."""
    order = ("none", "dots", "save:query,key,value,attention", "full")
    if policy in order:
        return order[order.index(policy) + 1 :]
    return ("full",)


def _bytes(size: str, unit: str) -> int:
    return int(float(size) * _UNITS[unit])
