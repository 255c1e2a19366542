"""Many processes as one run (Llama 3, 3.3.4): joining, noticing that one is gone, leaving at the same step.

JAX's coordination service (in process 0) connects the processes. It keeps a small table of strings, and two threads of
every process talk through it, off the training loop: one beats and reads what is new, the other watches the first and
ends this process when it waits for nothing. Training itself never communicates for this.

A process that fails says why and the others repeat it; one that dies or hangs is missed after `heartbeat_timeout`. JAX
would notice too, and abort with a stack trace; its own timeout is set longer, and an abort is given a last sentence.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import jax
from jax._src.clusters import ClusterEnv
from jax._src.distributed import global_state

from llama3_jax.core.paths import path_of

ROOT = "llama3/"
ALIVE, AT, NEWS = ROOT + "alive/", ROOT + "at/", ROOT + "news/"  # folders of the table, a key per process or event
STOP, STOP_AT = "stop", "stop_at"  # news: somebody was asked to stop; the step at which all leave
GRACE = 5.0  # seconds others have to fail by themselves, with their own message, when one has failed
SHARED_TRIES = 20  # half a second apart: network file systems remember for a while what was not there
STOPPED = 75  # exit status of a run that the same command continues (EX_TEMPFAIL); 1 is a fault of its own
CONTINUES = "the same command continues from the last checkpoint"


class Table(Protocol):
    """What is used of JAX's distributed runtime client."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...
    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...
    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...
    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Which process of how many this is. All three None: ask the cluster (Cloud TPU, Slurm, Kubernetes, MPI)."""

    coordinator: str | None = None  # HOST:PORT of process 0
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout: float = 100.0  # seconds
    start_timeout: int = 300  # seconds for all processes to arrive

    def __post_init__(self):
        if self.heartbeat_timeout < 1 or self.start_timeout < 1:
            raise ValueError("--heartbeat_timeout and --start_timeout are at least one second")
        if self.num_processes is not None and self.num_processes < 1:
            raise ValueError(f"--num_processes {self.num_processes} must be positive")
        if self.num_processes == 1 and self.process_id in (None, 0):
            return
        given = (self.coordinator, self.num_processes, self.process_id)
        if None in given and given != (None, None, None):
            raise ValueError("give --coordinator, --num_processes and --process_id together, or none of them")
        if self.process_id is not None and not 0 <= self.process_id < (self.num_processes or 0):
            raise ValueError(f"--process_id {self.process_id} is not one of the {self.num_processes} processes")
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator {self.coordinator} is not HOST:PORT")


def join(cluster: ClusterConfig, label: str) -> "Peers | None":
    """Connects this process with the others, before anything else of JAX is used; None when it is the only one.

    `label` begins every message, e.g. `llama3 pretrain`. Raises ValueError when the others cannot be reached in time.
    """
    address, count, process = cluster.coordinator, cluster.num_processes, cluster.process_id
    if count is None:
        # [] rather than None: each process takes every device its scheduler lets it see.
        address, count, process, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, [], None, cluster.start_timeout
        )
    if count is None or count == 1:
        return None
    assert address is not None and process is not None
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would swallow SIGTERM before the loop starts; Peers agrees on the step itself, also for Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    failed = f"process {process} of {count} did not meet the others at {address} within {cluster.start_timeout} s"
    handler = _tell_of_aborts(lambda: f"{label}: {failed}")  # how JAX reports it, with a stack trace
    try:
        jax.distributed.initialize(
            address,
            count,
            process,
            cluster_detection_method="deactivate",
            initialization_timeout=cluster.start_timeout,
            heartbeat_timeout_seconds=math.ceil(2 * cluster.heartbeat_timeout + 30),
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"{failed}: {str(error).splitlines()[0]}") from error
    table = global_state.client
    assert table is not None and handler is not None
    return Peers(table, process, count, timeout=cluster.heartbeat_timeout, label=label, coordinator=address)


class Peers:
    """The processes of a run. A context manager: leaving it in order waits for all, leaving by an error tells them."""

    def __init__(self, table: Table, process: int, count: int, *, timeout: float, label: str, coordinator: str = ""):
        self.process, self.count = process, count
        self._table, self._timeout, self._label, self._coordinator = table, timeout, label, coordinator
        # Seconds between rounds: fewer where many would keep process 0 busy.
        self._interval = min(1 + count / 1024, timeout / 10)
        self._patience = math.ceil(timeout / self._interval)  # rounds; a paused machine passes no round
        self._turn = threading.Condition()  # guards the next four
        self._step, self._frozen = -1, False
        self._stop_at: int | None = None
        self.stop_reason: str | None = None
        self._asked: str | None = None
        self._news: dict[str, str] = {}
        self._own_error: str | None = None
        self._beats, self._unanswered, self._hopeless = 0, 0, 0
        self._seen: dict[str, tuple[str, int]] = {}  # process -> its last beat, rounds without a new one
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    # -- the main thread -----------------------------------------------------------------------------------------

    def __enter__(self) -> "Peers":
        self._on_abort = _tell_of_aborts(self._abort_message)
        for target in (self._talk, self._judge):
            self._threads.append(threading.Thread(target=target, name=target.__name__, daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None:
            self._fail(error)
            atexit.register(self._leave)  # before JAX's own, which would wait for everyone
            return
        jax.distributed.shutdown()  # waits for all; the threads still look after those who do not come
        self._closed.set()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Tells the others of an error inside at once, before cleaning up begins to wait for them."""
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    def ask_to_stop(self, reason: str) -> None:
        """Asks every process to leave at the next step they can agree on. Safe in a signal handler."""
        self._asked = self._asked or f"{reason} on process {self.process}"

    def leaves_at(self, step: int) -> bool:
        """Call before each step: True at the step that all agreed to leave at. Costs a lock; waits only then."""
        with self._turn:
            while self._frozen:  # a step is being agreed on: it must not be passed meanwhile
                self._turn.wait()
            if self._stop_at is not None and step >= self._stop_at:
                return True
            self._step = step
            return False

    def check_shared(self, folder: str) -> None:
        """Raises ValueError unless every process sees what process 0 writes into `folder`."""
        path, limit = path_of(folder), int(1000 * max(60.0, self._timeout))
        if self.process == 0:
            name = f".shared_{secrets.token_hex(8)}"
            path.mkdir(parents=True, exist_ok=True)
            (path / name).touch()
            self._table.key_value_set(ROOT + "shared", name)
        marker = path / self._table.blocking_key_value_get(ROOT + "shared", limit)
        for _ in range(SHARED_TRIES):
            if marker.exists():
                break
            time.sleep(0.5)
        else:
            raise ValueError(
                f"workdir {folder} is not shared: process {self.process} of {self.count} does not see what process 0 "
                f"wrote there; put it where every host can read and write"
            )
        self._table.wait_at_barrier(ROOT + "shared", limit)
        if self.process == 0:
            marker.unlink()

    # -- failing -------------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        if self._own_error is not None:
            return
        # A transport notices before a heartbeat is missed: wait for the better reason.
        if _may_be_a_peers(error) and self._closed.wait((self._patience + 5) * self._interval):
            self._threads[-1].join()  # the judge has it, and is about to end the process
        self._own_error = " ".join(f"{error}".split())[:300] or type(error).__name__
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._post(f"failed/{self.process}", self._own_error)

    def _leave(self) -> None:
        """The last thing a failed process does. Process 0 goes last, because the table goes with it."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._post(f"left/{self.process}", "")
            deadline = time.monotonic() + GRACE + 3 * self._interval
            while self.process == 0 and time.monotonic() < deadline:
                gone = {*self._processes("left"), *self._processes("lost")}
                if len(gone) == self.count:
                    break
                self._news = self._read(NEWS)
                time.sleep(self._interval / 4)
        _exit(1 if self._processes("failed") else STOPPED)

    def _end(self, reason: str) -> None:
        """Prints why and ends the process, whatever its main thread is waiting for."""
        _say(f"{self._label}: {reason}; {self._stopping()}")
        self._closed.set()
        if self._silent_table():
            _exit(STOPPED)  # without telling: the call would wait for an answer
        self._leave()

    # -- the two threads -----------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Beats, reads the news, agrees on a step. Ends when told or when the table is gone."""
        while not self._closed.wait(self._interval):
            try:
                self._round()
                self._unanswered = 0
            except jax.errors.JaxRuntimeError:
                pass  # the judge counts

    def _round(self) -> None:
        self._beats += 1
        self._table.key_value_set(f"{ALIVE}{self.process}", str(self._beats), allow_overwrite=True)
        if self._asked and STOP not in self._news:
            self._post(STOP, self._asked)
        if self.process == 0:
            self._look_for_silence()
        self._news = self._read(NEWS)
        if STOP in self._news and self._stop_at is None:
            self._agree()

    def _look_for_silence(self) -> None:
        beats = self._read(ALIVE)
        for process in map(str, range(1, self.count)):
            last, silent = self._seen.get(process, ("", 0))
            beat = beats.get(process, "")
            self._seen[process] = (beat, silent + 1 if beat == last else 0)
            if self._seen[process][1] >= self._patience:
                self._post(f"lost/{process}", "")

    def _agree(self) -> None:
        """All stand still between two steps, say which they began last, and leave before the one after the latest."""
        if not self._frozen:
            with self._turn:
                self._frozen = True
            self._table.key_value_set(f"{AT}{self.process}", str(self._step))
        if self.process == 0 and STOP_AT not in self._news:
            steps = self._read(AT)
            if len(steps) == self.count:
                self._post(STOP_AT, str(max(map(int, steps.values())) + 1))
        if STOP_AT in self._news:
            with self._turn:
                self.stop_reason, self._stop_at = self._news[STOP], int(self._news[STOP_AT])
                self._frozen = False
                self._turn.notify_all()

    def _judge(self) -> None:
        while not self._closed.wait(self._interval):
            self._unanswered += 1
            reason = self._verdict()
            if reason:
                self._end(reason)

    def _silent_table(self) -> bool:
        return self._unanswered > self._patience + 2

    def _verdict(self) -> str | None:
        """Why this process should end, if it should."""
        lost, failed = [0] if self._silent_table() else self._processes("lost"), self._processes("failed")
        if lost:
            word = "process" if len(lost) == 1 else "processes"
            return f"{word} {', '.join(map(str, lost))} of {self.count} stopped answering for {self._timeout:g} s"
        if not failed or (len(failed) == self.count and not self._processes("left")):
            return None  # nothing happened, or all failed alike and are cleaning up together
        self._hopeless += 1
        return self._failure(failed) if self._hopeless * self._interval > GRACE else None

    def _failure(self, failed: list[int]) -> str:
        first = self.process if self._own_error else failed[0]
        return f"process {first} of {self.count} failed ({self._own_error or self._news[f'failed/{first}']})"

    def _abort_message(self) -> str:
        """For the moment the JAX runtime aborts this process, as it does when process 0 is gone."""
        host, _, port = self._coordinator.rpartition(":")
        failed = self._processes("failed")
        if failed:
            reason = self._failure(failed)
        else:
            try:
                socket.create_connection((host, int(port)), timeout=2).close()
                reason = f"process {self.process} of {self.count} was aborted by the JAX runtime, which says why above"
            except OSError:
                reason = f"process 0 of {self.count} is gone"
        return f"{self._label}: {reason}; {self._stopping()}"

    def _stopping(self) -> str:
        where = f"stopping at step {self._step}" if self._step >= 0 else "stopping before the first step"
        return f"{where}; {CONTINUES}"

    # -- the table -----------------------------------------------------------------------------------------------

    def _post(self, name: str, text: str) -> None:
        self._table.key_value_set(NEWS + name, text, allow_overwrite=True)

    def _read(self, folder: str) -> dict[str, str]:
        return {key.removeprefix(folder): value for key, value in self._table.key_value_dir_get(folder)}

    def _processes(self, event: str) -> list[int]:
        return sorted(int(name.partition("/")[2]) for name in self._news if name.startswith(f"{event}/"))


def _may_be_a_peers(error: BaseException) -> bool:
    """Whether an error can be the echo of another process's end; running out of memory cannot."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, jax.errors.JaxRuntimeError):
            return "RESOURCE_EXHAUSTED" not in str(seen)
        seen = seen.__cause__ or seen.__context__
    return False


def _tell_of_aborts(message: Any) -> Any:
    """Ends the process with `message()` where C++ would abort, and status STOPPED; returns what must be kept alive.

    A handler of Python's own would never run: the thread that aborts is not Python's.
    """

    def handle(number: int) -> None:
        _say(message())
        _exit(STOPPED)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    return handler


def _say(text: str) -> None:
    os.write(2, (text + "\n").encode())  # one write: lines of several processes do not mix


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
