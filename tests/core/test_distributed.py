"""What processes agree on and how they miss each other, with threads for processes and a dict for JAX's table."""

import threading
import time

import jax
import pytest

from llama3_jax.core import distributed
from llama3_jax.core.distributed import ClusterConfig, Peers, join


class Table:
    """The part of JAX's distributed client that is used."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()
        self.barrier = threading.Barrier(3)
        self.gone = False

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def key_value_dir_get(self, key):
        if self.gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
        return [(name, value) for name, value in list(self.values.items()) if name.startswith(key)]

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000)
            return self.values[key]

    def wait_at_barrier(self, barrier_id, timeout_in_ms):
        self.barrier.wait(timeout_in_ms / 1000)


class Ended(SystemExit):
    """In place of os._exit, in the thread that called it."""


@pytest.fixture
def run(monkeypatch):
    """Three joined processes, and what they said and ended with."""
    table, said, ended = Table(), [], []

    def end(status):
        ended.append(status)
        raise Ended

    monkeypatch.setattr(distributed, "_say", said.append)
    monkeypatch.setattr(distributed, "_exit", end)
    monkeypatch.setattr(distributed, "_tell_of_aborts", lambda message: None)
    monkeypatch.setattr(distributed, "GRACE", 0.3)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    peers = [Peers(table, process, 3, timeout=0.5, label="test") for process in range(3)]
    for peer in peers:
        peer.__enter__()
    yield table, peers, said, ended
    for peer in peers:
        peer._closed.set()
        for thread in peer._threads:
            thread.join(20)


def train(peer: Peers, steps: int, pace: float, left: dict[int, int], before=lambda step: None) -> threading.Thread:
    def loop():
        for step in range(steps):
            before(step)
            if peer.leaves_at(step):
                left[peer.process] = step
                return
            time.sleep(pace)
        left[peer.process] = steps

    thread = threading.Thread(target=loop)
    thread.start()
    return thread


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("asked", [0, 2])
def test_all_leave_at_the_same_step(run, asked):
    """Though one is faster than the others, and is asked again and again."""
    _, peers, _, ended = run
    left: dict[int, int] = {}

    def ask(step):
        if step >= 20:
            peers[asked].ask_to_stop("SIGTERM")

    threads = [
        train(peer, 100_000, pace, left, ask if peer.process == asked else lambda step: None)
        for peer, pace in zip(peers, (0.001, 0.003, 0.01), strict=True)
    ]
    for thread in threads:
        thread.join(60)
    assert len(left) == 3 and len(set(left.values())) == 1 and left[0] > 20
    assert {peer.stop_reason for peer in peers} == {f"SIGTERM on process {asked}"}
    assert not ended


def test_a_stop_before_the_first_step_leaves_before_it(run):
    _, peers, _, _ = run
    peers[1].ask_to_stop("SIGINT")
    wait_for(lambda: all(peer.stop_reason for peer in peers))
    assert all(peer.leaves_at(5) for peer in peers)


def test_a_silent_process_is_missed_by_all(run):
    _, peers, said, ended = run
    peers[0].leaves_at(37)
    peers[2]._closed.set()
    wait_for(lambda: len(ended) == 2)
    assert ended == [75, 75]
    assert said[0].startswith("test: process 2 of 3 stopped answering for 0.5 s; stopping ")
    assert "stopping at step 37; the same command continues from the last checkpoint" in " ".join(said)
    assert "stopping before the first step" in " ".join(said)


def test_a_table_that_is_gone_means_process_0_is(run):
    table, _, said, ended = run
    table.gone = True
    wait_for(lambda: len(ended) == 3)
    assert set(said) == {
        "test: process 0 of 3 stopped answering for 0.5 s; stopping before the first step; the same command continues "
        "from the last checkpoint"
    }


def test_a_failure_is_told_to_the_others(run):
    _, peers, said, ended = run
    with pytest.raises(OSError), peers[1].guard():
        raise OSError("the disk is full")
    wait_for(lambda: len(ended) == 3)
    assert len([line for line in said if "process 1 of 3 failed (the disk is full)" in line]) == 3
    assert set(ended) == {1}


def test_the_same_failure_everywhere_is_left_to_each(run):
    _, peers, said, ended = run
    for peer in peers:
        with pytest.raises(ValueError), peer.guard():
            raise ValueError("gate not met")
    time.sleep(1.0)
    assert not said and not ended


def test_an_echo_of_a_lost_process_waits_for_the_reason(run):
    _, peers, said, ended = run
    peers[2]._closed.set()

    def fail():
        with peers[1].guard():
            raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed")

    thread = threading.Thread(target=fail, daemon=True)
    thread.start()
    wait_for(lambda: len(ended) == 2)
    assert all("process 2 of 3 stopped answering" in line for line in said)
    thread.join(20)


def test_out_of_memory_is_not_taken_for_an_echo():
    full, gone = (
        jax.errors.JaxRuntimeError(text) for text in ("RESOURCE_EXHAUSTED: 3 GiB", "UNAVAILABLE: Socket closed")
    )
    assert not distributed._may_be_a_peers(full)
    assert distributed._may_be_a_peers(gone)
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = gone
    assert distributed._may_be_a_peers(wrapped)
    assert not distributed._may_be_a_peers(ValueError("x"))


@pytest.mark.parametrize("shared", [True, False])
def test_a_folder_that_is_not_shared_is_refused(run, tmp_path, monkeypatch, shared):
    _, peers, _, _ = run
    monkeypatch.setattr(distributed, "SHARED_TRIES", 2)
    errors = []

    def check(peer):
        try:
            peer.check_shared(str(tmp_path if shared or peer.process == 0 else tmp_path / str(peer.process)))
        except (ValueError, threading.BrokenBarrierError) as error:
            errors.append(error)
            peers[0]._table.barrier.abort()

    threads = [threading.Thread(target=check, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if shared:
        assert not errors and not list(tmp_path.iterdir())
    else:
        found = [str(error) for error in errors if isinstance(error, ValueError)]
        assert found and "is not shared: process" in found[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinator": "a:1"}, "together, or none"),
        ({"num_processes": 2, "process_id": 0}, "together, or none"),
        ({"num_processes": 2, "process_id": 2, "coordinator": "a:1"}, "--process_id 2 is not one of the 2 processes"),
        ({"num_processes": 2, "process_id": 0, "coordinator": "a"}, "is not HOST:PORT"),
        ({"num_processes": 0}, "must be positive"),
        ({"heartbeat_timeout": 0.1}, "at least one second"),
    ],
)
def test_half_a_cluster_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClusterConfig(**settings)


def test_one_process_joins_nobody():
    assert join(ClusterConfig(num_processes=1), "test") is None
    assert join(ClusterConfig(), "test") is None
