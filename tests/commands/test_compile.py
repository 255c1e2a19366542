"""`llama3 compile` as a person meets it: what it refuses in one sentence, and small steps compiled for real."""

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys

import pytest

from llama3_jax import cli
from tests.train.runs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections, on a config file
TINY = f"--config={CONFIGS / 'tiny.py'}"
SMALL = [TINY, "--config.compute.attention=chunked"]  # sequences of 16 are too short for the kernels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TINY], "--topology must have a value"),
        (["--topology=v5e-4"], "--config is required"),
        ([TINY, "--topology=v5q-4"], "unknown topology 'v5q-4'; did you mean a v5p?"),
        ([TINY, "--topology=v5p-100"], "nearest slices are v5p-32 (2x2x4), v5p-64 (2x4x4), v5p-128 (4x4x4)"),
        ([TINY, "--topology=h100x12"], "GPUs come in hosts of 8; try h100x16"),
        (
            [TINY, "--topology=v5e-4", "--config.mesh.tensor=3"],
            "tensor 3 needs a multiple or product of 3 devices, but",
        ),
        ([TINY, "--topology=v5e-16", "--config.mesh.fsdp=8"], "devices, but there are 16"),
        ([TINY, "--topology=v5e-4", "--config.mesh.tensor=4"], "kv_heads 2 does not divide by mesh axis tensor 4"),
        ([TINY, "--topology=v5e-4", "--stage=middle"], "no stage 'middle'; there are initial, long_context_64, anneal"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_sentence(capfd, arguments, message):
    assert cli.main(["compile", *arguments]) == 1
    printed = capfd.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("llama3 compile: ") and message in lines[0], lines
    assert not printed.out


@pytest.fixture
def compile_for():
    """`compile_for(topology, *arguments) -> (exit status, stdout)` in a process of its own, as on a command line."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")

    def run(topology, *arguments):
        command = [sys.executable, "-m", "llama3_jax.cli", "compile", *SMALL, f"--topology={topology}", *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=CONFIGS.parent)
        assert done.stdout, done.stderr
        return done.returncode, done.stdout

    return run


@pytest.mark.tpu_aot
def test_a_step_is_compiled_for_tpus(compile_for):
    status, out = compile_for("v5e-4")
    assert status == 0
    assert "stage initial (segment 1)" in out and "v5e-4 (2x2 chips, 4 devices): fsdp 4" in out
    assert re.fullmatch(r"fits: 0\.0\d GiB of 15\.75 GiB per device", out.splitlines()[-1])


@pytest.mark.tpu_aot
def test_json_is_one_line_of_numbers_and_the_executable_is_saved(compile_for, tmp_path):
    path = tmp_path / "step.bin"
    flags = ["--stage=anneal", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", f"--save={path}", "--json"]
    status, out = compile_for("v5p-8", *flags)
    assert status == 0 and len(out.splitlines()) == 1
    found = json.loads(out)
    assert (found["stage"], found["topology"], found["devices"]) == ("anneal", "v5p-8", 4)
    memory = found["memory"]
    parts = memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporaries"] + memory["code"]
    assert memory["fits"] and memory["peak"] == parts
    axes = {entry["axis"] for entry in found["collectives"]}
    assert {"fsdp", "tensor"} <= axes <= {"fsdp", "tensor", "fsdp+tensor"}
    assert found["flops"]["compiled"] > 0 and found["cycles"]["matmul"] > 0
    executable, _, _ = pickle.loads(path.read_bytes())
    assert len(executable) > 10_000


@pytest.mark.tpu_aot
def test_a_step_that_does_not_fit_says_what_would(compile_for):
    larger = [f"--config.model.{name}" for name in ("embed_dim=8192", "mlp_dim=65536", "num_layers=24")]
    status, out = compile_for("v5e-4", *larger)
    assert status == 1
    *_, last = out.splitlines()
    assert re.fullmatch(r"does not fit: [\d.]+ GiB of 15\.75 GiB per device", last)
    assert "optimizer moments" in out
