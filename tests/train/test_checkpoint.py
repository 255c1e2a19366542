"""Checkpoints: bit for bit onto any mesh, kept and deleted by rule, and never half of one."""

import dataclasses
import errno
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.core.params import EMPTY_ROW, abstract_params, letters_of
from llama3_jax.core.paths import path_of
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.train.checkpoint import PARTS, STATE, CheckpointConfig, CheckpointError, Checkpoints, average_params
from llama3_jax.train.layer_arrays import LayerReader
from llama3_jax.train.optim import OptimizerConfig, make_optimizer
from llama3_jax.train.step import abstract_state

TINY = LlamaConfig(
    vocab_size=32, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24, max_length=16
)
KEEP_ALL = CheckpointConfig(keep_last=100)
SAVED_ON = {"fsdp": 4, "tensor": 2}


def abstract_on(config: LlamaConfig = TINY, devices: int = 8, **sizes):
    """The abstract training state of a model on a mesh."""
    mesh = make_mesh(MeshConfig(**({"fsdp": 1} | sizes)), jax.devices()[:devices])
    model = Llama(config, ComputeConfig(), Layout.of(mesh))
    optimizer = make_optimizer(OptimizerConfig(), letters_of(model))
    return abstract_state(abstract_params(model, mesh), optimizer, mesh)


def filled(abstract, seed: int):
    """A state of random values (any bits will do), placed as `abstract` says."""
    rng = np.random.default_rng(seed)
    values = lambda leaf: jnp.asarray((rng.normal(size=leaf.shape) * 100).astype(leaf.dtype))
    return jax.tree.map(lambda leaf: jax.device_put(values(leaf), leaf.sharding), abstract)


def assert_same_bits(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def save(checkpoints: Checkpoints, steps, abstract=None):
    for step in steps:
        checkpoints.save(step, filled(abstract or abstract_on(**SAVED_ON), step), {"step": step})
        checkpoints.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Steps 1, 2 and 3, their values drawn with the step as seed."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(str(folder), KEEP_ALL)
    save(checkpoints, [1, 2, 3])
    checkpoints.close()
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def failing_reads():
    """Orbax leaves coroutines behind when a read fails: let go of them here, where their warning is ignored."""
    yield
    gc.collect()


ignore_coroutines = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize(
    "sizes",
    [
        {"devices": 1},
        {"fsdp": 8},
        {"data": 8},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"devices": 2, "tensor": 2},
        {"context": 4, "fsdp": 2},
    ],
    ids=str,
)
def test_restored_onto_another_mesh_every_bit_is_the_same(folder, sizes):
    abstract = abstract_on(**sizes)
    checkpoints = Checkpoints(str(folder), read_only=True)
    restored = checkpoints.restore(2, abstract)
    assert_same_bits(restored, filled(abstract_on(**SAVED_ON), 2))
    jax.tree.map(lambda leaf, wanted: _check_placed(leaf, wanted), restored, abstract)
    params = checkpoints.restore_params(2, abstract.params)
    assert_same_bits(params, restored.params)
    assert checkpoints.read_run(2) == {"step": 2}


def _check_placed(leaf, wanted):
    assert (leaf.dtype, leaf.sharding) == (wanted.dtype, wanted.sharding)


def test_names_on_disk_are_plain(folder):
    metadata = json.loads((folder / "3" / "state" / "_METADATA").read_text())["tree_metadata"].values()
    keys = ["/".join(part["key"] for part in entry["key_metadata"]) for entry in metadata]
    assert {"params/embedding_VD", "params/layers/attention/wq_DHE", "params/norm/scale_M", "skipped"} <= set(keys)
    assert not [key for key in keys if "value" in key or "." in key]


def test_a_chunk_of_the_parameters_is_of_one_layer(folder):
    reader = LayerReader(folder / "3" / STATE)
    assert reader.shape("layers/mlp/w1_DF") == (2, 16, 24) and reader.dtype("layers/mlp/w1_DF") == np.float32
    expected = filled(abstract_on(**SAVED_ON), 3).params
    for layer in range(2):
        np.testing.assert_array_equal(reader.read("layers/mlp/w1_DF", layer), expected["layers"]["mlp"]["w1_DF"][layer])
    np.testing.assert_array_equal(reader.read("head_DV", None), expected["head_DV"])
    assert reader._open("layers/mlp/w1_DF").chunk_layout.read_chunk.shape == (1, 4, 12)
    assert reader._open("head_DV").chunk_layout.read_chunk.shape == (4, 16)


