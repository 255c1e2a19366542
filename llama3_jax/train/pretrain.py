"""A whole pre-training run from one config (Llama 3, 3.4): initial stage, long context, annealing, average.

`pretrain(config)` is what `llama3 pretrain` calls. It checks everything that can be checked before the first step,
restores the newest checkpoint of the work folder or starts afresh, runs the one loop, and leaves `final/` behind. Which
step a run is at decides everything else, so an interrupted run continues bit for bit.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from llama3_jax.core import config as config_lib
from llama3_jax.core.distributed import Peers
from llama3_jax.core.params import Params
from llama3_jax.core.paths import path_of
from llama3_jax.core.sharding import batch_sharding, local_rows, make_mesh
from llama3_jax.core.telemetry import (
    Goodput,
    MetricsWriter,
    ProfilerWindow,
    Progress,
    peak_flops,
)
from llama3_jax.data.loader import BatchSource, DataSegment, make_loader
from llama3_jax.data.token_store import TokenStore
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.model.llama import flops_per_token
from llama3_jax.train.checkpoint import CheckpointConfig, CheckpointError, Checkpoints, average_params
from llama3_jax.train.held_out import HeldOutLoss, held_out_batches, make_held_out
from llama3_jax.train.loop import Callbacks, Instruments, Loop
from llama3_jax.train.program import Program
from llama3_jax.train.recipe import Plan, RecipeConfig, Segment
from llama3_jax.train.resilience import StopSignal, check_finite
from llama3_jax.train.run_config import DataConfig, PretrainConfig
from llama3_jax.train.step import TrainState


@dataclasses.dataclass(frozen=True)
class PretrainResult:
    """How a run ended."""

    finished: bool
    already_finished: bool  # there was nothing left to do
    steps: int
    final: str | None  # folder of the final model
    goodput: dict[str, float]


class GateFailed(RuntimeError):
    """A long-context stage ended without meeting its gate; the message says how to go on."""


Gate = Callable[[Params, Segment], tuple[bool, str]]  # -> (passed, what was measured)


class Pretraining:
    """A run made ready: every input opened and checked, nothing trained yet."""

    def __init__(self, config: PretrainConfig, gates: Mapping[str, Gate] | None = None):
        self.config, self.mesh = config, make_mesh(config.mesh)
        self.program = Program(config, self.mesh)
        self.plan = self.program.plan
        self.tokenizer, self.stores, self.held_out_store = open_data(config)
        self.gates = {"short_context": self._short_context, **(gates or {})}
        missing = [gate for gate in config.recipe.long_context.gates if gate not in self.gates]
        if config.recipe.long_context.stages and missing:
            raise ValueError(f"gate {missing[0]!r} has no evaluator: pass it to pretrain(config, gates=...)")
        self.checkpoints = Checkpoints(
            str(path_of(config.workdir) / "checkpoints"), config.checkpoint, self.plan.averaged_steps()
        )
        self.short_context_loss: float | None = None  # held-out loss at the end of the initial stage
        self._evaluate: dict[bool, Any] = {}

    # -- state ---------------------------------------------------------------------------------------------------

    def start(self) -> tuple[TrainState, int]:
        """The newest checkpoint's state and step, or a fresh state and 0."""
        step = _as_process_0_sees_it(self.checkpoints.latest())
        if step is None:
            return self.program.fresh_state(), 0
        run = self.checkpoints.read_run(step)
        check_continues(self.config, run, self._fingerprints())
        self.short_context_loss = run["short_context_loss"]
        return self.checkpoints.restore(step, self.program.abstract_state(), self.program.layer_rows), step

    def describe(self, step: int) -> dict[str, Any]:
        """What a checkpoint says about itself (`run.json`)."""
        return {
            "step": step,
            "tokens": self.plan.tokens(step),
            "seed": self.config.seed,
            "layer_rows": list(self.program.layer_rows),
            "sequence_length": self.plan.segment(max(0, step - 1)).sequence_length,
            "short_context_loss": self.short_context_loss,
            "fingerprints": self._fingerprints(),
            "config": config_lib.to_dict(self.config),
        }

    def _fingerprints(self) -> dict[str, str]:
        stores = {name: store.manifest.fingerprint for name, store in self.stores.items()}
        return {"tokenizer": self.tokenizer.fingerprint, **stores}

    # -- batches --------------------------------------------------------------------------------------------------

    def batches(
        self, start_step: int, note: Callable[[str], None] = lambda text: None
    ) -> Iterator[dict[str, jax.Array]]:
        """Device batches `[A, B, S]` from `start_step` to the end of the run.

        This process reads only the rows, and puts on its devices only the parts of them, that these devices hold.
        `note` is told how evenly the first batch of each stage splits over the context axis.
        """
        data, source = self.config.data, self.batch_source()
        for segment in self.plan.segments:
            if segment.end_step <= start_step:
                continue
            shape = self.program.batch_shape(segment)
            sharding = batch_sharding(self.mesh, 3, leading=1)
            mine = local_rows(sharding, shape, 1)
            rows = (np.arange(shape[0])[:, None] * shape[1] + mine[None, :]).reshape(-1)
            loader = make_loader(
                source,
                start_step=max(start_step, segment.start_step),
                stop_step=segment.end_step,
                rows=rows,
                num_workers=data.num_workers,
                prefetch_batches=data.prefetch_batches,
            )
            with loader:
                for number, batch in enumerate(loader):
                    whole = {name: array.reshape(shape[0], len(mine), shape[2]) for name, array in batch.items()}
                    if number == 0 and self.program.layout.size("context") > 1:
                        note(self._describe_split(segment, whole["segment_ids"]))
                    yield place_batch(self.program.split(whole), sharding, shape, mine)

    def _describe_split(self, segment: Segment, segment_ids: np.ndarray) -> str:
        ranks, compute = self.program.layout.size("context"), self.program.compute
        imbalance = self.program.context_imbalance(segment_ids)
        return (
            f"{segment.stage}, {segment.sequence_length} tokens over {ranks} context ranks by {compute.context_split}: "
            f"the busiest has {imbalance:.3f} x the mean attention work"
        )

    def batch_source(self) -> BatchSource:
        """The data as a pure function of the step."""
        segments = [
            DataSegment(
                start_step=segment.start_step,
                num_steps=segment.num_steps,
                batch_rows=segment.batch_rows,
                sequence_length=segment.sequence_length,
                weights=segment.weights,
            )
            for segment in self.plan.segments
        ]
        data = self.config.data
        return BatchSource(
            segments,
            self.stores,
            seed=self.config.seed,
            packing=data.packing,
            long_documents=data.long_documents,
            lanes=data.lanes,
        )

    # -- evaluation -----------------------------------------------------------------------------------------------

    def held_out_loss(self, params: Params, sequence_length: int, rope_scaling: bool, rows: int | None) -> HeldOutLoss:
        """Held-out loss over `rows` rows of `sequence_length` (all of the text when None)."""
        assert self.held_out_store is not None
        if rope_scaling not in self._evaluate:
            program = self.program
            self._evaluate[rope_scaling] = make_held_out(
                program.sums(rope_scaling),
                self.mesh,
                self.tokenizer.token_bytes(),
                program.split,
            )
        return self._evaluate[rope_scaling](params, held_out_batches(self.held_out_store, sequence_length, rows))

    def _short_context(self, params: Params, segment: Segment) -> tuple[bool, str]:
        length = self.config.recipe.ramp[-1].sequence_length
        loss = self.held_out_loss(params, length, segment.rope_scaling, self.config.evaluation.rows).per_token
        before = self.short_context_loss or math.inf
        limit = before * self.config.evaluation.recovery
        return loss <= limit, f"held-out loss at {length} tokens {loss:.4f}, before long context {before:.4f}"


