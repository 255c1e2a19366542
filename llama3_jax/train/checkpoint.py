"""Sharded, asynchronous checkpoints by Orbax (Llama 3, 3.3.1: save often, pause little).

A checkpoint holds the whole `TrainState` (OCDBT over zarr3, each host writing its own part) and `run.json`: step,
tokens seen, seed, tokenizer fingerprint and the resolved config, so that it explains itself. Orbax writes into a
temporary folder and commits by renaming, so a half-written checkpoint is never picked up. Arrays are restored onto any
mesh, bit for bit.
"""

import dataclasses
import errno
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from llama3_jax.core.params import EMPTY_ROW, Params
from llama3_jax.core.paths import path_of
from llama3_jax.train.layer_rows import as_saved, in_order

STATE, RUN = "state", "run"
# A whole checkpoint has all of these; a copy that was cut short, or a write under way, lacks some.
PARTS = ("_CHECKPOINT_METADATA", f"{STATE}/_METADATA", f"{STATE}/manifest.ocdbt", f"{RUN}/metadata")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says what is still intact."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep. The end of a run, of a stage and of a preempted process is always saved."""

    every_steps: int = 1000
    keep_last: int = 2
    keep_every: int | None = None  # also keep every multiple of this many steps for good

    def __post_init__(self):
        if self.every_steps < 1 or self.keep_last < 1:
            raise ValueError(f"every_steps and keep_last must be positive, got {self}")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every must be positive, got {self.keep_every}")


class Checkpoints:
    """The checkpoints of one folder: a subfolder per step."""

    def __init__(
        self,
        folder: str,
        config: CheckpointConfig = CheckpointConfig(),
        keep_steps: Sequence[int] = (),
        *,
        read_only: bool = False,
    ):
        """`keep_steps` are never deleted (annealing averages them). `read_only` creates and cleans nothing."""
        policies: list[Any] = [managers.LatestN(config.keep_last), managers.CustomSteps(tuple(keep_steps))]
        if config.keep_every:
            policies.append(managers.EveryNSteps(config.keep_every))
        self.folder, self._read_only = folder, read_only
        self._path = path_of(folder)
        self._manager = ocp.CheckpointManager(
            self._path,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            item_handlers={STATE: _state_handler(), RUN: ocp.JsonCheckpointHandler()},
        )
        self._newest = self.latest()  # written or being written

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return [step for step in sorted(self._manager.all_steps()) if self._is_complete(step)]

    def _is_complete(self, step: int) -> bool:
        return all((self._path / str(step) / part).exists() for part in PARTS)

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        steps = self.steps()
        return steps[-1] if steps else None

    def save(self, step: int, state: Any, run: dict[str, Any]) -> float:
        """Starts saving and returns the seconds it blocked the caller; the rest goes on in the background.

        A step that is saved already is left as it is: the state is a function of the step. Raises CheckpointError when
        this or the previous background write failed, e.g. on a full disk.
        """
        if self._read_only:  # Orbax would write all the same
            raise CheckpointError(f"{self.folder} was opened for reading only")
        if step == self._newest:
            return 0.0
        start = time.perf_counter()
        with self._explained():
            if step in self._manager.all_steps() and not self._is_complete(step):
                self._manager.delete(step)
            save_state = ocp.args.PyTreeSave(_as_dict(state), save_args=_save_args(_as_dict(state)))
            args = ocp.args.Composite(**{STATE: save_state, RUN: ocp.args.JsonSave(run)})
            self._manager.save(step, args=args, force=True)
        self._newest = step
        return time.perf_counter() - start

    def wait(self) -> None:
        """Returns when the background write is committed. Raises CheckpointError when it failed."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def read_run(self, step: int) -> dict[str, Any]:
        """The `run.json` of a step: step, tokens, seed, tokenizer fingerprint and resolved config.

        This and the other readers raise CheckpointError when the step is not there, is damaged or does not fit.
        """
        return self._read(step, RUN, ocp.args.JsonRestore())

    def restore(self, step: int, abstract_state: Any, layer_rows: Sequence[int] | None = None) -> Any:
        """The state of a step with the shapes, dtypes and shardings of `abstract_state` (any mesh).

        `layer_rows`: the layer that each row of the stacked arrays is to hold; None for all layers in order.
        """
        restored = self._read_in_order(step, _as_dict(abstract_state), layer_rows)
        return type(abstract_state)(**restored) if dataclasses.is_dataclass(abstract_state) else restored

    def restore_params(self, step: int, abstract: Params, layer_rows: Sequence[int] | None = None) -> Params:
        """Only the parameters of a step, as `restore`; moments are not read."""
        params = self._read_in_order(step, {"params": abstract}, layer_rows, partial=True)["params"]
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            if not isinstance(leaf, jax.Array):  # a partial restore leaves what it does not find as it was asked for
                raise CheckpointError(f"step {step} of {self.folder} has no params{jax.tree_util.keystr(path)}")
        return params

    def _read_in_order(self, step: int, wanted: Any, rows: Sequence[int] | None, *, partial: bool = False) -> Any:
        """`wanted` from disk, where the rows of stacked arrays may lie in another order."""
        saved = self.read_run(step).get("layer_rows")
        rows = sorted(set(saved or ()) - {EMPTY_ROW}) if rows is None else list(rows)
        if saved is None or saved == rows:
            return self._read(step, STATE, _restore_args(wanted, partial=partial))
        restored = self._read(step, STATE, _restore_args(as_saved(wanted, len(saved)), partial=partial))
        return in_order(restored, wanted, saved, rows)

    def _read(self, step: int, item: str, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # Orbax raises ValueError, KeyError, FileNotFoundError or plain Exception
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            reason = f"{type(error).__name__}: {str(error).split(chr(10))[0][:300]}"
            raise CheckpointError(
                f"could not read step {step} of {self.folder}: {reason}; other checkpoints there: {others}"
            ) from error

    def close(self) -> None:
        """Waits for the background write and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _explained(self):
        return _Explained(self)


