"""What a run tells: metrics to JSONL and TensorBoard, a progress bar, MFU with its convention, goodput, profiles.

Nothing here waits for a device: the loop hands over the metrics of the step before, already on their way to the host.
"""

import contextlib
import dataclasses
import io
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

import jax
import tensorboardX
import tqdm
from etils import epath

from llama3_jax.core.paths import is_url, path_of

# Dense bf16 peak of one device in FLOP/s, by a part of `jax.Device.device_kind`, the first that fits; vendors' data
# sheets. A TPU7x chip is two devices, each with half of its 2307e12.
PEAK_FLOPS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """What to record and how often."""

    log_every: int = 10  # steps between progress lines where there is no terminal for a bar
    profile_start: int | None = None  # first step of the profiler window
    profile_steps: int = 3
    peak_flops: float | None = None  # FLOP/s of one device, where the table does not know it

    def __post_init__(self):
        if self.log_every < 1 or self.profile_steps < 1:
            raise ValueError(f"log_every and profile_steps must be positive, got {self}")


def peak_flops(device: Any, override: float | None = None) -> float | None:
    """Dense bf16 peak of `device` in FLOP/s, or None when it is not in the table and not given."""
    if override:
        return override
    return next((peak for kind, peak in PEAK_FLOPS.items() if kind in device.device_kind), None)


class MetricsWriter:
    """Appends scalars per step to `metrics.jsonl` and to TensorBoard, from process 0 only.

    On a disk every line is there at once. Objects cannot be appended to: on object storage the lines are kept here and
    `save` writes the file anew.
    """

    def __init__(self, folder: str, start_step: int):
        """Continues a run at `start_step`: what an interrupted process wrote from there on is dropped."""
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._path = path_of(folder) / "metrics.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = _complete_lines(self._path) if self._path.exists() else []
        kept = [line + "\n" for line in lines if json.loads(line)["step"] < start_step]
        self._lines = _open_to_append(self._path, "".join(kept))
        self._board = tensorboardX.SummaryWriter(str(path_of(folder) / "tensorboard"), purge_step=start_step)

    def write(self, step: int, scalars: Mapping[str, float | str]) -> None:
        """One line for `step`; numbers also go to TensorBoard."""
        if not self._active:
            return
        self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)

    def save(self) -> None:
        """Writes what is not written yet; call it before a checkpoint, from which a run continues."""
        if self._active and isinstance(self._lines, io.StringIO):
            self._path.write_text(self._lines.getvalue(), encoding="utf-8")

    def close(self) -> None:
        """Writes the rest of both files."""
        if self._active:
            self.save()
            self._lines.close()
            self._board.close()


def read_metrics(folder: str) -> list[dict[str, Any]]:
    """Every complete line of a run's `metrics.jsonl`. Raises FileNotFoundError when there is none."""
    return [json.loads(line) for line in _complete_lines(path_of(folder) / "metrics.jsonl")]


def _complete_lines(path: epath.Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _open_to_append(path: epath.Path, text: str) -> IO[str]:
    """A file that begins with `text`: on a disk the one at `path`, replaced at once; for an object a buffer."""
    if is_url(str(path)):
        buffer = io.StringIO()
        buffer.write(text)
        return buffer
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path.open("a", encoding="utf-8")


class Goodput:
    """Wall seconds by phase; the useful share is `train` over everything (3.3.4's effective training time)."""

    def __init__(self):
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the enclosed time under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def summary(self) -> dict[str, float]:
        """Seconds of every phase, `other` for the rest, `total`, and `goodput` = train / total."""
        total = time.perf_counter() - self._start
        other = max(0.0, total - sum(self.seconds.values()))
        return {**self.seconds, "other": other, "total": total, "goodput": self.seconds.get("train", 0.0) / total}


class ProfilerWindow:
    """Traces steps `[start, start + steps)` of process 0's devices with `jax.profiler` into `folder`."""

    def __init__(self, folder: str, start: int | None, steps: int):
        self._folder, self._steps = folder, steps
        self._start = start if jax.process_index() == 0 else None
        self._tracing = False  # a run that continues inside the window has nothing to stop

    def before(self, step: int) -> None:
        """Call before a step is dispatched."""
        if step == self._start:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, result: Any) -> None:
        """Call after a step is dispatched; waits for `result` only at the end of the window."""
        if self._tracing and self._start is not None and step == self._start + self._steps - 1:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes the trace, also of a window that the end of the run cuts short."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()


class Progress:
    """A bar on a terminal, a line now and then elsewhere: step, loss, tokens/s (or another unit's), ETA."""

    def __init__(self, total_steps: int, start_step: int, every: int, unit: str = "tokens"):
        self._every, self._total, self._unit = every, total_steps, unit
        self._bar = None
        if jax.process_index() != 0:
            return
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, smoothing=0.05
            )
        self._begin, self._from = time.perf_counter(), start_step

    def update(self, step: int, stage: str, scalars: Mapping[str, float]) -> None:
        """Shows the finished `step`."""
        if jax.process_index() != 0:
            return
        text = f"loss {scalars['loss']:.3f}, {scalars[f'{self._unit}_per_second']:,.0f} {self._unit}/s"
        if self._bar is not None:
            self._bar.set_description(stage)
            self._bar.set_postfix_str(text)
            self._bar.update(step + 1 - self._bar.n)
        elif (step + 1) % self._every == 0 or step + 1 == self._total:
            left = (self._total - step - 1) * (time.perf_counter() - self._begin) / max(1, step + 1 - self._from)
            print(f"{stage}: step {step + 1}/{self._total}, {text}, {_clock(left)} left", flush=True)

    def note(self, text: str) -> None:
        """A line that does not break the bar."""
        if jax.process_index() == 0:
            print(text, flush=True) if self._bar is None else self._bar.write(text)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
