"""The findings of `llama3 plan` as a person reads them, and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama3_jax.plan.compiled import CompiledStep
from llama3_jax.plan.report import Row, table
from llama3_jax.plan.search import Candidate, why
from llama3_jax.plan.topology import GIB

SHOWN = 0.005  # parts smaller than this share are not worth a line


def ranking(shown: Sequence[Candidate], larger: Sequence[Candidate]) -> str:
    """The best layouts, fastest first, and those that memory rules out."""
    winner = shown[0]
    rows: list[Row] = [("", "MFU", "seconds", "GiB", "micro-batches", "layout", "remat", "why")]
    rows += [_row(str(place), candidate, winner) for place, candidate in enumerate(shown, 1)]
    rows += [_row("-", candidate, winner) for candidate in larger]
    return "\n".join(_aligned(rows))


def _row(place: str, candidate: Candidate, winner: Candidate) -> Row:
    projection = candidate.projection
    return (
        place,
        f"{projection.mfu():.1%}",
        f"{projection.step:.2f}",
        f"{candidate.memory.peak / GIB:.1f}",
        str(candidate.micro_batches),
        describe(candidate),
        candidate.config.compute.remat,
        why(candidate, winner),
    )


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Numbers to the right, words to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = 5
    return [
        "  ".join(
            cell.rjust(width) if column < numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def describe(candidate: Candidate) -> str:
    """Mesh and what goes with it."""
    words = [f"{axis} {size}" for axis, size in candidate.mesh] or ["one device"]
    if candidate.layout.size("stage") > 1:
        pipeline = candidate.config.pipeline
        words.append(f"chunks {pipeline.chunks}" + (", vocabulary ends" if pipeline.vocabulary == "ends" else ""))
    elif not candidate.config.compute.reshard_after_forward:
        words.append("weights kept")
    return " · ".join(words)


def breakdown(candidate: Candidate) -> str:
    """Where the winner's time and memory go, and the settings that choose it."""
    projection = candidate.projection
    lines = [
        *_parts("seconds", "of a step", projection.seconds, 1.0, projection.step),
        f"{projection.tokens / projection.step / candidate.layout.num_devices([a for a, _ in candidate.mesh]):,.0f} "
        f"tokens a second and device; MFU {projection.mfu():.1%} with causal attention counted, "
        f"{projection.mfu(causal=False):.1%} with all of it; head counted, rematerialisation not",
        "",
        *_parts("GiB", "of a device at the peak", candidate.memory.parts, GIB, candidate.memory.peak),
        "",
        "settings: " + " ".join(candidate.flags()),
    ]
    return "\n".join(lines)


def _parts(unit: str, title: str, parts: Mapping[str, float], scale: float, total: float) -> list[str]:
    shown = sorted(((n, v) for n, v in parts.items() if v >= SHOWN * total), key=lambda item: -item[1])
    rows: list[Row] = [(unit, "", title), (f"{total / scale:.2f}", "", "all")]
    rows += [(f"{value / scale:.2f}", f"{value / total:.0%}", name) for name, value in shown]
    return table(rows)


def comparison(candidate: Candidate, step: CompiledStep) -> str:
    """Predicted against compiled."""
    predicted, compiled = candidate.memory.peak, step.memory.peak
    lines = [
        f"{describe(candidate)}, remat {candidate.config.compute.remat}: {predicted / GIB:.2f} GiB predicted, "
        f"{compiled / GIB:.2f} compiled ({predicted / compiled - 1:+.1%})"
    ]
    if step.topology.hardware.clock is not None:
        seconds = sum(step.cycles.values()) / step.topology.hardware.clock
        counted = ", the head counted in every tick" if candidate.layout.size("stage") > 1 else ""
        lines.append(
            f"  {candidate.projection.step:.2f} s projected; {seconds:.2f} s by the compiler's cycles{counted}"
        )
    return "\n".join(lines)


def facts(candidate: Candidate, winner: Candidate) -> dict[str, Any]:
    """A candidate as plain values."""
    return {
        "mesh": dict(candidate.layout.sizes),
        "flags": candidate.flags(),
        "micro_batches": candidate.micro_batches,
        "remat": candidate.config.compute.remat,
        "seconds": candidate.projection.step,
        "seconds_by_part": candidate.projection.seconds,
        "mfu_causal": candidate.projection.mfu(),
        "mfu_full": candidate.projection.mfu(causal=False),
        "bytes": candidate.memory.peak,
        "bytes_by_part": candidate.memory.parts,
        "available_bytes": candidate.available,
        "fits": candidate.fits,
        "why": why(candidate, winner),
    }
