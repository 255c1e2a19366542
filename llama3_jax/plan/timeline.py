"""Pipeline schedules to look at: as text, tick by tick, and as a picture of ranks over time (Llama 3, 3.3.2, Figure 6).

All ranks keep step: a tick lasts as long as a forward, a backward or both, whatever some rank runs in it, and a rank
that has nothing to run then is idle. The tables of docs/pipeline.md are made here.
"""

import dataclasses
import itertools
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, colors
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch

from llama3_jax.parallel.schedule import IDLE, Schedule

LETTERS = string.ascii_lowercase + string.ascii_uppercase  # of chunks, in text
SHADES = {False: "Blues", True: "Oranges"}  # of forwards, of backwards: from dark for the first chunk to light
PHASES = {(True, False): "forward", (True, True): "one forward, one backward", (False, True): "backward"}
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
POINTS = 72  # per inch
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 13.33, 0.65, 0.25, 1.05, 0.6  # inches: of a slide, and its margins
THICKNESS = 0.84  # of a block, where ranks are 1 apart
SMALLEST_FONT = 4.2  # points


@dataclasses.dataclass(frozen=True)
class Block:
    """One pass in time, as a picture shows it."""

    rank: int
    start: float  # seconds
    seconds: float
    backward: bool
    chunk: int  # number among the rank's own chunks
    micro: int


def schedule_table(schedule: Schedule) -> str:
    """Two lines a rank, forwards and backwards; a column a tick; a bar where a phase begins.

    A cell is the rank's own chunk as a letter and the micro-batch: chunk b of rank r is stage P + r. Raises ValueError
    for more chunks than letters.
    """
    if schedule.chunks > len(LETTERS):
        raise ValueError(f"a table has letters for {len(LETTERS)} chunks a rank, not for {schedule.chunks}")
    ticks = [str(tick) for tick in range(schedule.ticks)]
    lines = [("tick", ticks)]
    for rank in range(schedule.ranks):
        for name, table in (("F", schedule.forward), ("B", schedule.backward)):
            passes = zip(table.chunk_TP[:, rank], table.micro_TP[:, rank], strict=True)
            cells = ["." if micro == IDLE else f"{LETTERS[chunk]}{micro}" for chunk, micro in passes]
            lines.append((f"{rank} {name}", cells))
    width = max(len(cell) for _, cells in lines for cell in cells)
    begins = {phase.start for phase in schedule.phases}
    bars = ["|" if tick in begins else " " for tick in range(schedule.ticks)]
    return "\n".join(
        f"{label:>4} " + "".join(bar + cell.rjust(width) for bar, cell in zip(bars, cells, strict=True))
        for label, cells in lines
    )


def costs_table(schedules: Sequence[Schedule]) -> str:
    """Ticks, bubble and slots of schedules, as Markdown."""
    head = ("schedule", "P", "V", "M", "N", "ticks", "bubble", "(P-1)/(V·M)", "input slots", "gradient slots")
    rows = [
        (s.kind, s.ranks, s.chunks, s.micro_batches, s.group, s.ticks, f"{s.bubble():.1%}",
         f"{(s.ranks - 1) / (s.chunks * s.micro_batches):.1%}", s.input_slots, s.gradient_slots)
        for s in schedules
    ]  # fmt: skip
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, rule, *rows))


def tick_starts(schedule: Schedule, forward_seconds: float, backward_seconds: float) -> np.ndarray:
    """When each tick begins, and when the last one ends, in seconds. [ticks + 1]."""
    lengths = np.zeros(schedule.ticks + 1)
    for phase in schedule.phases:
        lengths[phase.start + 1 : phase.stop + 1] = forward_seconds * phase.forward + backward_seconds * phase.backward
    return np.cumsum(lengths)


def lay_out(schedule: Schedule, forward_seconds: float, backward_seconds: float) -> list[Block]:
    """All passes of all ranks in time, when a chunk's forward and backward take that long."""
    starts = tick_starts(schedule, forward_seconds, backward_seconds)
    forwards = {tick: phase.forward for phase in schedule.phases for tick in range(phase.start, phase.stop)}
    blocks = []
    for backward, table in ((False, schedule.forward), (True, schedule.backward)):
        for tick, rank in np.argwhere(table.micro_TP != IDLE).tolist():
            start = float(starts[tick]) + forward_seconds * (backward and forwards[tick])
            seconds = backward_seconds if backward else forward_seconds
            chunk, micro = int(table.chunk_TP[tick, rank]), int(table.micro_TP[tick, rank])
            blocks.append(Block(rank, start, seconds, backward, chunk, micro))
    return blocks


def draw_timeline(schedule: Schedule, forward_seconds: float, backward_seconds: float, file: str) -> None:
    """Draws ranks over time into a PNG as wide as a slide, with numbers of micro-batches where they fit.

    What is left white is the bubble. The seconds are those of one chunk and one micro-batch.
    """
    height = TOP + BOTTOM + min(0.55 * schedule.ranks, 5.8)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / height))
    starts = tick_starts(schedule, forward_seconds, backward_seconds)
    axes.set_xlim(0, starts[-1])
    axes.set_ylim(schedule.ranks - 0.5, -0.5)
    blocks = lay_out(schedule, forward_seconds, backward_seconds)
    for backward in (False, True):
        _draw_blocks(axes, [block for block in blocks if block.backward == backward], schedule)
    _draw_phases(axes, schedule, starts)
    _draw_frame(axes, schedule)
    _draw_title(figure, schedule, forward_seconds, backward_seconds)
    _draw_legend(figure, schedule)
    narrowest = _inches(axes)[0] * min(forward_seconds, backward_seconds) / starts[-1]
    figure.savefig(file, dpi=min(max(160.0, 2 / narrowest), 320.0))  # two pixels for the narrowest block


