"""Labels as JSON lines, each written as soon as it is there; a job that was cut off goes on where it stopped.

A line is keyed by the document's id and the hash of all that was asked, so one file may hold answers to several
questions, and none is asked twice. Unreadable answers are lines too, with their reason: asking again gives the same.
"""

import dataclasses
import fcntl
import io
import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

from llama3_jax.curation.labelling.rubrics import KINDS

Key = tuple[str, str]  # id and prompt hash


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """A judge's answer about one document."""

    id: str  # hexadecimal
    prompt: str  # hash of the question, the model and its sampling
    variant: str
    kind: str  # of the verdict
    model: str
    label: int | None
    reason: str | None = None  # why there is no label
    answer: str = ""

    @property
    def key(self) -> Key:
        """What is never asked twice."""
        return self.id, self.prompt


def read_labels(path: str | pathlib.Path, prompt: str | None = None) -> Iterator[Label]:
    """Every whole line of a file, or those of one question; a last line that was cut off is passed over.

    Raises FileNotFoundError; ValueError naming the line for anything else that is not a label.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            label = _label(line, f"{path}, line {number}")
            if prompt is None or label.prompt == prompt:
                yield label


def _label(line: bytes, place: str) -> Label:
    try:
        record: dict[str, Any] = json.loads(line)
        label = Label(**record)
        if not isinstance(label.id, str) or not isinstance(label.prompt, str):
            raise TypeError("id and prompt must be strings")
        if label.label is not None and (isinstance(label.label, bool) or not isinstance(label.label, int)):
            raise TypeError("label must be a whole number or null")
        if label.kind not in KINDS:
            raise ValueError(f"kind is {label.kind!r}")
        return label
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{place} is not a label ({error}); choose another file") from error


class LabelFile:
    """A file of labels to add to. One process at a time holds it; its threads may all add."""

    def __init__(self, path: str | pathlib.Path):
        """A new file, or one that was begun: a last line that was cut off is cut away.

        Raises ValueError when it holds something else than labels, which is left as it is, or when another process is
        writing it.
        """
        self.path, self._lock = pathlib.Path(path), threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.labels = {label.key: label for label in read_labels(self.path)}
            self._cut_torn_line()
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"{path} is being written by another process") from error
        except ValueError:
            self._file.close()
            raise

    def _cut_torn_line(self) -> None:
        size = self._file.seek(0, io.SEEK_END)
        end = size
        while end:
            start = max(0, end - 2**16)
            self._file.seek(start)
            last = self._file.read(end - start).rfind(b"\n")
            end = start + last + 1 if last >= 0 else start
            if last >= 0:
                break
        if end != size:
            os.truncate(self.path, end)

    def __contains__(self, key: Key) -> bool:
        return key in self.labels

    def add(self, label: Label) -> None:
        """Writes a label, unless there is one of its key."""
        line = json.dumps(dataclasses.asdict(label), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock:
            if label.key in self.labels:
                return
            self._file.write(line)
            self._file.flush()
            self.labels[label.key] = label

    def __enter__(self) -> "LabelFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
