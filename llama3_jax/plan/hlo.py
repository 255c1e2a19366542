"""What a compiled program costs, read from its optimised HLO: FLOPs, collectives by mesh axis, estimated cycles.

XLA's own `cost_analysis()` counts the body of a loop once. Here a loop counts as often as it runs, a fusion as often as
it is called, and of a conditional the branch that costs most.

Bytes of a collective are those of the whole array on one device: the gathered result of an all-gather, the input of a
reduce-scatter, all-reduce, all-to-all or collective-permute. TPU programs write reduce-scatter as a fusion of an
all-reduce and a slice; it is counted as the reduce-scatter it is.

A collective is `exposed` when the program waits for it: everything but the -start forms, which other work
overlaps, unless the GPU compiler marked one as synchronous.
"""

import dataclasses
import re
from collections.abc import Mapping

from llama3_jax.plan.hlo_flops import attention_call_flops, convolution_flops, dot_flops, gemm_call_flops
from llama3_jax.plan.hlo_loops import trip_count
from llama3_jax.plan.hlo_text import Computation, Instruction, entry, parse
from llama3_jax.plan.replica_groups import AxisNames

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_KINDS = {name + form: name for name in COLLECTIVES for form in ("", "-start")} | {"collective-broadcast": "all-gather"}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NO_ESTIMATE = 2**62  # XLA writes the largest integer where its model of cycles has nothing to say
_SCATTER_FUSION = "all-reduce-scatter"  # libtpu's name for an all-reduce fused with the slice that each device keeps
_FLOPS = {"dot": dot_flops, "convolution": convolution_flops}


@dataclasses.dataclass(frozen=True, order=True)
class Collective:
    """Collectives of one sort."""

    kind: str
    axis: str  # mesh axes joined with +, `self` for groups of one device, `other` for groups no axes give
    group_size: int
    exposed: bool


@dataclasses.dataclass
class Costs:
    """Totals of one device for one run of a program or a part of it."""

    matmul_flops: float = 0.0
    attention: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)  # pass -> calls, FLOPs
    collectives: dict[Collective, tuple[float, float]] = dataclasses.field(default_factory=dict)  # -> count, bytes
    cycles: dict[str, float] = dataclasses.field(default_factory=dict)  # matmul, other -> XLA's estimate
    unknown_loops: int = 0  # loops whose trip count cannot be read; each is counted as one turn

    def add(self, other: "Costs", times: float = 1.0) -> None:
        """Adds `times` runs of `other`."""
        self.matmul_flops += times * other.matmul_flops
        self.unknown_loops += other.unknown_loops
        _add_pairs(self.attention, other.attention, times)
        _add_pairs(self.collectives, other.collectives, times)
        for key, amount in other.cycles.items():
            self.cycles[key] = self.cycles.get(key, 0.0) + times * amount

    @property
    def attention_flops(self) -> float:
        """FLOPs of all attention kernels."""
        return sum(flops for _, flops in self.attention.values())


def _add_pairs(mine: dict, theirs: Mapping, times: float) -> None:
    for key, (count, amount) in theirs.items():
        before = mine.get(key, (0.0, 0.0))
        mine[key] = (before[0] + times * count, before[1] + times * amount)


def program_costs(text: str, mesh_sizes: Mapping[str, int]) -> Costs:
    """Costs of one device for one run of the program with HLO `text` on a mesh of `mesh_sizes`, outermost axis first.

    Raises ValueError when `text` is not an HLO module.
    """
    computations = parse(text)
    return _Reader(computations, AxisNames(mesh_sizes)).costs(entry(computations))


