"""Which pages a Wikipedia cites: URLs in a normal form, and a set of them on disk that memory need not hold."""

import hashlib
import json
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_ARCHIVED = re.compile(r"^(?:https?:)?//(?:web\.|www\.)?archive\.org/web/[0-9]+[a-z_]*\*?/(.+)$", re.I)
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TRACKING = re.compile(r"^(?:utm_\w+|gclid|fbclid|msclkid|mc_[ce]id)(?:=|$)")
_KEY_BYTES = 8
_BUFFERED_KEYS = 1 << 18
_FILES = ("urls", "hosts")


def normalise_url(url: str) -> str:
    """`host/path?query` of a web page, "" for anything else: what two spellings of one address have in common.

    Without scheme, user, "www.", default port, fragment, tracking parameters and final slash; host in lower case;
    percent escapes as RFC 3986 6.2.2 has them. A copy in the Internet Archive's Wayback Machine is its original.
    """
    url = url.strip()
    if found := _ARCHIVED.match(url):
        url = found[1] if "//" in found[1][:8] else f"http://{found[1]}"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    scheme = parts.scheme or "http"
    host = (parts.hostname or "").rstrip(".").removeprefix("www.")
    if scheme not in _DEFAULT_PORTS or not host:
        return ""
    if port not in (None, _DEFAULT_PORTS[scheme]):
        host = f"{host}:{port}"
    query = "&".join(field for field in parts.query.split("&") if not _TRACKING.match(field))
    path = _ESCAPE.sub(_normal_escape, parts.path).rstrip("/")
    return f"{host}{path or '/'}" + (f"?{_ESCAPE.sub(_normal_escape, query)}" if query else "")


def host_of(normal_url: str) -> str:
    """The host of a URL in normal form."""
    return normal_url.partition("/")[0]


def _normal_escape(found: re.Match) -> str:
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else f"%{found[1].upper()}"


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """uint64 hashes of texts: 64 bits of blake2b, so 2e8 URLs claim a stranger once in 1e11 look-ups."""
    digests = (hashlib.blake2b(t.encode("utf-8", "replace"), digest_size=_KEY_BYTES).digest() for t in texts)
    return np.frombuffer(b"".join(digests), "<u8")


class CitedUrls:
    """The set of cited URLs and of their hosts: sorted hashes in two files, mapped into memory and not read."""

    def __init__(self, folder: str | Path):
        """Opens what `build_cited_urls` wrote; FileNotFoundError where it did not."""
        self.counts: dict[str, int] = json.loads((Path(folder) / "counts.json").read_text(encoding="utf-8"))
        self._keys = {name: _mapped(Path(folder) / f"{name}.u64") for name in _FILES}

    def has_url(self, normal_urls: Sequence[str]) -> np.ndarray:
        """bool [len(normal_urls)]; False for ""."""
        return self._has("urls", normal_urls)

    def has_host(self, normal_urls: Sequence[str]) -> np.ndarray:
        """bool [len(normal_urls)]: whether any page of the URL's host is cited."""
        return self._has("hosts", [host_of(url) for url in normal_urls])

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
        pages = [page for page in map(normalise_url, batch) if page]
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
        if len(batch) == _BUFFERED_KEYS:
            yield batch
            batch = []
    if batch:
        yield batch


def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, "<u8", "r") if path.stat().st_size else np.empty(0, "<u8")