def place_batch(
    arrays: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding, shape: tuple[int, int, int], rows: np.ndarray
) -> dict[str, jax.Array]:
    """Global arrays `[A, B, S]` of which this process has only the `rows`, ascending, as `[A, len(rows), S]`."""

    def part_of(array):
        def part(index):
            first, last, _ = index[1].indices(shape[1])
            low = np.searchsorted(rows, first)
            return array[index[0], low : low + last - first, index[2]]

        return part

    return {name: jax.make_array_from_callback(shape, sharding, part_of(array)) for name, array in arrays.items()}


def _as_process_0_sees_it(step: int | None) -> int | None:
    """Network file systems may show the newest checkpoint to one host before another."""
    if jax.process_count() == 1:
        return step
    seen = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step)))
    return None if seen < 0 else seen


def open_data(config: PretrainConfig) -> tuple[Tokenizer, dict[str, TokenStore], TokenStore | None]:
    """Tokenizer, training stores and held-out store, all checked against each other and against the model."""
    tokenizer = Tokenizer.load(config.data.tokenizer)
    if tokenizer.vocab_size != config.model.vocab_size:
        raise ValueError(
            f"tokenizer {config.data.tokenizer} has {tokenizer.vocab_size} tokens, model.vocab_size is "
            f"{config.model.vocab_size}"
        )

    def opened(path: str) -> TokenStore:
        store = TokenStore.open(
            path, expect_fingerprint=tokenizer.fingerprint, expect_vocab_size=config.model.vocab_size
        )
        store.verify(config.data.verify)
        return store

    stores = {name: opened(path) for name, path in config.data.sources.items()}
    return tokenizer, stores, opened(config.data.held_out) if config.data.held_out else None


