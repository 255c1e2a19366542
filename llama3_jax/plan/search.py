"""Looks for the layout that trains fastest and fits: every legal mesh, micro-batch, remat policy and pipeline (3.3.2).

Candidates are listed, judged by the memory estimate and ranked by the projected step time. Of each split of the model
over stage, context and tensor the best is shown. Why a candidate loses is read off the difference of its parts to the
winner's.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from llama3_jax.core.sharding import MESH_AXES, Layout, MeshConfig
from llama3_jax.plan.memory import MemoryEstimate, estimate_memory
from llama3_jax.plan.project import Projection, project
from llama3_jax.plan.topology import GIB, GPUS_PER_HOST, Hardware
from llama3_jax.plan.work import Share
from llama3_jax.train.program import batch_shape, check_layout
from llama3_jax.train.recipe import Plan, RampStep, RecipeConfig, Segment
from llama3_jax.train.run_config import PretrainConfig, layout_of

HEADROOM = 0.95  # of the memory: the estimate is right to a few percent
REMATS = (
    "none",
    "dots",
    "save:query,key,value,attention,attention_residuals,residual,gate,up",
    "save:query,key,value,attention,attention_residuals,residual",
    "save:query,key,value,residual",
    "full",
)
LARGEST = {"tensor": 16, "stage": 32}  # beyond these nothing was ever faster
SHORTEST = 4096  # tokens of a sequence on one context rank
SHARDS = (8, 64)  # of fsdp, where replicas are more: data takes the rest, or fsdp takes all
MICRO_ROWS = (1, 2, 4, 8)  # rows of a micro-batch in one replica
MORE_DEVICES = 10  # times the devices are doubled to say how many would be enough


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout and what it is estimated to need and take."""

    config: PretrainConfig
    layout: Layout
    memory: MemoryEstimate
    projection: Projection
    available: float  # bytes

    @property
    def fits(self) -> bool:
        """True when the estimate leaves some headroom."""
        return self.memory.peak <= HEADROOM * self.available

    @property
    def mesh(self) -> tuple[tuple[str, int], ...]:
        """Axes larger than one device."""
        return tuple((axis, size) for axis, size in self.layout.sizes if size > 1)

    @property
    def split(self) -> tuple[int, ...]:
        """How one replica of the model is cut: candidates that agree in it differ in details."""
        return tuple(self.layout.size(axis) for axis in ("stage", "context", "tensor"))

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step."""
        (segment,) = Plan(self.config.recipe).segments
        return batch_shape(self.config, segment, self.layout)[0]

    def flags(self) -> list[str]:
        """The settings that make a run use this layout, as on the command line."""
        compute, pipeline = self.config.compute, self.config.pipeline
        settings = {f"mesh.{axis}": self.layout.size(axis) for axis in MESH_AXES}
        settings |= {"micro_batch_tokens": self.config.micro_batch_tokens, "compute.remat": compute.remat}
        if self.layout.size("stage") > 1:
            settings |= {"pipeline.chunks": pipeline.chunks, "pipeline.vocabulary": pipeline.vocabulary}
        else:
            settings["compute.reshard_after_forward"] = compute.reshard_after_forward
        return [f"--config.{name}={value}" for name, value in settings.items()]


def alone(config: PretrainConfig, segment: Segment) -> PretrainConfig:
    """`config` with a recipe of this segment only: what is planned need not suit the others."""
    ramp = RampStep(tokens=0, sequence_length=segment.sequence_length, batch_tokens=segment.batch_tokens)
    recipe = RecipeConfig(
        total_tokens=segment.batch_tokens,
        ramp=(ramp,),
        mixture=config.recipe.mixture[:1],
        learning_rate=config.recipe.learning_rate,
        rope_scaling_from="initial" if segment.rope_scaling else "long_context",
    )
    return dataclasses.replace(config, recipe=recipe)


def candidates(config: PretrainConfig, devices: int, hardware: Hardware) -> Iterator[Candidate]:
    """Every legal candidate for a config whose recipe has one segment (`alone`), whether it fits or not."""
    plan = Plan(config.recipe)
    (segment,) = plan.segments
    for sizes in meshes(devices, hardware, segment.batch_rows, segment.sequence_length):
        for changed in _uses(dataclasses.replace(config, mesh=MeshConfig(**sizes)), sizes, segment):
            layout = layout_of(changed, sizes)
            if is_legal(changed, plan, layout):
                yield judge(changed, layout, segment, hardware)


def judge(config: PretrainConfig, layout: Layout, segment: Segment, hardware: Hardware) -> Candidate:
    """The candidate that `config` on `layout` is."""
    share = Share(config, layout, segment, kernel_names_residuals=hardware.platform != "cuda")
    memory = estimate_memory(share, hardware.platform)
    return Candidate(config, layout, memory, project(share, hardware), hardware.memory_bytes)


def is_legal(config: PretrainConfig, plan: Plan, layout: Layout) -> bool:
    """Whether model, batches and sequences can be split like this; `train.program.check_layout` says why not."""
    try:
        check_layout(config, plan, layout)
    except ValueError:
        return False
    return True


def meshes(devices: int, hardware: Hardware, rows: int, length: int) -> Iterator[dict[str, int]]:
    """Axis sizes for this many devices and a batch of rows of this length; the tensor axis stays in its host."""
    widest = min(LARGEST["tensor"], GPUS_PER_HOST if hardware.platform == "cuda" else LARGEST["tensor"])
    for tensor, context, stage in itertools.product(
        _powers(widest), _powers(max(1, length // SHORTEST)), _powers(LARGEST["stage"])
    ):
        replicas, left = divmod(devices, tensor * context * stage)
        if left or replicas > rows or not replicas:
            continue
        for fsdp in (replicas, *(size for size in SHARDS if size < replicas and replicas % size == 0)):
            yield {"data": replicas // fsdp, "fsdp": fsdp, "stage": stage, "context": context, "tensor": tensor}


def _uses(config: PretrainConfig, sizes: dict[str, int], segment: Segment) -> Iterator[PretrainConfig]:
    """Ways to use a mesh: rows of a micro-batch, remat policy, and pipeline or weights kept.

    The vocabulary is split over the stages where it divides: all ranks then share what would be every rank's to do.
    """
    stages, replicas = sizes["stage"], sizes["data"] * sizes["fsdp"]
    for rows, remat in itertools.product(MICRO_ROWS, REMATS):
        micro = rows * replicas * segment.sequence_length
        if segment.batch_tokens % micro:
            continue
        compute = dataclasses.replace(config.compute, remat=remat)
        if stages == 1:
            for reshard in (True, False):
                used = dataclasses.replace(compute, reshard_after_forward=reshard)
                yield dataclasses.replace(config, micro_batch_tokens=micro, compute=used)
            continue
        most = (config.model.num_layers + 2) // stages
        vocabulary = "ends" if config.model.vocab_size % (stages * sizes["tensor"]) else "stages"
        for chunks in _powers(most):
            pipeline = dataclasses.replace(config.pipeline, chunks=chunks, group=None, vocabulary=vocabulary)
            yield dataclasses.replace(config, micro_batch_tokens=micro, compute=compute, pipeline=pipeline)


def _powers(largest: int) -> list[int]:
    """Powers of 2 up to `largest`."""
    return [2**power for power in range(largest.bit_length())]


def ranked(found: Iterable[Candidate]) -> list[Candidate]:
    """The best that fits of each split of the model, fastest first."""
    best: dict[tuple, Candidate] = {}
    for candidate in found:
        known = best.get(candidate.split)
        if candidate.fits and (known is None or candidate.projection.step < known.projection.step):
            best[candidate.split] = candidate
    return sorted(best.values(), key=lambda candidate: candidate.projection.step)


def too_large(found: Iterable[Candidate], winner: Candidate, count: int) -> list[Candidate]:
    """Those that would beat the winner but do not fit, the smallest of each split of the model."""
    best: dict[tuple, Candidate] = {}
    for candidate in found:
        if candidate.fits or candidate.projection.step >= winner.projection.step:
            continue
        known = best.get(candidate.split)
        if known is None or candidate.memory.peak < known.memory.peak:
            best[candidate.split] = candidate
    return sorted(best.values(), key=lambda candidate: candidate.memory.peak)[:count]


def why(candidate: Candidate, winner: Candidate) -> str:
    """Why it is not the winner, in a few words."""
    if not candidate.fits:
        name, size = max(candidate.memory.parts.items(), key=lambda item: item[1])
        needed, available = candidate.memory.peak / GIB, HEADROOM * candidate.available / GIB
        return f"does not fit: {needed:.0f} of {available:.0f} GiB, {name} {size / GIB:.0f}"
    slower = candidate.projection.step / winner.projection.step - 1
    if slower <= 0:
        return "the fastest that fits"
    mine, best = candidate.projection.seconds, winner.projection.seconds
    lost = {part: seconds - best.get(part, 0.0) for part, seconds in mine.items()}
    part = max(lost, key=lambda name: lost[name])
    return f"{slower:.1%} slower: {part} {_share(lost[part], winner)}"


def _share(seconds: float, winner: Candidate) -> str:
    return f"+{seconds / winner.projection.step:.0%} of the step"


def no_layout(found: Sequence[Candidate], config: PretrainConfig, devices: int, hardware: Hardware) -> str:
    """One sentence: what comes closest, what it lacks, and how many devices would be enough."""
    where = f"{devices} {hardware.name}"
    if not found:
        (segment,) = Plan(config.recipe).segments
        return (
            f"no layout of {where} divides this model and its batch of {segment.batch_rows} rows of "
            f"{segment.sequence_length} tokens; take a power of two of devices, at most {segment.batch_rows} replicas"
        )
    nearest = min(found, key=lambda candidate: candidate.memory.peak)
    mesh = " x ".join(f"{axis} {size}" for axis, size in nearest.mesh) or "one device"
    name, size = max(nearest.memory.parts.items(), key=lambda item: item[1])
    more, usable = _enough(config, devices, hardware), HEADROOM * hardware.memory_bytes / GIB
    return (
        f"no layout of {where} holds this step in {usable:.1f} GiB: the nearest, {mesh} "
        f"with {nearest.micro_batches} micro-batches and remat {nearest.config.compute.remat}, needs "
        f"{nearest.memory.peak / GIB:.1f} ({name} {size / GIB:.1f}); "
        + (f"{more} devices are enough" if more else "more devices do not help")
    )


def _enough(config: PretrainConfig, devices: int, hardware: Hardware) -> int | None:
    for doubled in range(1, MORE_DEVICES + 1):
        more = devices * 2**doubled
        if any(candidate.fits for candidate in candidates(config, more, hardware)):
            return more
    return None