def test_a_saved_step_is_left_as_it_is(copy):
    checkpoints = Checkpoints(str(copy), KEEP_ALL)
    before = {path: path.stat().st_mtime_ns for path in sorted((copy / "3").rglob("*"))}
    assert checkpoints.save(3, filled(abstract_on(**SAVED_ON), 99), {"step": 99}) == 0.0
    checkpoints.close()
    assert {path: path.stat().st_mtime_ns for path in sorted((copy / "3").rglob("*"))} == before


@pytest.mark.parametrize(
    ("config", "keep_steps", "kept"),
    [
        (CheckpointConfig(keep_last=1), (), [6]),
        (CheckpointConfig(keep_last=2), (), [5, 6]),
        (CheckpointConfig(keep_last=1, keep_every=2), (), [2, 4, 6]),
        (CheckpointConfig(keep_last=1), (1, 3), [1, 3, 6]),
        (CheckpointConfig(keep_last=2, keep_every=4), (3,), [3, 4, 5, 6]),
    ],
)
def test_what_is_kept(tmp_path, config, keep_steps, kept):
    checkpoints = Checkpoints(str(tmp_path), config, keep_steps)
    for step in range(1, 7):
        checkpoints.save(step, {"params": {"w": jnp.full(3, step)}}, {"step": step})
    checkpoints.close()
    assert Checkpoints(str(tmp_path), read_only=True).steps() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(step) for step in kept]


def test_reading_alone_creates_and_cleans_nothing(copy, tmp_path):
    missing = Checkpoints(str(tmp_path / "nowhere"), read_only=True)
    assert missing.latest() is None and missing.steps() == []
    (copy / "4.orbax-checkpoint-tmp").mkdir()
    before = sorted(copy.rglob("*"))
    reader = Checkpoints(str(copy), KEEP_ALL, read_only=True)
    reader.restore(3, abstract_on(devices=1))
    with pytest.raises(CheckpointError, match="was opened for reading only"):
        reader.save(5, filled(abstract_on(devices=1), 5), {})
    reader.close()
    assert sorted(copy.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_a_write_that_was_killed_is_not_picked_up_and_cleaned_away(copy):
    shutil.copytree(copy / "3", copy / "4.orbax-checkpoint-tmp")
    assert Checkpoints(str(copy), read_only=True).latest() == 3
    checkpoints = Checkpoints(str(copy), KEEP_ALL)
    assert checkpoints.steps() == [1, 2, 3]
    save(checkpoints, [5])
    checkpoints.close()
    assert sorted(path.name for path in copy.iterdir()) == ["1", "2", "3", "5"]


@pytest.mark.parametrize("missing", [*PARTS, "run", "state"])
def test_a_copy_that_was_cut_short_is_not_picked_up_and_is_written_anew(copy, missing):
    part = shutil.copytree(copy / "3", copy / "4") / missing
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    assert Checkpoints(str(copy), read_only=True).latest() == 3
    checkpoints = Checkpoints(str(copy), KEEP_ALL)
    save(checkpoints, [4])
    assert checkpoints.latest() == 4
    assert_same_bits(checkpoints.restore(4, abstract_on(devices=1)), filled(abstract_on(devices=1), 4))
    checkpoints.close()


def test_a_step_is_not_there_before_it_is_whole(tmp_path, monkeypatch):
    checkpoints = Checkpoints(str(tmp_path), KEEP_ALL)
    save(checkpoints, [1])
    monkeypatch.setattr(
        checkpoints._manager, "all_steps", lambda: [1, 2]
    )  # Orbax lists a step whose write is under way
    assert checkpoints.latest() == 1


@ignore_coroutines
def test_damaged_data_is_refused_in_one_sentence(copy, failing_reads):
    for data in (copy / "3").rglob("d/*"):  # which of them a read needs differs from write to write
        data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="could not read step 3 of .*; other checkpoints there: 1, 2") as refusal:
        Checkpoints(str(copy), read_only=True).restore(3, abstract_on(devices=1))
    assert len(str(refusal.value)) < 800 and "\n" not in str(refusal.value)


@ignore_coroutines
def test_a_model_that_does_not_fit_is_refused(folder, failing_reads):
    checkpoints = Checkpoints(str(folder), read_only=True)
    wider = abstract_on(dataclasses.replace(TINY, mlp_dim=32), devices=1)
    tied = abstract_on(dataclasses.replace(TINY, tied=True), devices=1)
    for read, wanted in ((checkpoints.restore, wider), (checkpoints.restore_params, wider.params)):
        with pytest.raises(CheckpointError, match="could not read step 3 .* is not compatible with the stored shape"):
            read(3, wanted)
    with pytest.raises(CheckpointError, match="could not read step 3"):
        checkpoints.restore(3, tied)
    with pytest.raises(CheckpointError, match=r"step 3 of .* has no params\['adapter_DF'\]"):
        checkpoints.restore_params(3, {**tied.params, "adapter_DF": jax.ShapeDtypeStruct((2, 2), jnp.float32)})
    with pytest.raises(CheckpointError, match="could not read step 9"):
        checkpoints.read_run(9)