def check_continues(config: PretrainConfig, run: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Raises CheckpointError unless `config` continues the checkpointed run: same model, data and past plan."""
    saved = config_lib.freeze(PretrainConfig, run["config"], "checkpoint")
    step = run["step"]
    for name, old, new in (
        ("model", saved.model, config.model),
        ("seed", saved.seed, config.seed),
        ("data", run["fingerprints"], dict(fingerprints)),
        ("packing", _packing(saved.data), _packing(config.data)),
        (f"recipe before step {step}", _past(saved.recipe, step), _past(config.recipe, step)),
    ):
        if old != new:
            raise CheckpointError(
                f"{config.workdir} holds a checkpoint of another run at step {step}: its {name} differs ({old} against "
                f"{new}); choose another workdir, or remove this one to start afresh"
            )


def _packing(data: DataConfig) -> tuple:
    return data.packing, data.long_documents, data.lanes


def _past(recipe: RecipeConfig, step: int) -> list[tuple]:
    """What the plan did before `step`, in a form that does not depend on its future."""
    past = []
    for segment in Plan(recipe).segments:
        if segment.start_step < step:
            shape = (segment.start_step, min(segment.end_step, step), segment.sequence_length, segment.batch_tokens)
            past.append((*shape, dict(segment.weights), segment.rope_scaling))
    return past


def pretrain(
    config: PretrainConfig, gates: Mapping[str, Gate] | None = None, peers: Peers | None = None
) -> PretrainResult:
    """Trains from the work folder's newest checkpoint, or from scratch, to the end of the recipe.

    `peers` are the other processes of the run, when there are some; all of them call this with the same config.

    Raises ValueError for a config that cannot run, CheckpointError when the work folder holds another run or cannot be
    written, GateFailed when a long-context stage misses its gate, NonFiniteError when gradients stay non-finite.
    """
    goodput = Goodput()
    with goodput.phase("start"):
        if peers is not None:
            peers.check_shared(config.workdir)
        job = Pretraining(config, gates)
        state, start_step = job.start()
    if start_step == job.plan.total_steps and _is_finished(config, start_step):
        job.checkpoints.close()
        return PretrainResult(True, True, start_step, _final_folder(config), goodput.summary())
    _write_json(config, "config.json", config_lib.to_dict(config))
    writer = MetricsWriter(config.workdir, start_step)
    progress = Progress(job.plan.total_steps, start_step, config.telemetry.log_every)
    if start_step:
        progress.note(f"continuing {config.workdir} at step {start_step} of {job.plan.total_steps}")
    tools = Instruments(
        writer=writer,
        progress=progress,
        goodput=goodput,
        profiler=ProfilerWindow(
            str(path_of(config.workdir) / "profile"),
            config.telemetry.profile_start,
            config.telemetry.profile_steps,
        ),
    )
    with contextlib.ExitStack() as closing:  # each is closed, whatever the others say
        for close in (job.checkpoints.close, writer.close, tools.profiler.close, progress.close):
            closing.callback(close)
        with peers.guard() if peers else contextlib.nullcontext(), StopSignal(peers) as stop:
            loop = Loop(job.plan, job.program.compiled, _callbacks(job, tools), tools)
            state, step = loop.run(state, start_step, job.batches(start_step, progress.note), stop)
            if stop.received:
                progress.note(
                    f"{stop.received}: saving step {step} and stopping; the same command continues from there"
                )
            job.checkpoints.wait()
            finished = step == job.plan.total_steps
            final = _save_final(job, state, step) if finished else None
    summary = goodput.summary()
    _write_json(config, "goodput.json", summary)
    return PretrainResult(finished, False, step, final, summary)


def _callbacks(job: Pretraining, tools: Instruments) -> Callbacks:
    config, plan = job.config, job.plan
    device = job.mesh.devices.flat[0]
    peak = peak_flops(device, config.telemetry.peak_flops)
    kept = {*plan.averaged_steps(), *plan.stage_ends()}

    def derived(segment: Segment, seconds: float) -> dict[str, float]:
        rate = segment.batch_tokens / seconds
        scalars = {"step_seconds": seconds, "tokens_per_second": rate}
        for convention, causal in (("causal", True), ("full", False)):
            flops = rate * flops_per_token(config.model, segment.sequence_length, causal=causal) / job.mesh.size
            scalars[f"model_flops_per_device_{convention}"] = flops
            if peak:
                scalars[f"mfu_{convention}"] = flops / peak
        return scalars

    def stage_end(step: int, stage: str, state: TrainState) -> None:
        segment = plan.segment(step - 1)
        if job.held_out_store is not None:
            loss = job.held_out_loss(
                state.params, segment.sequence_length, segment.rope_scaling, config.evaluation.rows
            )
            tools.writer.write(
                step - 1, {"held_out_loss": loss.per_token, "held_out_bits_per_byte": loss.bits_per_byte}
            )
            tools.progress.note(
                f"end of {stage}: held-out loss {loss.per_token:.4f} nats/token, {loss.bits_per_byte:.4f} bits/byte at "
                f"{segment.sequence_length} tokens"
            )
            if stage == "initial":
                job.short_context_loss = loss.per_token
        if stage.startswith("long_context"):
            _check_gates(job, tools, step, state, segment)

    def should_save(step: int) -> bool:
        return step % config.checkpoint.every_steps == 0 or step in kept

    return Callbacks(
        save=lambda step, state: job.checkpoints.save(step, state, job.describe(step)),
        should_save=should_save,
        stage_end=stage_end,
        derived=derived,
        check=lambda step, metrics, batch, state: check_finite(
            step, metrics, config.optimizer.max_skipped, config.workdir, batch, state.params
        ),
    )


def _check_gates(job: Pretraining, tools: Instruments, step: int, state: TrainState, segment: Segment) -> None:
    for name in job.config.recipe.long_context.gates:
        passed, measured = job.gates[name](state.params, segment)
        tools.progress.note(f"gate {name} of {segment.stage}: {'met' if passed else 'not met'}, {measured}")
        tools.writer.write(step - 1, {f"gate_{name}": float(passed)})
        if not passed:
            job.checkpoints.save(step, state, job.describe(step))
            raise GateFailed(
                f"{segment.stage} ended at step {step} without meeting gate {name} ({measured}); the state is saved: "
                f"give this stage more tokens in recipe.long_context.stages (and recipe.total_tokens) and start again"
            )


def _save_final(job: Pretraining, state: TrainState, step: int) -> str:
    """Writes `final/`: the average of the annealing checkpoints, or the last parameters when nothing is averaged."""
    steps = job.plan.averaged_steps()
    params = (
        average_params(job.checkpoints, steps, job.program.abstract, job.program.layer_rows) if steps else state.params
    )
    folder = _final_folder(job.config)
    final = Checkpoints(folder, CheckpointConfig(keep_last=1))
    if final.latest() != step:
        final.save(step, {"params": params}, {**job.describe(step), "averaged_steps": list(steps)})
    final.close()
    return folder


def _is_finished(config: PretrainConfig, step: int) -> bool:
    folder = _final_folder(config)
    return path_of(folder).is_dir() and Checkpoints(folder, read_only=True).latest() == step


def _final_folder(config: PretrainConfig) -> str:
    return str(path_of(config.workdir) / "final")


def _write_json(config: PretrainConfig, name: str, content: Mapping[str, Any]) -> None:
    """A file of the work folder, written by process 0 alone."""
    if jax.process_index() == 0:
        (path_of(config.workdir) / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
