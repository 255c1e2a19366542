"""Runs steps in order, their tasks in any: on a pool of processes here, or as one of many shards that share a folder.

Shard i of n does the tasks i, i + n, i + 2 n, ... of each step and waits, before the next step, for what the others do.
Whoever is killed is simply started again.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import tqdm

from llama3_jax.curation.steps import DOCUMENTS, DROPPED, Counts, Step, Task, Work
from llama3_jax.curation.tables import remove_partial

POLL_SECONDS = 1.0
ENGINES = ("pool", "daft")
FEW = 100  # documents in a task below which a share says nothing

Job = tuple[Work, list[Task], float]
"""The work of tasks that are done together, and the share of documents that they may drop."""
Executor = Callable[[Sequence[Job]], Iterator[Sequence[Counts]]]
"""Does jobs in any order and yields the counts of each as it is done."""


class TooManyDropped(ValueError):
    """A task has dropped more than it may: more likely a mistake than a bad corpus."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """How steps are run; nothing here changes a result."""

    engine: str = "pool"  # or "daft", which uses no workers of ours
    workers: int = 1  # processes of the pool; 0: none beside this one
    shard: int = 0
    num_shards: int = 1
    max_dropped: float = 0.98  # share of a task's documents

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {self.engine!r}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")
        if not 0 <= self.shard < self.num_shards:
            raise ValueError(f"shard must lie in 0..num_shards-1, got {self.shard} of {self.num_shards}")
        if not 0 < self.max_dropped <= 1:
            raise ValueError(f"max_dropped must be a share above 0, got {self.max_dropped}")


def run_steps(steps: Sequence[Step], workdir: str, config: RunnerConfig, executor: Executor | None = None) -> None:
    """Does what has not been done of the steps, which are in an order in which each comes after those it reads.

    Raises TooManyDropped, what the work raises, and ValueError when a worker dies. What is done stays done.
    """
    if executor is None and config.workers:
        with pool(config.workers) as execute:
            run_steps(steps, workdir, config, execute)
        return
    execute = executor or in_this_process
    for together in _groups(steps):
        for step in together:
            step.results(workdir).claim()
        done = [step.results(workdir).done() for step in together]
        jobs: list[Job] = []
        for index in range(config.shard, together[0].num_tasks, config.num_shards):
            tasks = [step.task(workdir, index) for step, has in zip(together, done, strict=True) if index not in has]
            if tasks:
                jobs.append((together[0].work, tasks, config.max_dropped))
        if jobs:
            _run_jobs(", ".join(dict.fromkeys(step.name for step in together)), jobs, execute)
        _wait_for_others(together, workdir)
        if jobs:
            for step in together:
                remove_partial(step.results(workdir).folder)


def _groups(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Neighbours that share their work and their tasks."""
    for _, group in itertools.groupby(steps, key=lambda step: (step.work, step.num_tasks)):
        yield list(group)


def _run_jobs(name: str, jobs: Sequence[Job], execute: Executor) -> None:
    started, total = time.monotonic(), {}
    same_documents = bool(jobs[0][1][0].inputs)  # tasks done together read the same ones, but not from their sources
    with tqdm.tqdm(desc=name, total=len(jobs), unit=" tasks", disable=not sys.stderr.isatty()) as bar:
        for counts in execute(jobs):
            for counted in counts[:1] if same_documents else counts:
                for key, count in counted.items():
                    total[key] = total.get(key, 0) + count
            bar.set_postfix_str(rates(total, time.monotonic() - started), refresh=False)
            bar.update()
    seconds = time.monotonic() - started
    print(f"{name}: {len(jobs)} tasks in {seconds:.1f} s; {rates(total, seconds)}", file=sys.stderr)


def rates(total: Counts, seconds: float) -> str:
    """Documents and megabytes per second and the share that was kept, of what has been counted."""
    seconds, documents = max(seconds, 1e-9), total.get(DOCUMENTS, 0)
    said = [f"{documents:,} documents ({documents / seconds:,.0f}/s)"]
    if "bytes" in total:
        said.append(f"{total['bytes'] / seconds / 1e6:.1f} MB/s")
    if DROPPED in total and documents:
        said.append(f"kept {1 - total[DROPPED] / documents:.1%}")
    return ", ".join(said)


def do_job(job: Job) -> Sequence[Counts]:
    """Does tasks together and marks them as done. Raises TooManyDropped."""
    work, tasks, max_dropped = job
    counts = work(tasks)
    for task, counted in zip(tasks, counts, strict=True):
        _check_dropped(task, counted, max_dropped)
        task.finish(counted)
    return counts


def _check_dropped(task: Task, counts: Counts, max_dropped: float) -> None:
    documents, dropped = counts.get(DOCUMENTS, 0), counts.get(DROPPED, 0)
    if documents < FEW or dropped <= max_dropped * documents:
        return
    reasons = sorted(((n, key) for key, n in counts.items() if key.startswith("reason.")), reverse=True)[:3]
    said = ", ".join(f"{key.removeprefix('reason.')} {n:,}" for n, key in reasons)
    raise TooManyDropped(
        f"{task.step}, task {task.index}: {dropped:,} of {documents:,} documents dropped, more than max_dropped "
        f"{max_dropped:.0%}{f' ({said})' if said else ''}"
    )


def in_this_process(jobs: Sequence[Job]) -> Iterator[Sequence[Counts]]:
    """An executor without workers."""
    yield from map(do_job, jobs)


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Executor]:
    """An executor of that many processes, which stay until the end; an error stops what has not begun."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as processes:

        def execute(jobs: Sequence[Job]) -> Iterator[Sequence[Counts]]:
            futures = [processes.submit(do_job, job) for job in jobs]
            try:
                for future in concurrent.futures.as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise ValueError(
                    "a worker died, perhaps for want of memory; the same command continues with what is not done"
                ) from error
            finally:
                for future in futures:
                    future.cancel()

        yield execute


def _wait_for_others(steps: Sequence[Step], workdir: str) -> None:
    told = False
    for step in steps:
        while missing := step.num_tasks - len(step.results(workdir).done()):
            if not told:
                print(f"{step.name}: waiting for {missing} tasks of other shards", file=sys.stderr)
                told = True
            time.sleep(POLL_SECONDS)
