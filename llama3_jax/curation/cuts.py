"""Takes parts out of texts: lines that are dropped, and personal data that a token replaces."""

from collections.abc import Mapping

import numpy as np

from llama3_jax.curation.annotations import Spans


def cut_text(text: str, drop: np.ndarray, mask: Mapping[str, np.ndarray]) -> str:
    """`text` without the stretches `drop`, int64 [N, 2] of characters, and with `mask`'s replaced by their names.

    Stretches may overlap; one that is masked inside one that is dropped is gone. A line that is dropped takes its line
    break with it.
    """
    edits = [(int(start), _line_end(text, int(start), int(end)), "") for start, end in drop]
    edits += [(int(start), int(end), name) for name, spans in mask.items() for start, end in spans]
    edits.sort(key=lambda edit: (edit[0], -edit[1]))
    pieces, position = [], 0
    for start, end, name in edits:
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
