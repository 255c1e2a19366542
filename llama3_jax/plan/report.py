"""The findings of `llama3 compile` as a person reads them."""

from collections.abc import Sequence

from llama3_jax.core.sharding import MESH_AXES
from llama3_jax.plan.compiled import CompiledStep, Memory
from llama3_jax.plan.remedies import Shortage, WayOut
from llama3_jax.plan.topology import GIB, Topology
from llama3_jax.train.recipe import Segment

Row = Sequence[str]


def report(step: CompiledStep) -> str:
    """Everything but the verdict, one table after the other."""
    hardware = step.topology.hardware
    parts = [_head(step), _memory_table(step.memory), _collectives_table(step), _flops_table(step)]
    if hardware.clock is not None:
        parts.append(_cycles_table(step, hardware.clock))
    if step.costs.unknown_loops:
        parts.append(f"{step.costs.unknown_loops} loops run as often as the data say; each is counted as one turn")
    parts.append(
        f"lowered in {step.lower_seconds:.1f} s, compiled in {step.compile_seconds:.1f} s, "
        f"{step.host_peak_bytes / GIB:.1f} GiB of this machine's memory at most"
    )
    return "\n\n".join(parts)


def describe_segment(index: int, segment: Segment) -> str:
    """Which part of the recipe is compiled."""
    return (
        f"stage {segment.stage} (segment {index}): batches of {segment.batch_tokens:,} tokens, "
        f"{segment.batch_rows:,} rows of {segment.sequence_length:,}"
    )


def verdict(memory: Memory) -> str:
    """The last line."""
    return verdict_of(memory.peak, memory.available)


def verdict_of(needed: float, available: float) -> str:
    """`fits` or `does not fit`, and by how much."""
    word = "fits" if needed <= available else "does not fit"
    return f"{word}: {needed / GIB:.2f} GiB of {available / GIB:.2f} GiB per device"


def shortage_report(shortage: Shortage, estimated: dict[str, float], ways: Sequence[WayOut]) -> str:
    """The largest buffers and the ways out."""
    if shortage.buffers:
        rows = [(f"{size / GIB:.2f}", name) for name, size in shortage.buffers[:6]]
        lines = table([("GiB", "largest buffers, by the compiler"), *rows])
    else:
        largest = sorted(estimated.items(), key=lambda item: -item[1])[:6]
        rows = [(f"{size / GIB:.2f}", name) for name, size in largest]
        lines = table([("GiB", "largest buffers, estimated from the config: the compiler names none"), *rows])
    if not ways:
        return "\n".join([*lines, "", "no change of remat, micro-batch, loss chunk or mesh helps: take more devices"])
    rows = [(f"{way.saves / GIB:.2f}", f"{way.costs:+.1%}", "yes" if way.enough else "no", way.flags) for way in ways]
    return "\n".join([*lines, "", *table([("saves GiB", "time", "enough", "cheapest ways out, estimated"), *rows])])


def table(rows: Sequence[Row]) -> list[str]:
    """Columns padded to their widest cell, all but the last to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths[:-1], strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def describe_run(topology: Topology, mesh: dict[str, int]) -> str:
    """Devices and mesh."""
    axes = " x ".join(f"{axis} {mesh[axis]}" for axis in MESH_AXES if mesh[axis] > 1)
    return f"{topology}: {axes or 'one device'}"


def _head(step: CompiledStep) -> str:
    num_micro, rows, length = step.program.batch_shape(step.segment)
    compute = step.program.compute
    mesh = {axis: step.program.layout.size(axis) for axis in MESH_AXES}
    return "\n".join(
        [
            describe_run(step.topology, mesh),
            f"{num_micro} micro-batch{'es' * (num_micro > 1)} of {rows:,} rows of {length:,} tokens; "
            f"attention {compute.attention}, remat {compute.remat}, loss chunk {compute.loss_chunk}",
        ]
    )


def _memory_table(memory: Memory) -> str:
    rows = [
        ("arguments", memory.arguments),
        ("outputs", memory.outputs),
        ("written over arguments", -memory.aliased),
        ("temporaries", memory.temporaries),
        ("code", memory.code),
        ("peak", memory.peak),
    ]
    return "\n".join(table([("GiB", "memory per device"), *((f"{size / GIB:.3f}", name) for name, size in rows)]))


def _collectives_table(step: CompiledStep) -> str:
    rows: list[Row] = [("count", "GB", "group", "waited for", "collectives per step and device")]
    for key, (count, num_bytes) in sorted(step.costs.collectives.items(), key=lambda item: -item[1][1]):
        waited = "yes" if key.exposed else "no"
        rows.append((f"{count:,.0f}", f"{num_bytes / 1e9:,.3f}", str(key.group_size), waited, f"{key.kind} {key.axis}"))
    return "\n".join(table(rows)) if len(rows) > 1 else "no collectives"


def _flops_table(step: CompiledStep) -> str:
    costs, analytic = step.costs, step.analytic_flops
    compiled = costs.matmul_flops + costs.attention_flops
    rows: list[Row] = [("TFLOP", "per step and device"), (f"{costs.matmul_flops / 1e12:,.3f}", "matmuls")]
    rows += [
        (f"{flops / 1e12:,.3f}", f"attention {name}, causal, {calls:,.0f} calls")
        for name, (calls, flops) in costs.attention.items()
    ]
    rows.append((f"{compiled / 1e12:,.3f}", "compiled, rematerialisation included"))
    share = f": {analytic / compiled:.0%}" if compiled else ""
    rows.append((f"{analytic / 1e12:,.3f}", f"the model's own, causal, without rematerialisation{share}"))
    return "\n".join(table(rows))


def _cycles_table(step: CompiledStep, clock: float) -> str:
    names = {
        "matmul": "matmuls and what is fused with them, XLA's estimate",
        "other": "other fusions and copies, XLA's estimate",
        "attention": "attention kernels, at peak",
        "collectives": "collectives waited for, at the links' full rate",
    }
    cycles = step.cycles
    total = sum(cycles.values())
    rows: list[Row] = [("Mcycles", "seconds", "estimated, per step")]
    rows += [(f"{cycles[key] / 1e6:,.1f}", f"{cycles[key] / clock:,.3f}", name) for key, name in names.items()]
    mfu = step.analytic_flops / step.topology.hardware.peak_flops / (total / clock) if total else 0.0
    rows.append((f"{total / 1e6:,.1f}", f"{total / clock:,.3f}", f"all, one after the other: {mfu:.1%} MFU (causal)"))
    return "\n".join(table(rows))
