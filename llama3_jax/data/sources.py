"""A corpus of named sources, such as languages: `hi=web/hindi.jsonl` is a source, several paths may share its name."""

import collections
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from llama3_jax.data.text import read_documents

_NAMED = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)
_BATCH_CHARS = 1 << 22


def parse_sources(inputs: Sequence[str | os.PathLike]) -> dict[str, list[str]]:
    """Paths by the name of their source; a path without `name=` is a source of its own, named after the file.

    Write `./a=b` for a path that looks like a name. Raises ValueError on an empty list or entry.
    """
    sources: dict[str, list[str]] = collections.defaultdict(list)
    for given in inputs:
        entry = os.fspath(given)
        named = _NAMED.fullmatch(entry)
        name, path = named.groups() if named else (os.path.basename(entry.rstrip("/")).split(".")[0] or entry, entry)
        if not path:
            raise ValueError("an input is empty")
        sources[name].append(path)
    if not sources:
        raise ValueError("there is no input")
    return dict(sources)


def read_sources(
    sources: Mapping[str, Sequence[str]],
    *,
    field: str = "text",
    errors: str = "raise",
    skipped: collections.Counter[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """(name of the source, text) of every document, one source after another; arguments as in `read_documents`."""
    for name, paths in sources.items():
        for document in read_documents(paths, field=field, errors=errors, skipped=skipped):
            yield name, document.text


def batches(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """(source, texts): neighbours of one source together, up to a few MB or one document of any size."""
    for name, group in itertools.groupby(documents, key=lambda document: document[0]):
        batch, num_chars = [], 0
        for _, text in group:
            batch.append(text)
            num_chars += len(text)
            if num_chars >= _BATCH_CHARS:
                yield name, batch
                batch, num_chars = [], 0
        if batch:
            yield name, batch