class _Explained:
    """Turns a failed write into one sentence that names the last intact checkpoint."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or not isinstance(error, Exception):
            return False
        latest = self.checkpoints._newest = self.checkpoints.latest()
        intact = f"step {latest} is intact" if latest is not None else "there is no earlier checkpoint"
        reason = "the disk is full" if _is_disk_full(error) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"could not write a checkpoint to {self.checkpoints.folder}: {reason}; {intact}"
        ) from error


def average_params(
    checkpoints: Checkpoints, steps: Sequence[int], abstract: Params, layer_rows: Sequence[int] | None = None
) -> Params:
    """The mean of the parameters saved at `steps`, summed in float32 one checkpoint at a time (Polyak, 3.4.3).

    Raises CheckpointError when one of the steps is missing.
    """
    missing = sorted(set(steps) - set(checkpoints.steps()))
    if missing or not steps:
        raise CheckpointError(
            f"cannot average steps {list(steps)} of {checkpoints.folder}: {missing or 'none'} not there"
        )
    add = jax.jit(lambda total, new: jax.tree.map(lambda t, n: t + n.astype(jnp.float32), total, new), donate_argnums=0)
    total = jax.tree.map(lambda x: x.astype(jnp.float32), checkpoints.restore_params(steps[0], abstract, layer_rows))
    for step in steps[1:]:
        total = add(total, checkpoints.restore_params(step, abstract, layer_rows))
    return jax.tree.map(lambda t, a: (t / len(steps)).astype(a.dtype), total, abstract)


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)


def _save_args(state: Any) -> Any:
    """Parameters of the layers are stored in chunks of one layer, so that they can be read one by one."""

    def of(path, _):
        in_layers = [getattr(key, "key", None) for key in path[:2]] == ["params", "layers"]
        return ocp.SaveArgs(shard_axes=(0,) if in_layers else ())

    return jax.tree_util.tree_map_with_path(of, state)


def _restore_args(wanted: Any, *, partial: bool = False) -> ocp.args.PyTreeRestore:
    restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
    return ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=partial)


def _as_dict(state: Any) -> Any:
    """A dataclass state as the dict of its fields, so that keys on disk are plain names."""
    if not dataclasses.is_dataclass(state):
        return state
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _is_disk_full(error: BaseException | None) -> bool:
    """True when a full disk is anywhere in the chain of causes (TensorStore reports it as text)."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
