"""Training an encoder to score documents as a chat model did (Llama 3, 3.1: DistilRoBERTa on Llama 2's labels).

The plan, the step, the loop and the checkpoints are those of pre-training. The plan counts in documents: a row of the
plan is one document, `initial` is the linear warm-up and `anneal` the linear decay to 0. Both end with an evaluation
on held-out documents, the first of them early enough to see that something is wrong.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.core import config as config_lib
from llama3_jax.core.params import Params, abstract_params, init_params, map_declarations, split_module
from llama3_jax.core.paths import path_of
from llama3_jax.core.sharding import Layout, make_mesh
from llama3_jax.core.telemetry import Goodput, MetricsWriter, ProfilerWindow, Progress
from llama3_jax.data.windows import WindowEncoder
from llama3_jax.model.roberta import Roberta, encoder_layout
from llama3_jax.train.checkpoint import CheckpointConfig, CheckpointError, Checkpoints
from llama3_jax.train.classifier_config import ClassifierConfig, classifier_recipe, make_classifier_objective
from llama3_jax.train.classifier_data import ClassifierBatches, Examples
from llama3_jax.train.classifier_metrics import evaluate_scores
from llama3_jax.train.classifier_store import CLASSIFIER, TOKENIZER
from llama3_jax.train.gradients import make_gradients
from llama3_jax.train.loop import Callbacks, Instruments, Loop
from llama3_jax.train.optim import make_optimizer
from llama3_jax.train.program import resolve_compute
from llama3_jax.train.recipe import Plan, Segment
from llama3_jax.train.resilience import StopSignal, check_finite
from llama3_jax.train.scorer import check_fits, make_outputs, place_params
from llama3_jax.train.step import TrainState, abstract_state, init_state, make_train_step

MAY_CHANGE = ("workdir", "checkpoint", "log_every", "mesh", "compute")  # while a run is interrupted


@dataclasses.dataclass(frozen=True)
class ClassifierResult:
    """How a run ended."""

    finished: bool
    steps: int
    measures: dict[str, float]  # of the last evaluation


class ClassifierRun:
    """A run made ready: everything checked, nothing trained yet."""

    def __init__(self, config: ClassifierConfig, encoder: WindowEncoder, train: Examples, held_out: Examples):
        self.config, self.encoder, self.train, self.held_out = config, encoder, train, held_out
        self.mesh = make_mesh(config.mesh)
        self.layout = encoder_layout(self.mesh)
        _check_data(config, self.layout, train, held_out)
        compute = resolve_compute(config.compute, self.mesh)
        self.module = Roberta(config.model, compute, self.layout)
        check_fits(self.module, encoder)
        self.batches = ClassifierBatches(
            train, config.batch_rows, config.seed, encoder.config.length, config.model.pad_id
        )
        self.plan = Plan(classifier_recipe(config, self.batches.steps_per_epoch))
        self.optimizer = make_optimizer(config.optimizer, _decay_letters(self.module))
        self.checkpoints = Checkpoints(str(path_of(config.workdir) / "checkpoints"), config.checkpoint)
        self._outputs = make_outputs(self.module, self.mesh, encoder.config.length)
        self.measures: dict[str, float] = {}

    def start(self, params: Params | None) -> tuple[TrainState, int]:
        """The newest checkpoint's state and step; or a fresh state around `params`, which may lack the head."""
        step = self.checkpoints.latest()
        if step is not None:
            self._check_continues(self.checkpoints.read_run(step))
            abstract = abstract_params(self.module, self.mesh, self.layout)
            return self.checkpoints.restore(step, abstract_state(abstract, self.optimizer, self.mesh)), step
        fresh = init_params(self.module, self.config.seed, self.mesh, self.layout)
        if params is not None:
            fresh = place_params(self.module, {**fresh, **params}, self.mesh)
        with jax.set_mesh(self.mesh):
            return jax.jit(lambda p: init_state(p, self.optimizer), donate_argnums=0)(fresh), 0

    def describe(self, step: int) -> dict[str, Any]:
        """What a checkpoint says about itself (`run.json`)."""
        return {
            "step": step,
            "documents": self.plan.tokens(step),
            "fingerprints": {
                "tokenizer": self.encoder.fingerprint,
                "train": self.train.fingerprint,
                "held_out": self.held_out.fingerprint,
            },
            CLASSIFIER: config_lib.to_dict(self.config),
        }

    def _check_continues(self, run: Mapping[str, Any]) -> None:
        wanted = self.describe(run["step"])
        for name in ("fingerprints", CLASSIFIER):
            old, new = run[name], wanted[name]
            for key in old.keys() | new.keys():
                if old.get(key) != new.get(key) and key not in MAY_CHANGE:
                    raise CheckpointError(
                        f"{self.config.workdir} holds a checkpoint of another run at step {run['step']}: its {key} "
                        f"differs ({old.get(key)} against {new.get(key)}); choose another folder, or remove this one"
                    )

    def device_batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
        """Batches on the mesh from `start_step` on."""
        per_epoch = self.batches.steps_per_epoch
        for epoch in range(start_step // per_epoch, self.config.epochs):
            places = self.batches.epoch(epoch)
            for number in range(max(0, start_step - epoch * per_epoch), per_epoch):
                batch = self.batches.batch(places[number])
                yield {name: jax.device_put(array, self._sharding(array.ndim)) for name, array in batch.items()}

    def _sharding(self, ndim: int) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(None, *self.layout.used("BS"[: ndim - 1])))

    def make_step(self):
        """`step(state, batch, learning_rate)`, compiled for each length of rows as it comes."""
        gradients = make_gradients(
            split_module(self.module)[0], make_classifier_objective(self.config.model.num_labels)
        )
        step = jax.jit(make_train_step(gradients, self.optimizer), donate_argnums=0)

        def run(state: TrainState, batch: Mapping[str, jax.Array], learning_rate: Any):
            with jax.set_mesh(self.mesh):
                return step(state, batch, learning_rate)

        return run

    def evaluate(self, params: Params) -> dict[str, float]:
        """Measures of the held-out documents; see `evaluate_scores`."""
        outputs = self._outputs(params, self.held_out.windows)
        self.measures = evaluate_scores(outputs, self.held_out.labels, self.config.positive_from)
        return self.measures


