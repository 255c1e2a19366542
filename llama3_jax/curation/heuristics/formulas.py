"""Formulas in text: commands of TeX, what is between its delimiters, symbols, and what converters left of MathML."""

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.heuristics.character_kinds import DIGIT, MATH, SPACE
from llama3_jax.curation.heuristics.lists import MARKUP, TEX
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.segments import segment_sums, share

_BACKSLASH, _DOLLAR = ord("\\"), ord("$")
_LONGEST = 2000  # bytes between two delimiters that belong together


def formula_scores(reading: Reading) -> Scores:
    """Features of formulas [documents].

    tex_per_word     commands of TeX ("\\\\frac", "\\\\alpha") by words
    formula_chars    share of the bytes between $ $, $$ $$, \\\\( \\\\) and \\\\[ \\\\]
    math_symbols     share of what is no white space that is a symbol of mathematics beyond ASCII
    digit_chars      share of what is no white space that is a digit
    math_remains     names of MathML elements and of converters, by words: formulas that were lost
    """
    words = reading.batch.words.counts
    starts, ends = reading.once(formula_ranges)
    inside = segment_sums(ends - starts, np.searchsorted(starts, reading.batch.offsets))
    return {
        "tex_per_word": share(reading.by_document(reading.once(tex_commands)), words),
        "formula_chars": share(inside, reading.batch.num_bytes),
        "math_symbols": share(reading.count(MATH), reading.ink),
        "digit_chars": share(reading.count(DIGIT), reading.ink),
        "math_remains": share(reading.by_document(reading.hit_bytes(MARKUP)), words),
    }


def tex_commands(reading: Reading) -> np.ndarray:
    """The bytes at which names of TeX commands begin, after their backslashes; ascending."""
    names = reading.hit_bytes(TEX)
    return names[reading.follows(names, _BACKSLASH)]


def formula_ranges(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of what is between delimiters of TeX, in order, none within another; bytes."""
    found = [_between_dollars(reading), _between(reading, b"\\(", b"\\)"), _between(reading, b"\\[", b"\\]")]
    starts, ends = np.concatenate(found, axis=1)
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    reached = np.maximum.accumulate(ends)
    apart = np.ones(starts.size, np.bool_)
    apart[1:] = starts[1:] >= reached[:-1]
    return starts[apart], ends[apart]


def _between_dollars(reading: Reading) -> np.ndarray:
    """int64 [2, ranges]. A single "$" opens before what is no space and closes after what is none and before no digit,

    on one line, so that prices are not formulas; "$$" pairs up within a document.
    """
    starts, ends = reading.runs_of(_DOLLAR)
    plain = ~reading.follows(starts, _BACKSLASH)
    display = _paired(starts[plain & (ends - starts == 2)], 2, reading.batch.offsets)
    single = _paired(starts[plain & (ends - starts == 1)], 1, reading.line_bounds)
    starts, ends = single
    inner = reading.kinds[starts] | reading.kinds[ends - 1]
    good = (inner & SPACE == 0) & (reading.kinds_after(ends) & DIGIT == 0)
    return np.concatenate([display, single[:, good]], axis=1)


def _paired(delimiters: np.ndarray, width: int, bounds: np.ndarray) -> np.ndarray:
    """int64 [2, pairs]: between the first and second, third and fourth ... delimiter within each segment."""
    segment = np.searchsorted(bounds, delimiters, side="right") - 1
    rank = np.arange(delimiters.size) - np.searchsorted(segment, segment)
    opens = np.flatnonzero(rank % 2 == 0)
    opens = opens[(opens + 1 < delimiters.size)]
    opens = opens[segment[opens] == segment[opens + 1]]
    return _kept(delimiters[opens] + width, delimiters[opens + 1])


def _between(reading: Reading, left: bytes, right: bytes) -> np.ndarray:
    """int64 [2, ranges] from each `left` to the next `right` in the document, two bytes each."""
    backslashes = reading.positions_of(_BACKSLASH)
    backslashes = backslashes[~reading.begins_document[backslashes + 1]]
    after = reading.batch.data[backslashes + 1]
    opens, closes = (backslashes[after == mark[1]] for mark in (left, right))
    following = np.append(closes, np.iinfo(np.int64).max)[np.searchsorted(closes, opens)]
    row = np.searchsorted(reading.batch.offsets, opens, side="right")
    inside = following < reading.batch.offsets[row]
    return _kept(opens[inside] + 2, following[inside])


def _kept(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    good = (ends > starts) & (ends - starts <= _LONGEST)
    return np.stack([starts[good], ends[good]])
