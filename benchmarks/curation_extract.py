"""How fast is a page's text extracted, against trafilatura, and how much of it is right?

Speed: documentation in HTML that every machine has (the standard library as `pydoc` renders it) or that `--docs` names,
and the labelled pages of the tests; one process, CPU time, the best of `--repeats` for ours, the same pages for both.
A parse alone by selectolax is the ceiling. F1: chunks of the labelled pages of the tests, for both.

Prints one JSON line to stdout.

    python -m benchmarks.curation_extract [--megabytes 3] [--docs /usr/share/doc/python3.11/html]
"""

import argparse
import collections
import contextlib
import io
import json
import logging
import os
import pathlib
import pydoc
import sys
import warnings
from collections.abc import Callable

import trafilatura
from selectolax.lexbor import LexborHTMLParser

from benchmarks.processor_time import best_of
from llama3_jax.curation.extract import extract
from tests.curation.pages import Score, load_pages

_NOT_RENDERED = ("antigravity", "this", "idlelib", "turtledemo", "test", "tkinter", "turtle", "lib2to3")


def rendered_library(megabytes: float) -> list[bytes]:
    """Pages of the standard library's modules, in order of their names, up to about `megabytes`."""
    pages: list[bytes] = []
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") or name in _NOT_RENDERED:
            continue
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ImportError):
            warnings.simplefilter("ignore")
            pages.append(pydoc.html.page(name, pydoc.html.document(pydoc.locate(name), name)).encode())
        if sum(map(len, pages)) > megabytes * 1e6:
            break
    return pages


def found_pages(folder: str, megabytes: float) -> list[bytes]:
    """HTML files under a folder, in order of their paths, up to about `megabytes`."""
    pages: list[bytes] = []
    for path in sorted(pathlib.Path(folder).rglob("*.html")):
        pages.append(path.read_bytes())
        if sum(map(len, pages)) > megabytes * 1e6:
            break
    return pages


def rate(work: Callable[[bytes], object], pages: list[bytes], repeats: int) -> float:
    """MB/s of CPU time."""
    seconds, _ = best_of(repeats, lambda: collections.deque(map(work, pages), maxlen=0))
    return sum(map(len, pages)) / seconds / 1e6


def by_trafilatura(page: bytes | str) -> str:
    """Its text, with its defaults but for comments, as in its own evaluation."""
    return trafilatura.extract(page, include_comments=False) or ""


def speeds(pages: list[bytes], repeats: int) -> dict[str, float]:
    """MB/s of each, and the ratio."""
    found = {
        "megabytes": sum(map(len, pages)) / 1e6,
        "parse_mb_s": rate(LexborHTMLParser, pages, repeats),
        "extract_mb_s": rate(extract, pages, repeats),
        "trafilatura_mb_s": rate(by_trafilatura, pages, 1),
    }
    found["times_trafilatura"] = found["extract_mb_s"] / found["trafilatura_mb_s"]
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=3, help="of each kind of documentation")
    parser.add_argument("--docs", default="", help="folders of HTML files, separated by commas")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    labelled = load_pages()
    scores = {"ours": Score(), "trafilatura": Score()}
    for page in labelled:
        scores["ours"].add(page, extract(page.html).text)
        scores["trafilatura"].add(page, by_trafilatura(page.html))
    kinds = {"pydoc": rendered_library(args.megabytes)}
    kinds |= {folder: found_pages(folder, args.megabytes) for folder in filter(None, args.docs.split(","))}
    kinds["labelled"] = [page.html.encode() for page in labelled]
    result = {
        "benchmark": "curation_extract",
        "load_average": round(os.getloadavg()[0], 1),
        "labelled_pages": len(labelled),
        "f1": {name: round(score.f1, 4) for name, score in scores.items()},
        "speed": {name: speeds(pages, args.repeats) for name, pages in kinds.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
