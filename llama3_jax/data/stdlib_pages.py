"""Web pages that every machine can make: the standard library's documentation as `pydoc` renders it, in a WARC.

    python -m llama3_jax.data.stdlib_pages pages.warc.gz

A page per module and per help topic, at URLs under PREFIX, all of one date. What `is_held_out` names is left out, as
from the training text of `stdlib_corpus`. Runs as a program of its own, because rendering a module imports it.
"""

import contextlib
import gzip
import importlib
import io
import os
import pkgutil
import pydoc
import sys
import sysconfig
import uuid
import warnings
from collections.abc import Iterator
from pydoc_data import topics

from fastwarc.warc import WarcRecord, WarcRecordType

from llama3_jax.data.stdlib_corpus import LEFT_OUT, is_held_out

PREFIX = "https://docs.python.test/"
DATE = "2024-01-01T00:00:00Z"
# Importing these opens a browser or a window, prints, or needs what is not everywhere.
NOT_IMPORTED = {"__main__", "antigravity", "idlelib", "lib2to3", "this", "tkinter", "turtle", "turtledemo"} | LEFT_OUT


def pages() -> Iterator[tuple[str, str]]:
    """`(name, HTML)` of every page, in the order of names; modules that cannot be imported here are left out."""
    root = sysconfig.get_paths()["stdlib"]
    html = pydoc.HTMLDoc()
    for name in sorted(_modules()):
        page = _module_page(html, name)
        if page is not None:
            yield f"library/{name}", page.replace(root, "").replace(root.replace(os.sep, "/"), "")
    for topic in sorted(topics.topics):
        yield f"topics/{topic}", html.page(topic, html.bigsection(topic, "index", _preformatted(topics.topics[topic])))


def _modules() -> Iterator[str]:
    for name in sys.stdlib_module_names - NOT_IMPORTED:
        if name.startswith("_"):
            continue
        yield name
        try:
            path = getattr(importlib.import_module(name), "__path__", [])
        except ImportError:
            continue
        for found in pkgutil.iter_modules(path, f"{name}."):
            last = found.name.rpartition(".")[2]
            if not last.startswith("_") and last not in NOT_IMPORTED:
                yield found.name


def _module_page(html: pydoc.HTMLDoc, name: str) -> str | None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module = importlib.import_module(name)
            return html.page(pydoc.describe(module), html.document(module, name))
    except (Exception, SystemExit):  # whatever an import of a platform's module may raise
        return None


def _preformatted(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<pre>{escaped}</pre>"


def write_warc(path: str) -> tuple[int, int]:
    """Writes the pages that are not held out as a gzipped WARC; returns how many, and their bytes of HTML."""
    count = num_bytes = 0
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        for name, page in pages():
            kind, _, rest = name.partition("/")
            if is_held_out(f"help/{rest}" if kind == "topics" else rest.replace(".", "/")):
                continue
            content = page.encode("utf-8", "replace")
            record = io.BytesIO()
            response(f"{PREFIX}{name}.html", content).write(record)
            file.write(gzip.compress(record.getvalue(), mtime=0))  # a member per record, as crawls have them
            count, num_bytes = count + 1, num_bytes + len(content)
    os.replace(partial, path)
    return count, num_bytes


def response(url: str, content: bytes) -> WarcRecord:
    """A crawl's record of an HTML page."""
    record = WarcRecord()
    record.init_headers(WarcRecordType.response, f"uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}".encode())
    record.headers["WARC-Target-URI"] = url
    record.headers["WARC-Date"] = DATE
    record.headers["Content-Type"] = "application/http; msgtype=response"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(content)}\r\n\r\n"
    record.set_bytes_content(head.encode() + content)
    return record


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of deprecated modules
    written, size = write_warc(sys.argv[1])
    print(f"{sys.argv[1]}: {written} pages of the standard library's documentation, {size / 1e6:.1f} MB of HTML")
