"""The one training loop: dispatch a step, then look at the one before.

It knows no model and no data format. Pre-training and every later stage hand it a plan, a compiled step per segment, an
iterator of device batches and a few callables.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from llama3_jax.core.telemetry import Goodput, MetricsWriter, ProfilerWindow, Progress
from llama3_jax.train.recipe import Plan, Segment
from llama3_jax.train.resilience import StopSignal
from llama3_jax.train.step import TrainState

CompiledStep = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What the loop calls and never looks into. Steps are counts of finished steps."""

    save: Callable[[int, TrainState], float]  # starts a checkpoint, returns seconds blocked
    should_save: Callable[[int], bool]
    stage_end: Callable[[int, str, TrainState], None]  # evaluation and gates; may raise
    derived: Callable[[Segment, float], dict[str, float]]  # (segment, seconds of a step) -> throughput, MFU
    check: Callable[[int, dict[str, float], Any, TrainState], None]  # may raise on what the metrics say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruments:
    """Where the loop reports to."""

    writer: MetricsWriter
    progress: Progress
    goodput: Goodput
    profiler: ProfilerWindow


class Loop:
    """Runs steps `[start_step, plan.total_steps)`, saving and logging on the way."""

    def __init__(
        self,
        plan: Plan,
        compiled: Callable[[Segment], CompiledStep],
        calls: Callbacks,
        tools: Instruments,
    ):
        self._plan, self._compiled, self._calls, self._tools = plan, compiled, calls, tools
        self._pending: tuple[int, Segment, Any, Any] | None = None
        self._clock = time.perf_counter()

    def run(
        self, state: TrainState, start_step: int, batches: Iterator[Any], stop: StopSignal
    ) -> tuple[TrainState, int]:
        """Returns the state and the number of finished steps, fewer than planned when asked to stop."""
        ends, goodput = self._plan.stage_ends(), self._tools.goodput
        step = start_step
        while step < self._plan.total_steps and not stop.leaves_at(step):
            segment = self._plan.segment(step)
            with goodput.phase("data"):
                batch = next(batches)
            with goodput.phase("compile"):
                run_step = self._compiled(segment)
            with goodput.phase("train"):
                self._tools.profiler.before(step)
                state, metrics = run_step(state, batch, np.float32(self._plan.learning_rate(step)))
                self._tools.profiler.after(step, metrics)
                self._report(state)
                self._pending = (step, segment, metrics, batch)
            step += 1
            if step in ends:
                self._finish(state)
                with goodput.phase("evaluate"):
                    self._calls.stage_end(step, ends[step], state)
                self._clock = time.perf_counter()
            if self._calls.should_save(step) and step < self._plan.total_steps:
                self._save(step, state)
        self._save(step, state)
        return state, step

    def _save(self, step: int, state: TrainState) -> None:
        self._finish(state)
        with self._tools.goodput.phase("checkpoint"):
            self._tools.writer.save()
            blocked = self._calls.save(step, state)
        self._tools.writer.write(step - 1, {"checkpoint_blocked_seconds": blocked})
        self._clock = time.perf_counter()

    def _finish(self, state: TrainState) -> None:
        """Waits for the step in flight and reports it."""
        with self._tools.goodput.phase("train"):
            self._report(state)

    def _report(self, state: TrainState) -> None:
        """Reads the metrics of the step before; only this waits for the device."""
        if self._pending is None:
            return
        step, segment, device_metrics, batch = self._pending
        self._pending = None
        metrics = {name: float(value) for name, value in jax.device_get(device_metrics).items()}
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        scalars = {
            **metrics,
            "learning_rate": self._plan.learning_rate(step),
            "tokens_seen": self._plan.tokens(step + 1),
            "sequence_length": segment.sequence_length,
            **self._calls.derived(segment, seconds),
        }
        self._tools.writer.write(step, {"stage": segment.stage, **scalars})
        self._tools.progress.update(step, segment.stage, scalars)
        self._calls.check(step, metrics, batch, state)