def _draw_blocks(axes: Axes, blocks: Sequence[Block], schedule: Schedule) -> None:
    """All forwards or all backwards, numbered if a number fits."""
    colours = _shades(blocks[0].backward, schedule.chunks)
    inches_wide, inches_high = _inches(axes)
    wide = POINTS * inches_wide * blocks[0].seconds / axes.get_xlim()[1]  # of one block
    high = POINTS * inches_high * THICKNESS / schedule.ranks
    edge = min(0.8, 0.1 * wide) if wide > 2 else 0.0
    faces = [colours[block.chunk] for block in blocks]
    axes.add_collection(
        PolyCollection(
            [_corners(block) for block in blocks],
            facecolors=faces,
            edgecolors="white" if edge else faces,
            linewidths=edge,
        )
    )
    digits = len(str(schedule.micro_batches - 1))
    font = min(10.0, 0.55 * high, (wide - 2 * edge) / (0.68 * digits))
    if font < SMALLEST_FONT:
        return
    for block in blocks:
        axes.text(
            block.start + block.seconds / 2, block.rank, str(block.micro), fontsize=font,
            ha="center", va="center_baseline", color=_ink(colours[block.chunk]),
        )  # fmt: skip


def _corners(block: Block) -> list[tuple[float, float]]:
    left, right = block.start, block.start + block.seconds
    top, bottom = block.rank - THICKNESS / 2, block.rank + THICKNESS / 2
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _draw_phases(axes: Axes, schedule: Schedule, starts: np.ndarray) -> None:
    """What all ranks run, above the ranks, and thin lines between."""
    points = POINTS * _inches(axes)[0] / starts[-1]
    for (forward, backward), phases in itertools.groupby(
        schedule.phases, lambda phase: (phase.forward, phase.backward)
    ):
        run = list(phases)
        start, stop = starts[run[0].start], starts[run[-1].stop]
        if start > 0:
            axes.axvline(start, color="0.35", linewidth=0.8, linestyle=(0, (2, 2)), zorder=3)
        name = PHASES[forward, backward]
        if (stop - start) * points > 5 * len(name):
            axes.annotate(
                name, ((start + stop) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
                textcoords="offset points", ha="center", va="bottom", fontsize=9, color="0.35",
            )  # fmt: skip


def _draw_frame(axes: Axes, schedule: Schedule) -> None:
    scale, unit = _unit(axes.get_xlim()[1])
    axes.set_yticks(range(schedule.ranks))
    axes.set_ylabel("rank")
    axes.set_xlabel(f"time ({unit})")
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds / scale:g}")
    axes.tick_params(left=False, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_title(figure: Figure, schedule: Schedule, forward_seconds: float, backward_seconds: float) -> None:
    height = figure.get_figheight()
    shape = f"P = {schedule.ranks}, V = {schedule.chunks}, M = {schedule.micro_batches}, N = {schedule.group}"
    title = f"{shape}: bubble {schedule.bubble(forward_seconds, backward_seconds):.1%}"
    forward, backward = (_duration(seconds) for seconds in (forward_seconds, backward_seconds))
    costs = f"{schedule.kind}; a chunk takes {forward} forward, {backward} backward; all ranks keep step"
    figure.text(LEFT / WIDTH, 1 - 0.15 / height, title, va="top", fontsize=15, fontweight="bold")
    figure.text(LEFT / WIDTH, 1 - 0.46 / height, costs, va="top", fontsize=9, color="0.35")


def _draw_legend(figure: Figure, schedule: Schedule) -> None:
    forward, backward = ([Patch(color=colour) for colour in _shades(kind, schedule.chunks)] for kind in (False, True))
    idle = Patch(facecolor="white", edgecolor="0.6", linewidth=0.6)
    handles: list[Any] = [tuple(forward), tuple(backward), idle]  # the stubs know nothing of tuples
    chunks = "" if schedule.chunks == 1 else f", chunks 0 to {schedule.chunks - 1}"
    figure.legend(
        handles, [f"forward{chunks}", f"backward{chunks}", "idle"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)}, handlelength=min(max(2.0, 0.6 * schedule.chunks), 8.0),
        loc="upper right", bbox_to_anchor=(1 - 0.1 / WIDTH, 1 - 0.1 / figure.get_figheight()),
        ncols=3, frameon=False, fontsize=9,
    )  # fmt: skip


def _unit(seconds: float) -> tuple[float, str]:
    """The largest unit that a time has at least one of, in seconds, and its name."""
    return next(((scale, unit) for scale, unit in UNITS if seconds >= scale), UNITS[-1])


def _duration(seconds: float) -> str:
    scale, unit = _unit(seconds)
    return f"{seconds / scale:.3g} {unit}"


def _shades(backward: bool, chunks: int) -> list[str]:
    """A colour for each chunk, far enough from white for all to be told from the bubble."""
    shades = np.linspace(0.8, 0.3, chunks) if chunks > 1 else [0.7]
    return [colors.to_hex(colormaps[SHADES[backward]](shade)) for shade in shades]


def _ink(colour: str) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = colors.to_rgb(colour)
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "black"


def _inches(axes: Axes) -> tuple[float, float]:
    """Width and height of the plot inside its figure."""
    figure, box = axes.get_figure(root=True), axes.get_position()
    assert figure is not None
    wide, high = figure.get_size_inches()
    return float(wide) * box.width, float(high) * box.height
