"""Which files there are to curate, and the pages of each: the unit in which work can be cut is one file."""

import collections
import functools
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from llama3_jax.core.files import list_files, open_file, suffix_of
from llama3_jax.curation.sources import members
from llama3_jax.curation.sources.dates import parse_date
from llama3_jax.curation.sources.page import Casualty, Page, SourceConfig
from llama3_jax.curation.sources.rows import read_json_lines, read_parquet
from llama3_jax.curation.sources.warc import read_warc

SIDECAR = ".meta.json"
_MAX_SIDECAR_BYTES = 1 << 20
_MAGIC = re.compile(r"[*?[]")  # begins what a pattern leaves open


class SourceFile(NamedTuple):
    """A file to read."""

    name: str  # path or URL
    inside: str  # path below the folder that was given, or below that of a pattern; the name of a file given itself
    size: int  # bytes as stored
    has_sidecar: bool = False  # whether the file `name` + SIDECAR is there


def list_sources(paths: Sequence[str | os.PathLike]) -> list[SourceFile]:
    """The readable files of paths, folders (recursively, sorted) and fsspec URLs; the suffix decides the format.

    A pattern (`crawl/*.warc.gz`) stands for what it matches. `.warc`, `.jsonl` (both also `.gz`, `.zst`), `.parquet`,
    `.html` `.htm` `.xhtml`, `.txt` `.md` `.rst` `.py`.

    Raises FileNotFoundError, ImportError if a URL needs a package that is not installed, and ValueError for an unknown
    kind of file and if there are none.
    """
    if isinstance(paths, str):
        raise ValueError(f"paths must be a list of paths, got the one string {paths!r}")
    found = []
    for path in [os.fspath(path) for path in paths]:
        listed = list_files(path, [*_READERS, SIDECAR])
        names = {name for _, _, name in listed}
        for file_system, place, name in listed:
            if not name.endswith(SIDECAR):
                is_inside = name.startswith(f"{path.rstrip('/')}/")
                root = path if is_inside or name == path else _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]
                inside = name.removeprefix(root).lstrip("/") or name.rpartition("/")[2]
                beside = name + SIDECAR
                has_sidecar = beside in names or (not is_inside and file_system.exists(place + SIDECAR))
                found.append(SourceFile(name, inside, file_system.size(place), has_sidecar))
    if not found:
        raise ValueError(f"no files to read ({' '.join(_READERS)}) in {list(map(str, paths))}")
    return found


def read_source(
    source: SourceFile, config: SourceConfig, counts: collections.Counter[str] | None = None
) -> Iterator[Page | Casualty]:
    """The pages of one file in its order, and a casualty for every record that was lost.

    What is left out because it is no page ("not_response", "status", "media_type", "empty") is counted in `counts`.
    Memory is bounded by a few times `config.max_bytes`. Only the storage itself raises (OSError).
    """
    counts = collections.Counter() if counts is None else counts
    with open_file(source.name) as file:
        yield from _READERS[suffix_of(source.name, _READERS)](file, source, config, counts)


_Reader = Callable[[BinaryIO, SourceFile, SourceConfig, collections.Counter[str]], Iterator[Page | Casualty]]


def _stream(read: Callable, decode: Callable[[BinaryIO, SourceConfig], members.Chunks]) -> _Reader:
    return lambda file, source, config, counts: read(decode(file, config), source.name, config, counts)


def _read_rows_of_parquet(
    file: BinaryIO, source: SourceFile, config: SourceConfig, counts: collections.Counter[str]
) -> Iterator[Page | Casualty]:
    return read_parquet(file, source.name, config, counts)


def _read_page(
    kind: str, file: BinaryIO, source: SourceFile, config: SourceConfig, counts: collections.Counter[str]
) -> Iterator[Page | Casualty]:
    """A file that is one page. It has no date unless the sidecar tells: a file's own says when it was copied here."""
    content = file.read(config.max_bytes + 1)
    if not content or content.isspace():
        counts["empty"] += 1
        return
    if len(content) > config.max_bytes:
        yield Casualty(source.name, "file", "too_large", f"a file of more than {config.max_bytes} bytes")
        return
    try:
        told = _sidecar(source.name) if source.has_sidecar else {}
    except (ValueError, RecursionError) as error:
        yield Casualty(source.name, "sidecar", "json", str(error))
        return
    try:
        date = parse_date(told.get("date"))
    except ValueError as error:
        yield Casualty(source.name, "sidecar", "date", str(error))
        return
    url = told.get("url") or urllib.parse.urljoin(config.base_url, urllib.parse.quote(source.inside))
    yield Page(url, date, content, told.get("content_type") or kind, told.get("charset"), {})


def _sidecar(name: str) -> dict[str, str]:
    with open_file(name + SIDECAR) as file:
        told = json.loads(file.read(_MAX_SIDECAR_BYTES))
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise ValueError(f"{name + SIDECAR}: not a JSON object of strings")
    return told


_READERS: dict[str, _Reader] = {
    ".warc": _stream(read_warc, members.plain),
    ".warc.gz": _stream(read_warc, members.gzip_members),
    ".warc.zst": _stream(read_warc, members.zstd_frames),
    ".jsonl": _stream(read_json_lines, members.plain),
    ".jsonl.gz": _stream(read_json_lines, members.careful_gzip_members),
    ".jsonl.zst": _stream(read_json_lines, members.zstd_frames),
    ".parquet": _read_rows_of_parquet,
    ".html": functools.partial(_read_page, "text/html"),
    ".htm": functools.partial(_read_page, "text/html"),
    ".xhtml": functools.partial(_read_page, "application/xhtml+xml"),
    ".txt": functools.partial(_read_page, "text/plain"),
    ".md": functools.partial(_read_page, "text/plain"),
    ".rst": functools.partial(_read_page, "text/plain"),
    ".py": functools.partial(_read_page, "text/plain"),
}
