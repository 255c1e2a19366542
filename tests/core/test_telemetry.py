"""What a run tells: metrics that survive interruption, throughput against the right peak, times that add up."""

import json
import pathlib
import struct
import types

import jax
import pytest
from tensorboardX.proto.event_pb2 import Event

from llama3_jax.core import telemetry
from llama3_jax.core.telemetry import (
    Goodput,
    MetricsWriter,
    ProfilerWindow,
    Progress,
    TelemetryConfig,
    peak_flops,
    read_metrics,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set: `clock.now = 3.0`."""
    fake = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: fake.now)
    return fake


def write(folder, start_step, steps, **more):
    writer = MetricsWriter(str(folder), start_step)
    for step in steps:
        writer.write(step, {"loss": step / 2, "stage": "initial", **more})
    writer.close()


def test_a_resumed_run_replaces_what_was_written_after_its_checkpoint(tmp_path):
    write(tmp_path, 0, range(6), run=1)
    write(tmp_path, 4, range(4, 8), run=2)
    assert [(line["step"], line["run"]) for line in read_metrics(str(tmp_path))] == [
        *((step, 1) for step in range(4)),
        *((step, 2) for step in range(4, 8)),
    ]


def test_a_torn_last_line_is_dropped_by_reader_and_by_the_next_run(tmp_path):
    write(tmp_path, 0, range(3))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 3, "loss": 1.')
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [0, 1, 2]
    write(tmp_path, 3, [3])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


def test_on_object_storage_the_lines_are_there_when_saved_and_a_resumed_run_continues_them(bucket):
    writer = MetricsWriter("gs://bucket/run", 0)
    for step in range(3):
        writer.write(step, {"loss": step / 2})
    writer.save()
    writer.write(3, {"loss": 9.0})  # the process is killed here
    assert [line["step"] for line in read_metrics("gs://bucket/run")] == [0, 1, 2]
    writer.close()
    write("gs://bucket/run", 2, [2, 3], run=2)
    assert [line.get("run") for line in read_metrics("gs://bucket/run")] == [None, None, 2, 2]
    board = {name for name in bucket.files() if name.startswith("run/tensorboard/events.")}
    assert board and set(bucket.files()) == {"run/metrics.jsonl"} | board


def events(folder: pathlib.Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of every scalar in a folder of TensorBoard files."""
    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_tensorboard_gets_the_numbers(tmp_path):
    write(tmp_path, 0, [0, 1])
    assert events(tmp_path / "tensorboard") == [("loss", 0, 0.0), ("loss", 1, 0.5)]


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5e", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 2307e12 / 2),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("cpu", None),
        ("TPU v3", None),
    ],
)
def test_peaks_are_those_of_the_device_or_unknown(kind, peak):
    device = types.SimpleNamespace(device_kind=kind)
    assert peak_flops(device) == peak
    assert peak_flops(device, 5e12) == 5e12


def test_goodput_is_the_share_of_training(clock):
    goodput = Goodput()
    for name, seconds in (("start", 3), ("train", 2), ("data", 1), ("train", 4)):
        with goodput.phase(name):
            clock.now += seconds
    with pytest.raises(KeyError), goodput.phase("data"):
        clock.now += 2
        raise KeyError
    clock.now += 3
    expected = {"start": 3, "train": 6, "data": 3, "other": 3, "total": 15, "goodput": 0.4}
    assert goodput.summary() == pytest.approx(expected)


def test_progress_is_lines_where_there_is_no_terminal(clock, capsys):
    progress = Progress(total_steps=1000, start_step=600, every=10)
    for step in range(600, 1000):
        clock.now += 10
        if step in (605, 609, 610, 999):
            progress.update(step, "anneal", {"loss": 1.23456, "tokens_per_second": 12345.6})
    progress.note("saved")
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "anneal: step 610/1000, loss 1.235, 12,346 tokens/s, 1:05:00 left",
        "anneal: step 1000/1000, loss 1.235, 12,346 tokens/s, 0:00 left",
        "saved",
    ]


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(telemetry.sys.stderr, "isatty", lambda: True)
    progress = Progress(total_steps=20, start_step=10, every=1)
    progress.update(14, "initial", {"loss": 2.0, "tokens_per_second": 50.0})
    progress.note("saved")
    progress.close()
    printed = capsys.readouterr()
    assert "15/20" in printed.err and "loss 2.000, 50 tokens/s" in printed.err
    assert printed.out.strip() == "saved"


@pytest.mark.parametrize(("first_step", "expected"), [(0, ["start", "stop"]), (3, ["start", "stop"]), (4, []), (9, [])])
def test_the_profiler_traces_its_window_or_nothing(monkeypatch, first_step, expected):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    window = ProfilerWindow("unused", start=3, steps=2)
    for step in range(first_step, 12):
        window.before(step)
        window.after(step, None)
    assert calls == expected


def test_a_profile_that_the_end_of_the_run_cuts_short_is_written_once(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    window = ProfilerWindow("unused", start=3, steps=2)
    window.close()
    assert not calls
    window.before(3)
    window.after(3, None)
    window.close()
    window.close()
    assert calls == ["start", "stop"]


@pytest.mark.parametrize("settings", [{"log_every": 0}, {"profile_steps": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        TelemetryConfig(**settings)
