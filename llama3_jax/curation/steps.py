"""Curation as steps, steps as tasks: any task can run anywhere, in any order, again (Llama 3, 3.1).

A step is one kind of work cut into tasks that do not know of each other; its results lie in a folder named by a
fingerprint of its settings, its code and the steps before it. What was computed with the same settings is found again,
and what was computed with others is never mistaken for it. A task writes its files, each appearing whole, and last a
marker with its counts. A task without a marker has not been done, whatever lies there.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from llama3_jax.core.paths import path_of
from llama3_jax.curation.fingerprints import callable_hash, code_hash
from llama3_jax.curation.tables import (
    iterate_row_groups,
    read_row_group,
    read_rows,
    write_table,
    write_whole,
)

Counts = Mapping[str, int]
"""What a task counted; counts of tasks add up."""
Work = Callable[[Sequence["Task"]], Sequence[Counts]]

DOCUMENTS, DROPPED = "documents", "dropped"  # counts that every step over documents gives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One kind of work.

    `work` gets the tasks of one index (more than one if several steps share their work, as those do that read the same
    texts) and returns the counts of each; it is a function of a module, so that it can be sent to a worker. `settings`
    is everything the result depends on beside `after`, the steps whose results it reads; `code` names modules and
    packages that make the result beside the one of `work`. What any of them imports counts as well.
    """

    name: str
    work: Work
    num_tasks: int
    settings: Any = None
    after: Mapping[str, "Step"] = dataclasses.field(default_factory=dict)
    code: tuple[str, ...] = ()
    home: str = ""  # a folder for results that people look for; without one it is named by the fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """128 bits of all that the results depend on, in hex."""
        content = {
            "name": self.name,
            "num_tasks": self.num_tasks,
            "settings": self.settings,
            "code": [code_hash(name) for name in (self.work.__module__, *self.code)],
            "after": {role: step.fingerprint for role, step in self.after.items()},
        }
        text = json.dumps(content, sort_keys=True, default=_plain)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def results(self, workdir: str) -> "Results":
        """Where the results of this step lie."""
        folder = self.home or f"{workdir.rstrip('/')}/{self.name}-{self.fingerprint[:12]}"
        return Results(folder, self.num_tasks, self.fingerprint)

    def task(self, workdir: str, index: int) -> "Task":
        """One of the step's tasks."""
        inputs = {role: step.results(workdir) for role, step in self.after.items()}
        return Task(self.name, index, self.results(workdir), inputs, self.settings)


def _plain(value: Any) -> Any:
    """What JSON does not know, as it does: nothing in it may differ from one process to the next."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}-{callable_hash(value)}"
    raise TypeError(f"a step's settings cannot hold {value!r}")


@dataclasses.dataclass(frozen=True)
class Results:
    """The files of a step's tasks."""

    folder: str
    num_tasks: int
    fingerprint: str

    def claim(self) -> None:
        """Makes the folder this step's. Raises ValueError if it holds results of other settings."""
        owner = path_of(f"{self.folder}/fingerprint")
        if not owner.exists():
            write_whole(str(owner), lambda file: file.write(self.fingerprint.encode()))
        elif owner.read_text() != self.fingerprint:
            raise ValueError(
                f"{self.folder} holds the result of other settings or code; remove it or choose another folder"
            )

    def path(self, index: int, name: str) -> str:
        """A task's file of that name."""
        return f"{self.folder}/{name}/{index:05d}.parquet"

    def marker(self, index: int) -> str:
        """The file that says that a task is done."""
        return f"{self.folder}/{index:05d}.json"

    def done(self) -> set[int]:
        """The tasks with a marker, by one listing of the folder."""
        folder = path_of(self.folder)
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        return {int(name.removesuffix(".json")) for name in names if name.endswith(".json") and name[0].isdigit()}

    def counts(self, index: int) -> dict[str, int]:
        """What a task counted. Raises ValueError if it has not been done."""
        path = path_of(self.marker(index))
        if not path.exists():
            raise ValueError(f"{self.folder}: task {index} of {self.num_tasks} has not been done")
        return json.loads(path.read_text())

    def total(self) -> dict[str, int]:
        """The counts of all tasks together."""
        total: dict[str, int] = {}
        for index in range(self.num_tasks):
            for key, count in self.counts(index).items():
                total[key] = total.get(key, 0) + count
        return total

    def rows(self, index: int, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A task's table of that name."""
        return read_rows(self.path(index, name), columns)

    def batches(self, index: int, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """A task's table, one row group at a time."""
        return iterate_row_groups(self.path(index, name), columns)

    def group(self, index: int, name: str, part: int) -> pa.Table:
        """One part of what a task has written in parts."""
        return read_row_group(self.path(index, name), part)

    def part(self, part: int, name: str) -> pa.Table:
        """What all tasks have put into this part of their tables (`Task.write_parts`), in the order of tasks."""
        return pa.concat_tables(self.group(index, name, part) for index in range(self.num_tasks))


@dataclasses.dataclass(frozen=True)
class Task:
    """A piece of a step: what it reads, and where it writes."""

    step: str
    index: int
    results: Results
    inputs: Mapping[str, Results]
    settings: Any

    def write(self, name: str, table: pa.Table, **metadata: str) -> None:
        """Writes one of the task's tables."""
        write_table(self.results.path(self.index, name), [table], metadata)

    def write_parts(self, name: str, parts: Sequence[pa.Table]) -> None:
        """Writes a table in parts, each of which `Results.part` brings together with those of the other tasks."""
        write_table(self.results.path(self.index, name), parts, {})

    def finish(self, counts: Counts) -> None:
        """Marks the task as done."""
        text = json.dumps({key: int(counts[key]) for key in sorted(counts)})
        write_whole(self.results.marker(self.index), lambda file: file.write(text.encode()))
