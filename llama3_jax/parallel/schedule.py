"""When each pipeline rank computes what: schedules as tables (Llama 3, 3.3.2, Figure 6).

The layers are cut into P·V equal chunks; rank r holds chunks r, P+r, 2P+r, ... (V of them: interleaving). A batch is M
micro-batches. Time goes in ticks: in one tick a rank runs at most one forward and then at most one backward pass of one
chunk for one micro-batch, and what it sends arrives before the next tick. A schedule is a table of ticks by ranks, made
on the host and read by one program (parallel/pipeline.py), so any schedule runs without a change of code.

Warm-up forwards, one forward and one backward in turn, and the drain come out as three runs of ticks, the same for all
ranks. So the time lost is (P-1)/(V·M) of the work, the paper's bubble, whatever a forward and a backward cost, although
all ranks keep step. Only groups smaller than P lose more (docs/pipeline.md has the formulas).

`gpipe` runs all forwards first. `1f1b` starts a backward as soon as it can, so that activations of few micro-batches
live at once: their number depends on P, V and N, not on M. N, the micro-batches run in a row for one chunk, is free.
With N = P passes are depth first, with N = M breadth first. When N does not divide M, the floor(M/N) groups differ by
one in size, none being smaller than N: a last group smaller than P would leave the first rank waiting for the last.

Letters of tables: T ticks, P ranks. Whatever is not done in a tick is IDLE.
"""

import dataclasses
import functools
import itertools

import numpy as np

from llama3_jax.core.params import EMPTY_ROW

IDLE = -1
SCHEDULES = ("1f1b", "gpipe")
VOCABULARIES = ("stages", "ends")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How a mesh's stage axis is used; without effect where that axis is 1."""

    schedule: str = "1f1b"
    chunks: int = 1  # V: chunks of layers a rank holds (interleaving)
    group: int | None = None  # N: micro-batches run in a row for one chunk; None takes P, or M if that is less
    # embedding and output head: split over all stages, so that none waits for another to run them, or, as in the paper,
    # whole on every stage
    vocabulary: str = "stages"

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"pipeline.schedule {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        if self.vocabulary not in VOCABULARIES:
            raise ValueError(f"pipeline.vocabulary {self.vocabulary!r} is not one of {', '.join(VOCABULARIES)}")
        if self.chunks < 1:
            raise ValueError(f"pipeline.chunks must be at least 1, got {self.chunks}")

    def group_of(self, ranks: int, micro_batches: int) -> int:
        """N for this many ranks and micro-batches."""
        return min(ranks, micro_batches) if self.group is None else self.group

    def check(self, ranks: int, micro_batches: int) -> None:
        """Raises what `schedule_of` would, without making the table."""
        check_schedule(ranks, self.chunks, micro_batches, self.group_of(ranks, micro_batches), self.schedule)

    def schedule_of(self, ranks: int, micro_batches: int) -> "Schedule":
        """The table for this many ranks and micro-batches. Errors are those of `make_schedule`."""
        return make_schedule(ranks, self.chunks, micro_batches, self.group_of(ranks, micro_batches), self.schedule)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """What each rank runs in each tick, and where its input lies. Int32 [T, P], read-only, IDLE where nothing runs."""

    micro_TP: np.ndarray
    chunk_TP: np.ndarray  # number among the rank's own chunks, from 0
    input_TP: np.ndarray  # slot of the chunk's input in the ring of inputs
    gradient_TP: np.ndarray  # slot of the gradient of its output: read by a backward, written by the last forward
    arrival_TP: np.ndarray  # slot in which to put the message that arrived before this tick


@dataclasses.dataclass(frozen=True)
class Phase:
    """Ticks [start, stop) in which some rank runs a forward, a backward or both."""

    start: int
    stop: int
    forward: bool
    backward: bool
    finished: tuple[int, ...]  # chunks whose last backward, on all ranks, is in this phase


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A table for P ranks, V chunks a rank, M micro-batches in groups of N. Made once, so compared by identity."""

    ranks: int
    chunks: int
    micro_batches: int
    group: int
    forward: Pass
    backward: Pass
    input_slots: int  # of the ring of chunk inputs; the same on all ranks
    gradient_slots: int
    phases: tuple[Phase, ...]
    kind: str  # one of SCHEDULES

    @property
    def ticks(self) -> int:
        """Length of the table."""
        return len(self.forward.micro_TP)

    def bubble(self, forward: float = 1.0, backward: float = 2.0) -> float:
        """Time lost over time worked when a chunk's passes cost this much, all ranks keeping step."""
        worked = self.chunks * self.micro_batches * (forward + backward)
        spent = sum((p.stop - p.start) * (forward * p.forward + backward * p.backward) for p in self.phases)
        return spent / worked - 1.0


@functools.cache
def make_schedule(ranks: int, chunks: int, micro_batches: int, group: int, kind: str = "1f1b") -> Schedule:
    """The schedule for P `ranks`, V `chunks` a rank, M `micro_batches`, N = `group`. Errors: see `check_schedule`."""
    check_schedule(ranks, chunks, micro_batches, group, kind)
    run = _Run(ranks, chunks, group_sizes(micro_batches, group), kind)
    return _tabulate(run, group, kind)


