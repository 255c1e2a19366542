"""`llama3 corpus`: real text for the quickstart."""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.data.stdlib_corpus import write_corpus

SUMMARY = "write the standard library's sources and documentation as a training text"
MANUAL = """
Collects the sources and help topics of the running Python's standard library, one document each, splits them by
top-level module into training (93%) and held-out text, and writes OUTPUT/train.jsonl and OUTPUT/held_out.jsonl.
Files that are there already are reused. For your own text skip this: llama3 tokenize reads .txt, .md, .py, .jsonl
(.gz, .zst), .parquet and folders of them.
"""
EXAMPLE = "llama3 corpus --output=runs/quickstart/text"


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("output", None, "folder to write into", flag_values=values, required=True)


def run(options: Mapping[str, Any]) -> int:
    folder = pathlib.Path(options["output"])
    if all((folder / name).exists() for name in ("train.jsonl", "held_out.jsonl")):
        print(f"{folder}: reusing the text that is there")
        return 0
    split = write_corpus(str(folder))
    print(
        f"{folder}: {split.train_documents} training documents ({split.train_bytes / 1e6:.1f} MB), "
        f"{split.held_out_documents} held out ({split.held_out_bytes / 1e6:.1f} MB)"
    )
    return 0
