"""Several real processes as one run: the same losses, one step at which all leave, a clear end when one is gone.

Processes talk over loopback, each with simulated CPU devices, through the same command that runs on many hosts.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from llama3_jax.core.sharding import MeshConfig, batch_sharding, make_mesh
from llama3_jax.core.telemetry import read_metrics
from llama3_jax.train.checkpoint import Checkpoints
from llama3_jax.train.pretrain import place_batch
from tests.train import short_run
from tests.train.runs import flags_of

ROOT = pathlib.Path(__file__).parents[2]
TINY, SHORT = short_run.TINY, pathlib.Path(short_run.__file__)


def environment(devices: int) -> dict[str, str]:
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    return {**os.environ, "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}


def command(inputs, workdir, config: pathlib.Path, *more: str) -> list[str]:
    flags = flags_of(inputs, workdir)[1:]
    return [sys.executable, "-m", "llama3_jax.cli", "pretrain", f"--config={config}", *flags, *more]


def start(inputs, workdir, config, processes: int, devices: int, *more: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}", "--heartbeat_timeout=5", *more)
    return [
        subprocess.Popen(
            command(inputs, workdir, config, *cluster, f"--process_id={process}"),
            cwd=ROOT,
            env=environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]


def finish(processes: list[subprocess.Popen], seconds: float = 240) -> tuple[list[int], list[str]]:
    """Exit statuses and outputs; whatever is still running at the end is killed."""
    deadline = time.monotonic() + seconds
    try:
        outputs = [process.communicate(timeout=max(1, deadline - time.monotonic()))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def wait_for_step(workdir, step: int, processes: list[subprocess.Popen], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if (workdir / "metrics.jsonl").exists() and max(losses(workdir), default=-1) >= step:
            return
        time.sleep(0.05)
    _, outputs = finish(processes, 1)
    pytest.fail(f"step {step} was not reached: {outputs[0][-2000:]}")


def losses(workdir) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(str(workdir)) if "loss" in line}


def alone(inputs, workdir, config: pathlib.Path) -> str:
    """The same run, or the rest of it, in one process of eight devices."""
    result = subprocess.run(
        command(inputs, workdir, config), cwd=ROOT, env=environment(8), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def assert_same_losses(got: dict[int, float], expected: dict[int, float]) -> None:
    assert sorted(got) == sorted(expected)
    np.testing.assert_allclose(
        [got[step] for step in sorted(got)], [expected[step] for step in sorted(got)], rtol=0, atol=1e-5
    )


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    """Losses of the short run in one process."""
    workdir = tmp_path_factory.mktemp("alone")
    alone(inputs, workdir, SHORT)
    return losses(workdir)


def test_sigterm_to_one_stops_all_at_one_step_and_one_process_continues(inputs, expected, tmp_path):
    processes = start(inputs, tmp_path, SHORT, 4, 2)
    wait_for_step(tmp_path, 2, processes)
    processes[2].send_signal(signal.SIGTERM)
    statuses, outputs = finish(processes)
    assert statuses == [75] * 4, outputs
    (step,) = map(int, re.findall(r"SIGTERM on process 2: saving step (\d+) and stopping", outputs[0]))
    assert Checkpoints(str(tmp_path / "checkpoints"), read_only=True).latest() == step < 100
    before = losses(tmp_path)
    assert sorted(before) == list(range(step))
    assert_same_losses(before, {number: expected[number] for number in before})
    assert "SIGTERM" not in "".join(outputs[1:])  # process 0 alone speaks
    assert f"continuing {tmp_path} at step {step}" in alone(inputs, tmp_path, SHORT)
    assert_same_losses(losses(tmp_path), expected)


def test_a_killed_process_is_missed(inputs, tmp_path):
    processes = start(inputs, tmp_path, SHORT, 2, 2)
    wait_for_step(tmp_path, 2, processes)
    processes[1].kill()
    killed = time.monotonic()
    statuses, outputs = finish(processes)
    assert time.monotonic() - killed < 5 + 15  # the timeout, and a busy machine
    assert statuses == [75, -signal.SIGKILL], outputs
    sentence = (
        r"llama3 pretrain: process 1 of 2 stopped answering for 5 s; stopping at step \d+; "
        r"the same command continues from the last checkpoint\n"
    )
    assert re.search(sentence, outputs[0]) and "Traceback" not in outputs[0], outputs[0]


def test_a_process_places_only_its_rows_and_its_part_of_each():
    """As if only rows 2, 3, 6 and 7 were here: the callback of a device asks for no others."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    sharding, shape = batch_sharding(mesh, 3, leading=1), (3, 8, 16)
    whole = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    placed = place_batch({"tokens": whole}, sharding, shape, np.arange(8))["tokens"]
    assert placed.addressable_shards[0].data.shape == (3, 2, 8)
    np.testing.assert_array_equal(placed, whole)

    rows = np.array([2, 3, 6, 7])
    asked = []

    def make(shape, sharding, part):
        for index in ((slice(0, 3), slice(2, 4), slice(0, 8)), (slice(None), slice(6, 8), slice(8, 16))):
            np.testing.assert_array_equal(part(index), whole[index])
            asked.append(index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "make_array_from_callback", make)
        place_batch({"tokens": whole[:, rows]}, sharding, shape, rows)
    assert len(asked) == 2


