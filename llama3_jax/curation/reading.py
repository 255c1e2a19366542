"""The first step: files of pages to texts, through the readers and the extractor, every loss with its reason."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from llama3_jax.curation.documents import Document, Lost, write_runs
from llama3_jax.curation.extract import ExtractConfig, decode_html, extract
from llama3_jax.curation.sources import Casualty, Page, SourceConfig, SourceFile, read_source
from llama3_jax.curation.steps import Counts, Task

PLAIN = "text/plain"
_MOST_FILES = 1_000  # of one task


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the documents of a source depend on."""

    source: str  # its name in the config
    groups: tuple[tuple[SourceFile, ...], ...]  # of files, one task each
    stamps: tuple[str, ...]  # of the files: which versions of them were read
    config: SourceConfig
    extract: ExtractConfig
    num_parts: int


def grouped(files: Sequence[SourceFile], num_bytes: int) -> tuple[tuple[SourceFile, ...], ...]:
    """Neighbouring files together, up to so many bytes: a folder may hold a million pages, each a file."""
    groups: list[list[SourceFile]] = []
    held = 0
    for file in files:
        held += file.size
        if not groups or held > num_bytes or len(groups[-1]) == _MOST_FILES:
            groups.append([])
            held = file.size
        groups[-1].append(file)
    return tuple(map(tuple, groups))


def read(tasks: Sequence[Task]) -> list[Counts]:
    """Reads one group of a source's files, or one of each of several sources that have as many."""
    return [_read_group(task) for task in tasks]


def _read_group(task: Task) -> Counts:
    settings: Reading = task.settings
    pages = itertools.chain.from_iterable(read_source(file, settings.config) for file in settings.groups[task.index])
    return write_runs(task, settings.source, _documents(pages, settings.extract), settings.num_parts)


def _documents(pages: Iterator[Page | Casualty], config: ExtractConfig) -> Iterator[Document | Lost]:
    for page in pages:
        if isinstance(page, Casualty):
            yield Lost(f"{page.source}, {page.place}", page.reason)
        else:
            yield _document(page, config)


def _document(page: Page, config: ExtractConfig) -> Document | Lost:
    decoded = decode_html(page.content, page.charset)
    if page.content_type == PLAIN:
        title, text, reason = "", clean(decoded), "empty"
    else:
        found = extract(decoded, config)
        title, text, reason = found.title, found.text, found.reason
    if not text or text.isspace():
        return Lost(page.url, reason or "no text")
    return Document(page.url, page.date, page.content, title, text)


def clean(text: str) -> str:
    """Plain text without what no text has: NULs, other control characters but tab and newline, lone surrogates."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.translate(_CONTROLS)


_CONTROLS = {code: None for code in [*range(32), 127, 0xFEFF] if code not in (9, 10)}
