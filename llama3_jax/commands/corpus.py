"""`llama3 corpus`: real text for the quickstart."""

import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.data.stdlib_corpus import write_corpus

SUMMARY = "write the standard library's sources as training text, its documentation as web pages"
MANUAL = """
Collects what the running Python's standard library holds, split by top-level module into training (93%) and held-out
text: OUTPUT/train.jsonl has sources, OUTPUT/held_out.jsonl sources and help topics, OUTPUT/pages.warc.gz the training
modules' documentation as HTML pages, for llama3 curate. Files that are there already are reused. For your own text skip
this: llama3 curate reads pages, llama3 tokenize .txt, .md, .py, .jsonl (.gz, .zst), .parquet and folders of them.
"""
PAGES = "pages.warc.gz"
EXAMPLE = "llama3 corpus --output=runs/quickstart/text"


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("output", None, "folder to write into", flag_values=values, required=True)


def run(options: Mapping[str, Any]) -> int:
    folder = pathlib.Path(options["output"])
    if all((folder / name).exists() for name in ("train.jsonl", "held_out.jsonl", PAGES)):
        print(f"{folder}: reusing the text that is there")
        return 0
    split = write_corpus(str(folder))
    print(
        f"{folder}: {split.train_documents} training documents ({split.train_bytes / 1e6:.1f} MB), "
        f"{split.held_out_documents} held out ({split.held_out_bytes / 1e6:.1f} MB)"
    )
    # In a process of its own, because rendering imports every module.
    command = [sys.executable, "-m", "llama3_jax.data.stdlib_pages", str(folder / PAGES)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise OSError(f"{folder / PAGES}: the pages could not be rendered: {made.stderr.strip()[-500:]}")
    print(made.stdout.strip())
    return 0