@pytest.mark.slow
def test_a_sequence_may_be_split_over_processes(inputs, expected, tmp_path):
    mesh = ("--config.mesh.context=4", "--config.mesh.fsdp=2", "--config.recipe.total_tokens=5120")
    statuses, outputs = finish(start(inputs, tmp_path, SHORT, 4, 2, *mesh))
    assert statuses == [0] * 4, outputs
    assert_same_losses(losses(tmp_path), {step: expected[step] for step in range(10)})


@pytest.mark.slow
def test_process_0_may_be_killed_and_all_continue(inputs, expected, tmp_path):
    processes = start(inputs, tmp_path, SHORT, 4, 2)
    wait_for_step(tmp_path, 55, processes)
    processes[0].kill()
    statuses, outputs = finish(processes)
    assert statuses == [-signal.SIGKILL, 75, 75, 75], outputs
    for output in outputs[1:]:
        assert "process 0 of 4 is gone" in output or "process 0 of 4 stopped answering" in output
    statuses, outputs = finish(start(inputs, tmp_path, SHORT, 4, 2))
    assert statuses == [0] * 4, outputs
    assert f"continuing {tmp_path} at step 50" in outputs[0]
    assert_same_losses(losses(tmp_path), expected)


@pytest.mark.slow
def test_a_frozen_process_is_missed(inputs, tmp_path):
    processes = start(inputs, tmp_path, SHORT, 2, 2)
    wait_for_step(tmp_path, 2, processes)
    processes[1].send_signal(signal.SIGSTOP)
    output, _ = processes[0].communicate(timeout=60)
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 75 and "process 1 of 2 stopped answering for 5 s" in output


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named(inputs, tmp_path):
    processes = start(inputs, tmp_path, SHORT, 2, 2, "--start_timeout=15")
    processes[1].kill()
    _, outputs = finish(processes, 60)
    assert "process 0 of 2 did not meet the others at 127.0.0.1:" in outputs[0], outputs[0]


@pytest.mark.slow
def test_four_processes_run_every_stage_and_continue_what_one_began(inputs, tmp_path):
    """The whole of tiny: ramp, long context with its gate, annealing, held-out text, the averaged model."""
    alone(inputs, tmp_path / "alone", TINY)
    launch = [str(ROOT / "launch" / "local.sh"), "4", "2", "--", *command(inputs, tmp_path / "four", TINY)]
    result = subprocess.run(launch, cwd=ROOT, env=environment(8), capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "[0] " in result.stdout and "the model is in" in result.stdout
    assert_same_losses(losses(tmp_path / "four"), losses(tmp_path / "alone"))
    averages = [Checkpoints(str(tmp_path / name / "final"), read_only=True).read_run(28) for name in ("four", "alone")]
    assert averages[0]["averaged_steps"] == averages[1]["averaged_steps"]
    assert {path.name for path in (tmp_path / "four").iterdir()} == {
        path.name for path in (tmp_path / "alone").iterdir()
    }
