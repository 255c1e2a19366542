"""Compiles the train step of a run for devices that are not there, and says what it needs and costs (3.3.2).

The program is `train.program.Program`'s own: the bytes, collectives and layout reported are those the run would have.
"""

import dataclasses
import pickle
import resource
import time
from typing import Any

import jax
from jax.experimental import serialize_executable

from llama3_jax.core.sharding import MESH_AXES, make_mesh
from llama3_jax.model.llama import flops_per_token
from llama3_jax.plan.hlo import Collective, Costs, program_costs
from llama3_jax.plan.topology import Hardware, Topology, topology_devices
from llama3_jax.train.program import Program
from llama3_jax.train.recipe import Plan, Segment
from llama3_jax.train.run_config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    arguments: int
    outputs: int
    aliased: int  # outputs written over arguments
    temporaries: int
    code: int
    peak: int  # arguments + outputs - aliased + temporaries + code
    available: int

    @property
    def fits(self) -> bool:
        """True when the device's memory holds the program."""
        return self.peak <= self.available


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled train step and what is known about it."""

    topology: Topology
    program: Program
    segment: Segment
    compiled: jax.stages.Compiled
    memory: Memory
    costs: Costs
    lower_seconds: float
    compile_seconds: float
    host_peak_bytes: int

    @property
    def analytic_flops(self) -> float:
        """FLOPs of a step on one device: causal attention, no rematerialisation, no embedding."""
        per_token = flops_per_token(self.program.config.model, self.segment.sequence_length)
        return per_token * self.segment.batch_tokens / self.topology.num_devices

    @property
    def cycles(self) -> dict[str, float]:
        """Estimated cycles of a step by part; empty where XLA estimates none.

        `matmul` and `other` are XLA's. It has no estimate for kernels and collectives: `attention` is the kernels'
        FLOPs at peak, `collectives` the exposed bytes at the full rate of a device's links; both are lower bounds.
        """
        hardware = self.topology.hardware
        if hardware.clock is None:
            return {}
        return {
            "matmul": self.costs.cycles.get("matmul", 0.0),
            "other": self.costs.cycles.get("other", 0.0),
            "attention": self.costs.attention_flops / hardware.peak_flops * hardware.clock,
            "collectives": link_seconds(self.costs, hardware, exposed=True) * hardware.clock,
        }

    def save(self, path: str) -> None:
        """Writes the executable, for `jax.experimental.serialize_executable.deserialize_and_load` on such devices."""
        with open(path, "wb") as file:
            pickle.dump(serialize_executable.serialize(self.compiled), file)


def choose_segment(plan: Plan, stage: str | None) -> tuple[int, Segment]:
    """Index and segment of `stage`, an index or the name of a stage, whose longest batch is taken.

    None is the initial stage. Raises ValueError with the choices for a stage that the recipe does not have.
    """
    segments = list(enumerate(plan.segments))
    if stage is not None and stage.isdigit() and int(stage) < len(segments):
        return segments[int(stage)]
    named = [(index, segment) for index, segment in segments if segment.stage == (stage or "initial")]
    if not named:
        names = ", ".join(dict.fromkeys(segment.stage for segment in plan.segments))
        raise ValueError(f"the recipe has no stage {stage!r}; there are {names}, or 0 to {len(segments) - 1}")
    return max(named, key=lambda item: item[1].batch_tokens)


def compile_step(config: PretrainConfig, topology: Topology, segment: Segment) -> CompiledStep:
    """Compiles the step of `segment` for `topology`.

    Raises ValueError when the run does not fit the mesh, and what the compiler raises when memory is not enough.
    """
    program = Program(config, make_mesh(config.mesh, topology_devices(topology)))
    start = time.perf_counter()
    with jax.default_device(program.mesh.devices.flat[0]):  # kernels choose their tiles by the device they find
        lowered = program.lower(segment)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return CompiledStep(
        topology=topology,
        program=program,
        segment=segment,
        compiled=compiled,
        memory=_memory(compiled, topology.hardware),
        costs=program_costs(compiled.as_text() or "", dict(program.layout.sizes)),
        lower_seconds=middle - start,
        compile_seconds=end - middle,
        host_peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def link_seconds(costs: Costs, hardware: Hardware, *, exposed: bool) -> float:
    """Least seconds a device's links need for its collectives: every byte sent once, on all links at once."""
    return sum(
        _sent(key) * num_bytes / hardware.link_bytes
        for key, (_, num_bytes) in costs.collectives.items()
        if key.exposed == exposed
    )


def facts(step: CompiledStep) -> dict[str, Any]:
    """Everything measured, as plain values for JSON; bytes, FLOPs and cycles are of one device and one step."""
    shape = step.program.batch_shape(step.segment)
    compute, costs, hardware = step.program.compute, step.costs, step.topology.hardware
    cycles = step.cycles
    seconds = sum(cycles.values()) / hardware.clock if hardware.clock else None
    return {
        "topology": step.topology.name,
        "devices": step.topology.num_devices,
        "mesh": {axis: step.program.layout.size(axis) for axis in MESH_AXES},
        "stage": step.segment.stage,
        "batch_tokens": step.segment.batch_tokens,
        "micro_batches": shape[0],
        "micro_batch_rows": shape[1],
        "sequence_length": shape[2],
        "compute": dataclasses.asdict(compute),
        "memory": {**dataclasses.asdict(step.memory), "fits": step.memory.fits},
        "collectives": [
            {**dataclasses.asdict(key), "count": count, "bytes": num_bytes}
            for key, (count, num_bytes) in sorted(costs.collectives.items())
        ],
        "flops": {
            "matmul": costs.matmul_flops,
            "attention": costs.attention_flops,
            "compiled": costs.matmul_flops + costs.attention_flops,
            "analytic": step.analytic_flops,
        },
        "attention_kernels": {
            name: {"calls": calls, "flops": flops} for name, (calls, flops) in costs.attention.items()
        },
        "cycles": cycles,
        "estimated_seconds": seconds,
        "estimated_mfu": step.analytic_flops / hardware.peak_flops / seconds if seconds else None,
        "overlapped_link_seconds": link_seconds(costs, hardware, exposed=False),
        "unknown_loops": costs.unknown_loops,
        "lower_seconds": step.lower_seconds,
        "compile_seconds": step.compile_seconds,
        "host_peak_bytes": step.host_peak_bytes,
    }


def _memory(compiled: jax.stages.Compiled, hardware: Hardware) -> Memory:
    """`total_allocation_bytes`, where JAX has it, is what libtpu compares with the memory; `temp_size_in_bytes` counts
    buffers that share an allocation once each."""
    stats: Any = compiled.memory_analysis()
    state = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    total = getattr(stats, "total_allocation_bytes", 0) or state + stats.temp_size_in_bytes
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=total - state,
        code=stats.generated_code_size_in_bytes,
        peak=total + stats.generated_code_size_in_bytes,
        available=hardware.memory_bytes,
    )


def _sent(collective: Collective) -> float:
    """The share of a collective's bytes that one device sends."""
    size = collective.group_size or 2
    share = (size - 1) / size
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(collective.kind, share)