class _Reader:
    """Costs of computations, each worked out once however many places call it."""

    def __init__(self, computations: Mapping[str, Computation], axes: AxisNames):
        self._computations, self._axes = computations, axes
        self._known: dict[str, Costs] = {}

    def costs(self, computation: Computation) -> Costs:
        """Totals of one run of `computation`."""
        if computation.name not in self._known:
            total = Costs()
            for instruction in computation.instructions.values():
                self._count(instruction, computation, total)
            self._known[computation.name] = total
        return self._known[computation.name]

    def _called(self, instruction: Instruction, *attributes: str) -> Costs:
        for attribute in attributes:
            name = instruction.called(attribute)
            if name is not None and name in self._computations:
                return self.costs(self._computations[name])
        return Costs()

    def _count(self, instruction: Instruction, computation: Computation, total: Costs) -> None:
        opcode = instruction.opcode
        if opcode == "while":
            turns = trip_count(instruction, computation, self._computations)
            total.unknown_loops += turns is None
            total.add(self._called(instruction, "body"), 1 if turns is None else turns)
        elif opcode == "conditional":
            total.add(self._costliest_branch(instruction))
        elif opcode == "fusion":
            self._count_fusion(instruction, total)
        elif opcode in ("call", "call-start"):
            total.add(self._called(instruction, "to_apply"))
        elif opcode == "async-start":
            total.add(_overlapped(self._called(instruction, "calls")))
        elif opcode in _KINDS:
            self._count_collective(instruction, computation, total)
        elif opcode in _FLOPS:
            flops = _FLOPS[opcode](instruction, computation)
            total.matmul_flops += flops
            _count_cycles(instruction, "matmul", total)
        elif opcode == "custom-call":
            self._count_custom_call(instruction, computation, total)
        else:
            _count_cycles(instruction, "other", total)

    def _count_fusion(self, instruction: Instruction, total: Costs) -> None:
        inside = self._called(instruction, "calls")
        if (instruction.called("calls") or "").startswith(_SCATTER_FUSION):
            inside = _as_reduce_scatter(inside)
        cycles = _estimated_cycles(instruction)
        if cycles is not None:
            inside = dataclasses.replace(inside, cycles={"matmul" if inside.matmul_flops else "other": cycles})
        total.add(inside)

    def _count_collective(self, instruction: Instruction, computation: Computation, total: Costs) -> None:
        pairs = instruction.attribute("source_target_pairs")
        groups = instruction.attribute("replica_groups")
        axis, size = self._axes.of_groups(groups) if pairs is None else self._axes.of_pairs(pairs)
        kind = _KINDS[instruction.opcode]
        num_bytes = sum(array.num_bytes for array in computation.operand_arrays(instruction))
        if kind == "all-gather":
            num_bytes *= max(size, 1)
        waits = not instruction.opcode.endswith("-start") or '"is_sync":true' in instruction.text
        key = Collective(kind, axis, size, exposed=waits)
        total.add(Costs(collectives={key: (1.0, float(num_bytes))}))

    def _count_custom_call(self, instruction: Instruction, computation: Computation, total: Costs) -> None:
        attention = attention_call_flops(instruction, computation)
        if attention is not None:
            total.add(Costs(attention={attention[0]: (1.0, attention[1])}))
            return
        flops = gemm_call_flops(instruction, computation)
        total.matmul_flops += flops
        _count_cycles(instruction, "matmul" if flops else "other", total)

    def _costliest_branch(self, instruction: Instruction) -> Costs:
        listed = instruction.attribute("branch_computations")
        names = re.findall(r"[\w.\-]+", listed or "")
        names += [instruction.called(f"{side}_computation") for side in ("true", "false")]
        branches = [self.costs(self._computations[name]) for name in names if name in self._computations]
        return max(
            branches, key=lambda c: (sum(c.cycles.values()), c.matmul_flops + c.attention_flops), default=Costs()
        )


def _estimated_cycles(instruction: Instruction) -> float | None:
    found = _CYCLES.search(instruction.text)
    return float(found[1]) if found and int(found[1]) < _NO_ESTIMATE else None


def _count_cycles(instruction: Instruction, category: str, total: Costs) -> None:
    total.cycles[category] = total.cycles.get(category, 0.0) + (_estimated_cycles(instruction) or 0.0)


def _overlapped(costs: Costs) -> Costs:
    """The same work, started here and waited for later."""
    moved = Costs()
    for key, value in costs.collectives.items():
        moved.add(Costs(collectives={dataclasses.replace(key, exposed=False): value}))
    return dataclasses.replace(costs, collectives=moved.collectives)


def _as_reduce_scatter(costs: Costs) -> Costs:
    renamed = {
        dataclasses.replace(key, kind="reduce-scatter") if key.kind == "all-reduce" else key: value
        for key, value in costs.collectives.items()
    }
    return dataclasses.replace(costs, collectives=renamed)
