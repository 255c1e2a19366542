"""Takes parts out of texts: lines that are dropped, and personal data that a token replaces."""

from collections.abc import Mapping, Sequence

import numpy as np

from llama3_jax.curation.annotations import Spans

Stretches = Sequence[tuple[int, int]]
"""Parts of a text: (start, end) in characters, in any order."""


def cut_text(text: str, edits: Mapping[str, Stretches]) -> str:
    """`text` with stretches replaced by what they are listed under.

    What is listed under "" is dropped; a line that is dropped takes its line break with it. Stretches may overlap; one
    that is masked inside one that is dropped is gone.
    """
    ordered = [
        (start, end if name else _line_end(text, start, end), name)
        for name, stretches in edits.items()
        for start, end in stretches
    ]
    ordered.sort(key=lambda edit: (edit[0], -edit[1]))
    pieces, position = [], 0
    for start, end, name in ordered:
        if end <= position:
            continue
        if start >= position:
            pieces += [text[position:start], name]
        position = end
    return "".join([*pieces, text[position:]])


def _line_end(text: str, start: int, end: int) -> int:
    """The end of a stretch with its line break, if it is a whole line."""
    whole = (start == 0 or text[start - 1] == "\n") and text[end - 1] != "\n" and text[end : end + 1] == "\n"
    return end + 1 if whole else end


def of_row(spans: Spans, row: int) -> np.ndarray:
    """A document's stretches, int64 [N, 2], of spans in the order of their rows."""
    first, last = np.searchsorted(spans.row, [row, row + 1])
    return np.stack([spans.start[first:last], spans.end[first:last]], axis=1)


def by_row(found: Mapping[str, Spans], wanted: np.ndarray) -> dict[int, dict[str, Stretches]]:
    """The stretches of each document that is `wanted`, bool [D], and has any, under the names of the spans.

    Spans are in the order of rows.
    """
    stretches: dict[int, dict[str, Stretches]] = {}
    for name, spans in found.items():
        mine = wanted[spans.row]
        pairs = list(zip(spans.start[mine].tolist(), spans.end[mine].tolist(), strict=True))
        rows, first = np.unique(spans.row[mine], return_index=True)
        for row, start, end in zip(rows.tolist(), first.tolist(), [*first[1:].tolist(), len(pairs)], strict=False):
            stretches.setdefault(row, {})[name] = pairs[start:end]
    return stretches