def train_classifier(
    config: ClassifierConfig,
    encoder: WindowEncoder,
    train: Examples,
    held_out: Examples,
    params: Params | None = None,
) -> ClassifierResult:
    """Trains from the work folder's newest checkpoint, else from `params`, else from random initial values.

    Leaves `final/` (parameters), `tokenizer.json`, `metrics.jsonl` and `evaluation.json` in the work folder. The same
    config, documents and mesh give the same bits, stopped in between or not. `params` may lack the head, which is then
    drawn by the seed.

    Raises ValueError for what does not fit; CheckpointError when the folder holds another run; NonFiniteError.
    """
    run, goodput = ClassifierRun(config, encoder, train, held_out), Goodput()
    state, start_step = run.start(params)
    folder, total = path_of(config.workdir), run.plan.total_steps
    (folder / TOKENIZER).write_text(encoder.path.read_text(encoding="utf-8"), encoding="utf-8")
    writer = MetricsWriter(config.workdir, start_step)
    progress = Progress(total, start_step, config.log_every, unit="documents")
    profiler = ProfilerWindow(str(folder / "profile"), None, 1)
    with contextlib.ExitStack() as closing:
        for close in (run.checkpoints.close, writer.close, progress.close):
            closing.callback(close)
        tools = Instruments(writer=writer, progress=progress, goodput=goodput, profiler=profiler)
        step_of = run.make_step()
        with StopSignal() as stop:
            loop = Loop(run.plan, lambda segment: step_of, _callbacks(run, tools), tools)
            state, step = loop.run(state, start_step, run.device_batches(start_step), stop)
        run.checkpoints.wait()
        finished = step == total
        if finished:
            measures = run.measures or run.evaluate(state.params)
            _save_final(run, state.params, step)
            (folder / "evaluation.json").write_text(json.dumps(measures, indent=1) + "\n", encoding="utf-8")
    return ClassifierResult(finished, step, run.measures)


def _callbacks(run: ClassifierRun, tools: Instruments) -> Callbacks:
    def derived(segment: Segment, seconds: float) -> dict[str, float]:
        return {"step_seconds": seconds, "documents_per_second": segment.batch_tokens / seconds}

    def stage_end(step: int, stage: str, state: TrainState) -> None:
        measures = run.evaluate(state.params)
        tools.writer.write(step - 1, {f"held_out_{name}": value for name, value in measures.items()})
        text = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
        after = "warm-up" if stage == "initial" else "training"
        tools.progress.note(f"held out, after {after} (step {step}): {text}")

    return Callbacks(
        save=lambda step, state: run.checkpoints.save(step, state, run.describe(step)),
        should_save=lambda step: step % run.config.checkpoint.every_steps == 0,
        stage_end=stage_end,
        derived=derived,
        check=lambda step, metrics, batch, state: check_finite(
            step, metrics, run.config.optimizer.max_skipped, run.config.workdir, batch, state.params
        ),
    )


def _save_final(run: ClassifierRun, params: Params, step: int) -> None:
    final = Checkpoints(str(path_of(run.config.workdir) / "final"), CheckpointConfig(keep_last=1))
    final.save(step, {"params": params}, run.describe(step) | {"measures": run.measures})
    final.close()


def _decay_letters(module: Roberta) -> Params:
    """Letters by which the optimizer decays matrices: biases count as norms do."""
    return map_declarations(lambda path, param: "M" if path[-1].startswith("bias") else param.letters, module)


def _check_data(config: ClassifierConfig, layout: Layout, train: Examples, held_out: Examples) -> None:
    split = layout.num_devices(("data", "fsdp"))
    if config.batch_rows % split:
        raise ValueError(f"batch_rows {config.batch_rows} does not divide over data x fsdp = {split} devices")
    for name, examples in (("training", train), ("held-out", held_out)):
        labels, classes = examples.labels, config.model.num_labels
        if not len(labels) or not np.isfinite(labels).all():
            raise ValueError(f"there are no {name} documents, or one has a label that is no number")
        if classes > 1 and not (np.isin(labels, np.arange(classes))).all():
            raise ValueError(f"a {name} document has a label that is none of the classes 0 to {classes - 1}")