def test_the_average_is_the_mean_in_float32(folder):
    checkpoints, abstract = Checkpoints(str(folder), read_only=True), abstract_on(**SAVED_ON)
    each = [filled(abstract, step).params for step in (1, 3)]
    average = average_params(checkpoints, [1, 3], abstract.params)
    close = lambda mean, *parts: np.testing.assert_allclose(mean, np.mean(parts, axis=0), rtol=1e-6)
    jax.tree.map(close, average, *each)
    jax.tree.map(_check_placed, average, abstract.params)
    assert_same_bits(average_params(checkpoints, [2], abstract.params), filled(abstract, 2).params)


@pytest.mark.parametrize(("steps", "message"), [([2, 5, 9], r"\[5, 9\] not there"), ([], "none not there")])
def test_an_average_with_a_missing_step_is_refused(folder, steps, message):
    with pytest.raises(CheckpointError, match=f"cannot average .*{message}"):
        average_params(Checkpoints(str(folder), read_only=True), steps, abstract_on(**SAVED_ON).params)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (PermissionError("no"), "PermissionError: no"),
    ],
)
def test_a_failed_write_says_why_and_what_is_left_and_may_be_tried_again(copy, monkeypatch, error, reason):
    checkpoints = Checkpoints(str(copy), KEEP_ALL)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", lambda *_, **__: _raise(error))
        with pytest.raises(CheckpointError, match=f"could not write a checkpoint to .*: {reason}; step 3 is intact"):
            save(checkpoints, [4])
    save(checkpoints, [4])
    assert checkpoints.latest() == 4
    checkpoints.close()


def _raise(error):
    raise error


FILL_THE_DISK = """
import shutil
import sys
import jax.numpy as jnp
import numpy as np
from llama3_jax.train.checkpoint import CheckpointConfig, CheckpointError, Checkpoints

state = lambda step: {"params": {"w_DF": jnp.asarray(np.random.default_rng(step).normal(size=200_000), jnp.float32)}}
folder = sys.argv[1] + "/run"
checkpoints = Checkpoints(folder, CheckpointConfig(keep_last=100))
try:
    for step in range(1, 10):
        checkpoints.save(step, state(step), {"step": step})
        checkpoints.wait()
except CheckpointError as error:
    print("said:", error)
shutil.rmtree(folder + "/1")
checkpoints.save(step, state(step), {"step": step})  # the user made room: the same step is written after all
checkpoints.close()
checkpoints = Checkpoints(folder, read_only=True)
for saved in checkpoints.steps():
    same = np.array_equal(checkpoints.restore_params(saved, state(0)["params"])["w_DF"], state(saved)["params"]["w_DF"])
    print("intact:", saved, same)
print("failed:", step)
"""


def test_a_full_disk_leaves_the_checkpoints_before_it(tmp_path):
    """A real one: three megabytes, mounted for this process alone where the system permits it."""
    mount = 'mount -t tmpfs -o size=3m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "mount -t tmpfs tmpfs /mnt"]).returncode:
        pytest.skip("this system does not let us mount a small disk")
    result = subprocess.run(
        [*namespace, mount, "bash", str(tmp_path), sys.executable, FILL_THE_DISK],
        env={**os.environ, "XLA_FLAGS": ""},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    said, *intact, failed = result.stdout.splitlines()
    step = int(failed.removeprefix("failed: "))
    assert 2 <= step < 9
    assert said.endswith(f"run: the disk is full; step {step - 1} is intact")
    assert intact == [f"intact: {saved} True" for saved in range(2, step + 1)]


def test_layers_are_read_by_number_whatever_rows_hold_them(tmp_path):
    """A pipeline stores layers in the order of its ranks, with empty rows between."""
    rows = [2, EMPTY_ROW, 0, 1]
    layers_N2 = np.array([[row, row + 0.5] for row in rows], np.float32)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(3, {"params": {"layers": {"w_NA": jnp.array(layers_N2)}}}, {"layer_rows": rows})
    checkpoints.close()
    reader = LayerReader(path_of(str(tmp_path)) / "3" / STATE, rows)
    assert reader.shape("layers/w_NA") == (3, 2)
    for layer in range(3):
        np.testing.assert_array_equal(reader.read("layers/w_NA", layer), [layer, layer + 0.5])
