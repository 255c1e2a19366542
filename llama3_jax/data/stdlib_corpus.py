"""Real text that is on every machine: the sources and documentation of the running Python's standard library.

One document per source file and per help topic; test suites are left out. Documents are split by top-level module into
training and held-out text, so nothing held out has a sibling in training. The training text is sources alone: what
documentation is trained on comes as web pages (`stdlib_pages`).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import sysconfig
from collections.abc import Iterator
from pydoc_data import topics

from llama3_jax.data.text import Document

LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3", "pydoc_data"}
HELD_OUT_PER_MILLE = 70


@dataclasses.dataclass(frozen=True)
class Split:
    """What went where."""

    train_documents: int
    train_bytes: int
    held_out_documents: int
    held_out_bytes: int


def standard_library() -> Iterator[Document]:
    """Every document of the standard library, in a fixed order; files that are not UTF-8 are left out."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if LEFT_OUT.intersection(relative.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield Document(id=relative.as_posix(), text=text)
    for topic, text in sorted(topics.topics.items()):
        yield Document(id=f"help/{topic}", text=text)


def is_held_out(document_id: str) -> bool:
    """True for about 7% of the top-level modules (and help topics), by a hash of the name."""
    parts = document_id.removesuffix(".py").split("/")
    module = "/".join(parts[:2]) if parts[0] == "help" else parts[0]
    return int.from_bytes(hashlib.sha256(module.encode()).digest()[:4], "big") % 1000 < HELD_OUT_PER_MILLE


def write_corpus(folder: str) -> Split:
    """Writes `train.jsonl` and `held_out.jsonl` (`{"id", "text"}` lines) into `folder`; each appears only whole."""
    counts = {"train": [0, 0], "held_out": [0, 0]}
    os.makedirs(folder, exist_ok=True)
    paths = {name: pathlib.Path(folder) / f"{name}.jsonl" for name in counts}
    files = {name: path.with_suffix(".partial").open("w", encoding="utf-8") for name, path in paths.items()}
    for document in standard_library():
        name = "held_out" if is_held_out(document.id) else "train"
        if name == "train" and document.id.startswith("help/"):
            continue
        files[name].write(json.dumps(dataclasses.asdict(document), ensure_ascii=False) + "\n")
        counts[name][0] += 1
        counts[name][1] += len(document.text.encode())
    for name, file in files.items():
        file.close()
        os.replace(paths[name].with_suffix(".partial"), paths[name])
    return Split(*counts["train"], *counts["held_out"])
