"""Which pages a Wikipedia cites: URLs in a normal form, and a set of them on disk that memory need not hold."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llama3_jax.curation.hashing import hash_ranges
from llama3_jax.curation.text_batch import TextBatch
from llama3_jax.curation.urls import normal_form

_ARCHIVED = re.compile(r"(?:https?:)?//(?:web\.|www\.)?archive\.org/web/[0-9]+[a-z_]*\*?/(.+)", re.I | re.S)
_BUFFERED_LINKS = 1 << 18
_FILES = ("urls", "hosts")
_WEB = ("https://", "//")  # how normal forms of web pages begin; the second is of links that leave the scheme open


def page_of(url: str) -> str:
    """`host/path?query` of a web page, "" for anything else: what two spellings of one address have in common.

    The normal form of `urls.py`, and without scheme, user and "www.", which a citation may have and a crawl not. A copy
    in the Internet Archive's Wayback Machine is its original.
    """
    if archived := _ARCHIVED.fullmatch(url.strip()):
        url = archived[1] if "//" in archived[1][:8] else f"//{archived[1]}"
    normal = normal_form(url)
    scheme = next((scheme for scheme in _WEB if normal.startswith(scheme)), None)
    if scheme is None:
        return ""
    page = normal.removeprefix(scheme)
    host = host_of(page)
    name = host.rpartition("@")[2].removeprefix("www.")
    return name + page[len(host) :] if name else ""


def host_of(page: str) -> str:
    """The host of a page."""
    return re.split("[/?#]", page, maxsplit=1)[0]


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """uint64 hashes of texts: 2e8 URLs claim a stranger once in 1e11 look-ups."""
    batch = TextBatch.of(list(texts))
    return hash_ranges(batch.data, batch.offsets[:-1], batch.offsets[1:])


class CitedUrls:
    """The set of cited URLs and of their hosts: sorted hashes in two files, mapped into memory and not read."""

    def __init__(self, folder: str | Path):
        """Opens what `build_cited_urls` wrote; FileNotFoundError where it did not."""
        self.counts: dict[str, int] = json.loads((Path(folder) / "counts.json").read_text(encoding="utf-8"))
        self._keys = {name: _mapped(Path(folder) / f"{name}.u64") for name in _FILES}

    def has_page(self, pages: Sequence[str]) -> np.ndarray:
        """bool [len(pages)]; False for ""."""
        return self._has("urls", pages)

    def has_host(self, pages: Sequence[str]) -> np.ndarray:
        """bool [len(pages)]: whether any page of the URL's host is cited."""
        return self._has("hosts", [host_of(page) for page in pages])

    def _has(self, name: str, texts: Sequence[str]) -> np.ndarray:
        keys, wanted = self._keys[name], text_keys(texts)
        if not keys.size:
            return np.zeros(wanted.size, bool)
        place = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        return (keys[place] == wanted) & (np.array([bool(text) for text in texts], bool))


def build_cited_urls(urls: Iterable[str], folder: str | Path, *, num_parts: int = 64) -> CitedUrls:
    """Writes the set of `urls` (as they stand in one or more dumps, in any order) to a new folder.

    Memory is one of `num_parts` parts of the hashes. The files depend on the set of URLs alone; they appear at once.

    Raises FileExistsError for a folder that is there, ValueError for a number of parts that is not a power of two.
    """
    folder = Path(folder)
    if num_parts < 1 or num_parts & (num_parts - 1):
        raise ValueError(f"num_parts must be a power of two, not {num_parts}")
    if folder.exists():
        raise FileExistsError(folder)
    growing = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(growing, ignore_errors=True)
    growing.mkdir(parents=True)
    counts = {"links": 0, "pages": 0, **dict.fromkeys(_FILES, 0)}
    parts = {name: _Parts(growing, name, num_parts) for name in _FILES}
    for batch in _batched(urls):
        pages = [page for page in map(page_of, batch) if page]
        parts["urls"].add(text_keys(pages))
        parts["hosts"].add(text_keys(sorted({host_of(page) for page in pages})))
        counts["links"] += len(batch)
        counts["pages"] += len(pages)
    for name in _FILES:
        counts[name] = parts[name].merge(growing / f"{name}.u64")
    (growing / "counts.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")
    os.rename(growing, folder)
    return CitedUrls(folder)


class _Parts:
    """Hashes on disk by their highest bits."""

    def __init__(self, folder: Path, name: str, num_parts: int):
        self._paths = [folder / f"{name}.part{part}" for part in range(num_parts)]
        self._shift = np.uint64(64 - num_parts.bit_length() + 1)

    def add(self, keys: np.ndarray) -> None:
        keys = np.unique(keys)
        of = keys >> self._shift if len(self._paths) > 1 else np.zeros(keys.size, np.uint64)
        bounds = np.searchsorted(of, np.arange(len(self._paths) + 1, dtype=np.uint64))
        for path, start, stop in zip(self._paths, bounds[:-1], bounds[1:], strict=True):
            if stop > start:
                with open(path, "ab") as file:
                    file.write(keys[start:stop].tobytes())

    def merge(self, target: Path) -> int:
        """Writes all of them, sorted and once each; returns how many."""
        total = 0
        with open(target, "wb") as file:
            for path in self._paths:
                if path.exists():
                    keys = np.unique(np.fromfile(path, "<u8"))
                    file.write(keys.tobytes())
                    total += keys.size
                    path.unlink()
        return total


def _batched(urls: Iterable[str]) -> Iterable[list[str]]:
    batch = []
    for url in urls:
        batch.append(url)
        if len(batch) == _BUFFERED_LINKS:
            yield batch
            batch = []
    if batch:
        yield batch


def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, "<u8", "r") if path.stat().st_size else np.empty(0, "<u8")
