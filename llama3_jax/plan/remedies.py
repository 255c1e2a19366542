"""When a step does not fit: where the bytes go, and the cheapest changes of the config that would make it fit.

Rough on purpose. A program that does not compile has no buffers to measure, so bytes and seconds here are arithmetic
on the config (one line per term), good for ranking: the next `llama3 compile` says what is true.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from llama3_jax.core.sharding import Layout
from llama3_jax.model.llama import flops_per_token, layer_weights
from llama3_jax.plan.topology import Topology
from llama3_jax.train.program import batch_shape, check_layout
from llama3_jax.train.recipe import Plan, Segment
from llama3_jax.train.run_config import PretrainConfig, layout_of

HALF, FULL = 2, 4  # bytes of bfloat16 and float32
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
    costs: float  # more time per step, as a share of the step's matmuls
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


def estimate_buffers(config: PretrainConfig, layout: Layout, segment: Segment) -> dict[str, float]:
    """Bytes of a device by what they hold, estimated."""
    c, compute = config.model, config.compute
    tensor, shards = layout.size("tensor"), layout.size("fsdp") * layout.size("tensor") * layout.size("stage")
    num_micro = batch_shape(config, segment, layout)[0]
    layer = layer_weights(c)
    head = c.vocab_size * c.embed_dim
    params = c.num_layers * layer + head * (1 if c.tied else 2)
    tokens = _tokens(config, layout, segment)
    residual = c.embed_dim / (tensor if compute.sequence_parallel else 1)
    kept = residual + _kept_width(compute.remat, config) / tensor
    working = 2 * residual + _kept_width("none", config) / tensor  # one layer, forward again and backward
    gathered = params if not compute.reshard_after_forward else layer * 2
    kept_bytes = HALF * tokens * kept * c.num_layers / layout.size("stage")
    return {
        "weights and optimizer moments": 3 * FULL * params / shards,
        "gradients": FULL * params / shards * (2 if num_micro > 1 else 1),
        "gathered weights": HALF * gathered / tensor / layout.size("stage"),
        "output head, gathered, and its gradient": (HALF + FULL) * head / tensor,
        f"saved for the backward pass (remat {compute.remat})": kept_bytes,
        "one layer at work": HALF * tokens * working,
        "logits of a loss chunk": 3 * FULL * min(compute.loss_chunk, tokens) * c.vocab_size / tensor,
    }


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
            if (change.kind in best and best[change.kind][0].enough) or not _is_legal(change):
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


def _is_legal(change: _Change) -> bool:
    try:
        check_layout(change.config, Plan(change.config.recipe), change.layout)
    except ValueError:
        return False
    return True


def _costs(change: _Change, topology: Topology, segment: Segment) -> tuple[float, float]:
    """Estimated seconds of a step and bytes of a device."""
    config, layout, hardware = change.config, change.layout, topology.hardware
    c = config.model
    tensor, shards, context = (layout.size(axis) for axis in ("tensor", "fsdp", "context"))
    num_micro = batch_shape(config, segment, layout)[0]
    tokens = num_micro * _tokens(config, layout, segment)  # of a device in a step
    forward = flops_per_token(c, segment.sequence_length) / 3
    flops = segment.batch_tokens / topology.num_devices * forward * (3 + _again(config))
    layer = layer_weights(c)
    passes = 2 if config.compute.reshard_after_forward else 1 / num_micro
    gathers = num_micro * (HALF * passes + FULL) * c.num_layers * layer / tensor * (shards - 1) / shards
    activations = 8 * HALF * tokens * c.num_layers * c.embed_dim * (tensor - 1) / tensor
    keys = (
        3 * 2 * HALF * tokens * context * c.num_layers * c.num_kv_heads * c.head_dim / tensor * (context - 1) / context
    )
    seconds = flops / hardware.peak_flops + (gathers + activations + keys) / hardware.link_bytes
    seconds *= 1 + 0.02 * 128 / config.compute.loss_chunk  # small chunks feed the matrix units badly
    return seconds, sum(estimate_buffers(config, layout, segment).values())


def _kept_width(policy: str, config: PretrainConfig) -> float:
    """Elements per token that a layer keeps besides its input, before the split over tensor."""
    c = config.model
    query, key = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    widths = {"query": query, "key": key, "value": key, "attention": query, "gate": c.mlp_dim, "up": c.mlp_dim}
    widths |= {"residual": c.embed_dim, "attention_residuals": query}
    if policy.startswith("save:"):
        return sum(widths[name] for name in policy.removeprefix("save:").split(","))
    dots = query + 2 * key + 2 * c.mlp_dim + 2 * c.embed_dim
    return {"full": 0, "dots": dots, "none": dots + query + c.mlp_dim + 3 * c.embed_dim}[policy]


def _gentler_than(policy: str) -> tuple[str, ...]:
    """Policies that keep less than `policy`, the one that keeps most first."""
    order = ("none", "dots", "save:query,key,value,attention", "full")
    if policy in order:
        return order[order.index(policy) + 1 :]
    return ("full",)


def _again(config: PretrainConfig) -> float:
    """Forward passes that the backward pass runs again."""
    policy = config.compute.remat
    if policy.startswith("save:"):
        return 1 - _kept_width(policy, config) / _kept_width("none", config)
    return {"none": 0.0, "dots": 0.05, "full": 1.0}[policy]


def _tokens(config: PretrainConfig, layout: Layout, segment: Segment) -> float:
    """Tokens of a micro-batch on one device."""
    _, rows, length = batch_shape(config, segment, layout)
    return rows * length / (layout.size("data") * layout.size("fsdp") * layout.size("context"))


def _bytes(size: str, unit: str) -> int:
    return int(float(size) * _UNITS[unit])