def check_schedule(ranks: int, chunks: int, micro_batches: int, group: int, kind: str) -> None:
    """Raises ValueError for M < 1, for N outside [1, M] and for an unknown kind, naming the nearest legal value."""
    if kind not in SCHEDULES:
        raise ValueError(f"pipeline schedule {kind!r} is not one of {', '.join(SCHEDULES)}")
    if ranks < 1 or chunks < 1:
        raise ValueError(f"a pipeline has at least one rank and one chunk a rank, got {ranks} and {chunks}")
    if micro_batches < 1:
        raise ValueError(f"a pipeline needs at least 1 micro-batch, got {micro_batches}")
    if not 1 <= group <= micro_batches:
        nearest = min(max(group, 1), micro_batches)
        raise ValueError(
            f"pipeline group N = {group} is outside 1 to M = {micro_batches} micro-batches; nearest legal: {nearest}"
        )


def group_sizes(micro_batches: int, group: int) -> list[int]:
    """Micro-batches of each group: floor(M/N) of them, as even as can be."""
    count = micro_batches // group
    return [micro_batches // count + (number < micro_batches % count) for number in range(count)]


class _Run:
    """The passes of all ranks, tick by tick, as each becomes possible in its fixed order."""

    def __init__(self, ranks: int, chunks: int, sizes: list[int], kind: str):
        self.ranks, self.chunks, self.micro_batches = ranks, chunks, sum(sizes)
        self.last = ranks * chunks - 1  # the last of all chunks
        forwards_first = kind == "gpipe"
        self.forward_ticks: dict[tuple[int, int], int] = {}  # (chunk of all, micro-batch) -> tick
        self.backward_ticks: dict[tuple[int, int], int] = {}
        forwards, backwards = _order(sizes, range(chunks)), _order(sizes, range(chunks - 1, -1, -1))
        ahead = [len(forwards) if forwards_first else self._warm_up(rank, sizes[0]) for rank in range(ranks)]
        started, ended, tick = [0] * ranks, [0] * ranks, 0
        while min(ended) < len(backwards):
            for rank in range(ranks):
                if started[rank] - ended[rank] <= ahead[rank] and self._forward(rank, forwards, started[rank], tick):
                    started[rank] += 1
            for rank in range(ranks):
                if started[rank] == len(forwards) or not forwards_first:
                    ended[rank] += self._backward(rank, backwards, ended[rank], tick)
            tick += 1
        self.ticks = tick

    def _warm_up(self, rank: int, size: int) -> int:
        """Forwards a rank may be ahead of its backwards when it starts one, under 1f1b."""
        return (self.chunks - 1) * size + 2 * (self.ranks - 1 - rank)

    def _forward(self, rank: int, order: list[tuple[int, int]], number: int, tick: int) -> bool:
        if number == len(order):
            return False
        micro, chunk = order[number]
        place = chunk * self.ranks + rank
        if place > 0 and self.forward_ticks.get((place - 1, micro), tick) >= tick:
            return False
        self.forward_ticks[place, micro] = tick
        return True

    def _backward(self, rank: int, order: list[tuple[int, int]], number: int, tick: int) -> bool:
        if number == len(order):
            return False
        micro, chunk = order[number]
        place = chunk * self.ranks + rank
        if place == self.last:
            ready = (place, micro) in self.forward_ticks
        else:
            ready = self.backward_ticks.get((place + 1, micro), tick) < tick
        if ready:
            self.backward_ticks[place, micro] = tick
        return ready

    def arrival(self, place: int, micro: int) -> int:
        """First tick in which a chunk's input is there."""
        return self.forward_ticks[place, micro] if place == 0 else self.forward_ticks[place - 1, micro] + 1

    def gradient_arrival(self, place: int, micro: int) -> int:
        """First tick in which the gradient of a chunk's output is there."""
        return self.forward_ticks[place, micro] if place == self.last else self.backward_ticks[place + 1, micro] + 1


def _order(sizes: list[int], chunks: range) -> list[tuple[int, int]]:
    """(micro-batch, chunk) in the order in which every rank runs them: group by group, chunk by chunk."""
    order, start = [], 0
    for size in sizes:
        order += [(micro, chunk) for chunk in chunks for micro in range(start, start + size)]
        start += size
    return order


def _tabulate(run: _Run, group: int, kind: str) -> Schedule:
    forward, backward = (_idle_columns(run.ticks, run.ranks) for _ in range(2))
    slots = [_fill_rank(run, rank, forward, backward) for rank in range(run.ranks)]
    input_slots, gradient_slots = (max(counts) for counts in zip(*slots, strict=True))
    for column in (*forward.values(), *backward.values()):
        column.setflags(write=False)  # schedules are shared by all who ask for the same one
    forward_pass, backward_pass = Pass(**forward), Pass(**backward)
    phases = _phases(forward_pass, backward_pass, run.chunks)
    return Schedule(
        run.ranks, run.chunks, run.micro_batches, group, forward_pass, backward_pass,
        input_slots, gradient_slots, phases, kind,
    )  # fmt: skip


def _idle_columns(ticks: int, ranks: int) -> dict[str, np.ndarray]:
    return {field.name: np.full((ticks, ranks), IDLE, np.int32) for field in dataclasses.fields(Pass)}


def _fill_rank(
    run: _Run, rank: int, forward: dict[str, np.ndarray], backward: dict[str, np.ndarray]
) -> tuple[int, int]:
    """Writes a rank's part of both passes; returns the slots it needs for inputs and for gradients."""
    work = [(chunk * run.ranks + rank, micro) for chunk in range(run.chunks) for micro in range(run.micro_batches)]
    inputs, input_slots = _slots({key: (run.arrival(*key), run.backward_ticks[key]) for key in work})
    gradients, gradient_slots = _slots({key: (run.gradient_arrival(*key), run.backward_ticks[key]) for key in work})
    for key in work:
        place, micro = key
        for columns, ticks in ((forward, run.forward_ticks), (backward, run.backward_ticks)):
            columns["micro_TP"][ticks[key], rank] = micro
            columns["chunk_TP"][ticks[key], rank] = place // run.ranks
            columns["input_TP"][ticks[key], rank] = inputs[key]
        backward["gradient_TP"][run.backward_ticks[key], rank] = gradients[key]
        if place > 0:
            forward["arrival_TP"][run.arrival(*key), rank] = inputs[key]
        if place == run.last:
            forward["gradient_TP"][run.forward_ticks[key], rank] = gradients[key]
        else:
            backward["arrival_TP"][run.gradient_arrival(*key), rank] = gradients[key]
    return input_slots, gradient_slots


def _slots(lives: dict[tuple[int, int], tuple[int, int]]) -> tuple[dict[tuple[int, int], int], int]:
    """A slot for every value so that none is overwritten while it lives (first tick to last, both included), and how
    many that takes: the fewest, as a slot is new only when all others are taken."""
    slots, free, taken, count = {}, [], [], 0
    for key, (first, last) in sorted(lives.items(), key=lambda item: item[1]):
        free += [slot for end, slot in taken if end < first]
        taken = [(end, slot) for end, slot in taken if end >= first]
        if not free:
            free, count = [count], count + 1
        slots[key] = free.pop()
        taken.append((last, slots[key]))
    return slots, count


def _phases(forward: Pass, backward: Pass, chunks: int) -> tuple[Phase, ...]:
    """Runs of ticks with the same kinds of passes, cut where the gradients of a chunk are complete on all ranks."""
    runs_forward, runs_backward = ((p.micro_TP != IDLE).any(axis=1) for p in (forward, backward))
    done = [int(np.nonzero((backward.chunk_TP == chunk).any(axis=1))[0][-1]) + 1 for chunk in range(chunks)]
    ticks = len(runs_forward)
    changes = {
        t for t in range(1, ticks) if (runs_forward[t], runs_backward[t]) != (runs_forward[t - 1], runs_backward[t - 1])
    }
    cuts = sorted({0, ticks} | set(done) | changes)
    return tuple(
        Phase(
            start,
            stop,
            bool(runs_forward[start]),
            bool(runs_backward[start]),
            tuple(chunk for chunk in range(chunks) if done[chunk] == stop),
        )
        for start, stop in itertools.pairwise(cuts)
    )


def chunk_rows(num_layers: int, ranks: int, chunks: int) -> int:
    """Rows of the stacked layers in each chunk."""
    return -(-num_layers // (ranks * chunks))


def stage_rows(num_layers: int, ranks: int, chunks: int) -> tuple[int, ...]:
    """The layer that each row of the stacked layers holds, rank by rank, each rank's chunks in order; or EMPTY_ROW.

    All chunks have equally many rows. Where the layers are fewer, the first and the last chunk of all lose one first
    (as in the paper), then the second and the last but one. Raises ValueError when another chunk would stay empty.
    """
    places, rows = ranks * chunks, chunk_rows(num_layers, ranks, chunks)
    missing = places * rows - num_layers
    if rows == 1 and missing > 2:
        legal = max((v for v in range(1, chunks) if ranks * v <= num_layers + 2), default=None)
        nearest = f"nearest legal chunks: {legal}" if legal else f"at most {num_layers + 2} stages can share them"
        raise ValueError(
            f"{num_layers} layers cannot be laid out over {ranks} stages of {chunks} chunks each, {places} in all "
            f"(only the first and the last may be empty); {nearest}"
        )
    inwards = [place for pair in zip(range(places), reversed(range(places)), strict=True) for place in pair]
    short = set(inwards[:missing])
    layers, number = {}, 0
    for place in range(places):
        held = rows - (place in short)
        layers[place] = [*range(number, number + held), *[EMPTY_ROW] * (rows - held)]
        number += held
    return tuple(layer for rank in range(ranks) for chunk in range(chunks) for layer in layers[chunk * ranks + rank])
