"""Surviving what happens to long runs (Llama 3, 3.3.4): signals, and gradients that are not finite."""

import json
import signal
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llama3_jax.core.distributed import Peers
from llama3_jax.core.paths import path_of


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class StopSignal:
    """The first SIGTERM or Ctrl-C asks to finish the step, save and leave; a second one is obeyed at once.

    With `peers`, asking any process asks them all. Raises ValueError when there are other processes and no `peers`.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, peers: Peers | None = None):
        if peers is None and jax.process_count() > 1:
            raise ValueError(f"a run of {jax.process_count()} processes needs the peers of core.distributed.join")
        self.received: str | None = None  # why, once it is known here
        self._peers = peers
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc_info) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        self.received = signal.Signals(number).name
        if self._peers is not None:
            self._peers.ask_to_stop(self.received)
        for other, handler in self._previous.items():
            signal.signal(other, handler)

    def leaves_at(self, step: int) -> bool:
        """Call before each step: True when this process, and at this very step every other one, should leave."""
        if self._peers is None:
            return self.received is not None
        if not self._peers.leaves_at(step):
            return False
        self.received = self._peers.stop_reason
        return True


def check_finite(
    step: int, metrics: Mapping[str, float], limit: int, folder: str, batch: Mapping[str, Any], params: Any
) -> None:
    """Raises NonFiniteError after `limit` skipped steps in a row, having written what is needed to find out why.

    The dump in `folder/non_finite_STEP`: the batch (this process's part), the metrics, and for every parameter its
    largest magnitude and number of non-finite entries.
    """
    if metrics["skipped_in_a_row"] < limit:
        return
    dump = path_of(folder) / f"non_finite_{step}"
    dump.mkdir(parents=True, exist_ok=True)
    for name, array in batch.items():
        with (dump / f"{name}_process{jax.process_index()}.npy").open("wb") as file:
            np.save(file, _local(array))
    report = {"step": step, "metrics": {name: repr(float(value)) for name, value in metrics.items()}}
    report["params"] = {
        "/".join(str(key.key) for key in path): _extent(array)
        for path, array in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    (dump / f"report_process{jax.process_index()}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    raise NonFiniteError(
        f"step {step}: loss or gradients were not finite for {limit} steps in a row; the state before them is "
        f"unharmed, batch and report are in {dump}"
    )


def _local(array: jax.Array) -> np.ndarray:
    """The parts of a global array that this process holds, stacked along a new first dim."""
    return np.stack([np.asarray(shard.data) for shard in array.addressable_shards])


def _extent(array: jax.Array) -> dict[str, float | int]:
    values = _local(array).astype(np.float32)
    finite = np.isfinite(values)
    return {"largest": float(np.abs(values[finite]).max(initial=0.0)), "non_finite": int((~finite).sum())}
