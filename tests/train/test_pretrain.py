"""Whole runs: every stage, interruption of every kind, other meshes, and what is refused before the first step."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.core.telemetry import read_metrics
from llama3_jax.train import pretrain as pretrain_lib
from llama3_jax.train.checkpoint import CheckpointError, Checkpoints
from llama3_jax.train.load import load_model
from llama3_jax.train.pretrain import GateFailed, Pretraining, pretrain
from llama3_jax.train.recipe import Plan
from llama3_jax.train.report import plot_losses
from llama3_jax.train.resilience import NonFiniteError
from tests.train.runs import flags_of, tiny_config, write_store

ROOT = pathlib.Path(__file__).parents[2]


def losses(workdir) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(str(workdir)) if "loss" in line}


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """An uninterrupted run and its losses."""
    config = tiny_config(inputs, tmp_path_factory.mktemp("finished"))
    return config, pretrain(config)


def test_a_run_learns_through_every_stage_and_leaves_its_average(finished):
    config, result = finished
    plan = Plan(config.recipe)
    assert result.finished and not result.already_finished and result.steps == plan.total_steps
    lines = read_metrics(config.workdir)
    by_step = losses(config.workdir)
    assert sorted(by_step) == list(range(plan.total_steps))
    assert np.mean([by_step[step] for step in range(plan.total_steps - 4, plan.total_steps)]) < by_step[0] - 0.5
    stages = list(dict.fromkeys(line["stage"] for line in lines if "stage" in line))
    assert stages == ["initial", "long_context_64", "anneal"]
    assert sum("held_out_loss" in line for line in lines) == 3
    assert [line["gate_short_context"] for line in lines if "gate_short_context" in line] == [1.0]
    assert {"mfu_causal"}.isdisjoint(lines[0])  # no peak is known for a CPU, so none is claimed
    final = Checkpoints(result.final, read_only=True)
    run = final.read_run(plan.total_steps)
    assert run["averaged_steps"] == list(plan.averaged_steps())
    assert run["tokens"] == plan.tokens(plan.total_steps)


def test_the_final_model_is_the_mean_of_the_annealing_checkpoints(finished):
    config, result = finished
    job = Pretraining(config)
    steps = job.plan.averaged_steps()
    parts = [job.checkpoints.restore_params(step, job.program.abstract) for step in steps]
    final = Checkpoints(result.final, read_only=True).restore_params(job.plan.total_steps, job.program.abstract)
    jax.tree.map(
        lambda mean, *each: np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-6, atol=1e-7), final, *parts
    )
    job.checkpoints.close()


def test_a_finished_run_is_left_alone(finished):
    config, _ = finished
    before = losses(config.workdir)
    result = pretrain(config)
    assert result.finished and result.already_finished
    assert losses(config.workdir) == before


def test_sigterm_saves_and_the_rest_is_bitwise_equal(inputs, finished, tmp_path):
    config = tiny_config(inputs, tmp_path)
    stopped = []

    def stop_at_step_8(self, step, metrics, batch, state, original=pretrain_lib.check_finite):
        if step == 8:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pretrain_lib, "check_finite", lambda step, *rest: stop_at_step_8(None, step, *rest[:1], None, None)
        )
        result = pretrain(config)
    assert stopped == [8] and not result.finished
    assert result.steps == 10  # the step in flight is finished and counted
    assert Checkpoints(str(tmp_path / "checkpoints"), read_only=True).latest() == result.steps
    resumed = pretrain(config)
    assert resumed.finished
    assert losses(tmp_path) == losses(finished[0].workdir)


def start_process(inputs, workdir) -> subprocess.Popen:
    command = [sys.executable, "-m", "llama3_jax.cli", "pretrain", *flags_of(inputs, workdir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_kill_9_at_any_moment_loses_nothing(inputs, finished, tmp_path):
    """Killed three times at different points, one of them most likely inside a save; then finished."""
    steps_before_kill = [3, 6, 13]
    for wanted in steps_before_kill:
        process = start_process(inputs, tmp_path)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (tmp_path / "metrics.jsonl").exists() and max(losses(tmp_path), default=-1) >= wanted:
                break
            time.sleep(0.005)
        process.kill()
        process.communicate()
    process = start_process(inputs, tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "continuing" in output
    assert losses(tmp_path) == losses(finished[0].workdir)


def test_the_losses_do_not_depend_on_the_mesh_or_on_micro_batches(inputs, finished, tmp_path, capsys):
    expected = losses(finished[0].workdir)
    for number, changes in enumerate(
        (
            {"mesh__tensor": 2, "micro_batch_tokens": 256},
            {"mesh__data": 2},
            {"mesh__context": 2, "mesh__tensor": 2},
            {"mesh__context": 4, "compute__context_split": "documents", "compute__context_block": 2},
        )
    ):
        config = tiny_config(inputs, tmp_path / str(number), **changes)
        pretrain(config)
        told = capsys.readouterr()
        assert ("context ranks by" in told.out + told.err) == ("mesh__context" in changes)
        got = losses(config.workdir)
        np.testing.assert_allclose([got[s] for s in sorted(got)], [expected[s] for s in sorted(expected)], rtol=1e-4)


PLAIN = {"mesh__tensor": 2, "mesh__fsdp": 2, "mesh__data": 2}
PIPELINE = {"mesh__stage": 2, "mesh__tensor": 2, "pipeline__chunks": 2, "micro_batch_tokens": 256}


@pytest.mark.parametrize(
    "before,after",
    [({}, PLAIN), (PIPELINE, PLAIN), pytest.param({}, PIPELINE, marks=pytest.mark.slow)],
    ids=["plain", "from_a_pipeline", "to_a_pipeline"],
)
def test_a_run_continues_on_another_mesh(inputs, finished, tmp_path, before, after):
    whole = tiny_config(inputs, tmp_path)
    cut = tiny_config(inputs, tmp_path, recipe__anneal__tokens=2048, **before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "total_steps", property(lambda self: 12))
        patch.setattr(pretrain_lib, "_save_final", lambda *_: None)
        pretrain(cut)
    other = tiny_config(inputs, tmp_path, **after)
    assert pretrain(other).finished
    expected, got = losses(finished[0].workdir), losses(tmp_path)
    if not before:
        assert {s: got[s] for s in range(12)} == {s: expected[s] for s in range(12)}
    np.testing.assert_allclose([got[s] for s in sorted(got)], [expected[s] for s in sorted(expected)], rtol=1e-4)
    assert whole.model == other.model
    final, reference = (load_model(str(run.workdir), make_mesh(MeshConfig())).params for run in (other, finished[0]))
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, atol=2e-3), final, reference)


@pytest.mark.parametrize("variant", ["llama3_1", "llama3_2"])
def test_variants_train(inputs, tmp_path, variant):
    config = tiny_config(inputs, tmp_path, variant, recipe__rope_scaling_from="long_context", checkpoint__keep_last=20)
    assert pretrain(config).finished
    by_step = losses(tmp_path)
    assert by_step[max(by_step)] < by_step[0]
    mesh = make_mesh(MeshConfig())
    last_unscaled = next(step for step, stage in Plan(config.recipe).stage_ends().items() if stage == "initial")
    early, late = (load_model(str(tmp_path), mesh, step).model.config for step in (last_unscaled, None))
    assert early.rope_scaling is None
    assert late.rope_scaling == config.model.rope_scaling is not None


def test_a_model_is_loaded_as_it_was_trained_without_sequence_parallelism(inputs, tmp_path):
    job = Pretraining(tiny_config(inputs, tmp_path, compute__sequence_parallel=False))
    job.checkpoints.save(1, job.start()[0], job.describe(1))
    job.checkpoints.close()
    layout = load_model(str(tmp_path), make_mesh(MeshConfig(tensor=2))).model.layout
    assert layout.size("tensor") == 2 and not layout.sequence_parallel_axes


def test_all_but_checkpoints_of_a_run_on_object_storage_is_there(inputs, bucket, tmp_path, monkeypatch):
    """Checkpoints are written by TensorStore, which has its own client: here they go to a folder."""

    def on_disk(folder, *arguments, **options):
        return Checkpoints(folder.replace("gs://bucket", str(tmp_path / "disk")), *arguments, **options)

    monkeypatch.setattr(pretrain_lib, "Checkpoints", on_disk)
    config = tiny_config(inputs, "gs://bucket/run")
    result = pretrain(config)
    plot_losses(config.workdir, f"{config.workdir}/loss.png")
    assert result.finished and result.final == "gs://bucket/run/final"
    assert len(losses(config.workdir)) == result.steps
    found = {name.removeprefix("run/").split("/")[0] for name in bucket.files()}
    assert found == {"config.json", "metrics.jsonl", "tensorboard", "goodput.json", "loss.png"}
    assert bucket.cat_file("gs://bucket/run/loss.png").startswith(b"\x89PNG")


def test_a_gate_that_is_not_met_stops_the_run_and_more_tokens_continue_it(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path, evaluation__recovery=0.5)
    with pytest.raises(GateFailed, match="long_context_64 ended at step .* without meeting gate short_context"):
        pretrain(config)
    stages = ({"sequence_length": 64, "tokens": 4096},)
    longer = tiny_config(
        inputs, tmp_path, recipe__long_context__stages=stages, recipe__total_tokens=14_336, evaluation__recovery=2.0
    )
    assert pretrain(longer).finished


def test_non_finite_gradients_are_skipped_counted_and_dumped(inputs, tmp_path):
    """And what was traced until then is written."""
    config = tiny_config(
        inputs, tmp_path, optimizer__max_skipped=3, telemetry__profile_start=1, telemetry__profile_steps=50
    )
    job = Pretraining(config)
    state, _ = job.start()
    poisoned = jax.tree.map(lambda x: x, state.params)
    poisoned["norm"]["scale_M"] = poisoned["norm"]["scale_M"] * np.nan
    job.checkpoints.save(
        1, type(state)(poisoned, state.moments, state.skipped, state.skipped_in_a_row), job.describe(1)
    )
    job.checkpoints.close()
    with pytest.raises(NonFiniteError, match="not finite for 3 steps in a row"):
        pretrain(config)
    (dump,) = tmp_path.glob("non_finite_*")
    report = json.loads((dump / "report_process0.json").read_text())
    assert report["params"]["norm/scale_M"]["non_finite"] > 0
    assert report["params"]["embedding_VD"]["non_finite"] == 0
    assert np.load(dump / "tokens_process0.npy").size
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model__vocab_size": 600}, ValueError, "has 512 tokens, model.vocab_size is 600"),
        ({"mesh__tensor": 3}, ValueError, "but there are 8"),
        ({"mesh__tensor": 4}, ValueError, "kv_heads 2 does not divide by mesh axis tensor 4; nearest legal size: 2"),
        ({"micro_batch_tokens": 48}, ValueError, "micro_batch_tokens must be a multiple of"),
        ({"mesh__stage": 8}, ValueError, "2 layers cannot be laid out over 8 stages"),
        (
            {"mesh__context": 8, "compute__context_split": "documents", "compute__context_block": 2},
            ValueError,
            "16 tokens do not divide by 2 x context 8 x context_block 2; nearest legal length: 32",
        ),
        ({"compute__context_split": "stripes"}, ValueError, "'stripes' is not one of chunks, documents"),
        ({"model__max_length": 32}, ValueError, "trains at 64 tokens, model.max_length is 32"),
        ({"recipe__long_context__gates": ("needle",)}, ValueError, "gate 'needle' has no evaluator"),
        ({"data__held_out": None}, ValueError, "short_context gate needs data.held_out"),
        ({"data__tokenizer": "/nowhere/tokenizer.model"}, FileNotFoundError, "/nowhere/tokenizer.model"),
        ({"data__sources__text": "/nowhere/tokens"}, FileNotFoundError, "/nowhere/tokens"),
        (
            {"data__sources__other": "/x", "recipe__mixture": ({"tokens": 0, "weights": {"txt": 1.0}},)},
            ValueError,
            "txt",
        ),
    ],
)
def test_refused_before_the_first_step(inputs, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        pretrain(tiny_config(inputs, tmp_path / "run", **changes))
    assert not list((tmp_path / "run").glob("metrics*"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model__mlp_dim": 96}, "model"),
        ({"seed": 1}, "seed"),
        ({"recipe__ramp": ({"tokens": 0, "sequence_length": 16, "batch_tokens": 512},)}, "recipe before step"),
    ],
)
def test_a_workdir_of_another_run_is_refused(inputs, finished, changes, what):
    config = tiny_config(inputs, finished[0].workdir, **changes)
    with pytest.raises(CheckpointError, match=f"holds a checkpoint of another run at step .*: its {what}"):
        pretrain(config)


def test_a_store_of_another_tokenizer_and_a_changed_store_are_refused(inputs, tmp_path):
    config = tiny_config(inputs, tmp_path / "run")
    pretrain_lib.open_data(config)
    other = tmp_path / "other"
    tokenizer = pretrain_lib.Tokenizer.load(config.data.tokenizer)
    write_store(other, tokenizer, ["a text of its own " * 300])
    manifest = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(manifest.replace(tokenizer.fingerprint, "0" * 64))
    with pytest.raises(ValueError, match="other"):
        pretrain_lib.open_data(tiny_config(inputs, tmp_path / "run", data__sources__text=str(other)))
