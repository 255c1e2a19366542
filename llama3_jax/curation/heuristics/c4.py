"""Which lines are sentences, and pages that are none (Raffel et al. 2020, 2.2), as scores and spans: nothing is cut.

The paper's program drops lines; a page is judged by what is left. Terminal punctuation is that of the languages here,
the danda of Hindi included; Thai has none, so its thresholds do not ask for any.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from llama3_jax.curation.annotations import Scores, Spans
from llama3_jax.curation.heuristics.character_kinds import QUOTE, SPACE, TERMINAL
from llama3_jax.curation.heuristics.gopher import ends_with_ellipsis
from llama3_jax.curation.heuristics.lists import JAVASCRIPT, LOREM_IPSUM, POLICY
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.segments import share

_CURLY = ord("{")


@dataclasses.dataclass(frozen=True, kw_only=True)
class C4Config:
    """The paper's numbers for lines; those for pages are thresholds."""

    min_words_per_line: int = 5
    languages_without_terminals: tuple[str, ...] = ("th",)

    def __post_init__(self):
        if self.min_words_per_line < 0:
            raise ValueError(f"min_words_per_line must be at least 0, got {self.min_words_per_line}")


def c4_scores(reading: Reading, config: C4Config) -> tuple[Scores, Mapping[str, Spans]]:
    """Scores [documents] of pages, and the spans of the lines that the rules would drop, by reason; score 1.

    c4_sentences     sentences on the lines that are kept
    c4_kept_chars    share of the characters of lines that are on kept ones
    lorem_ipsum      how often that is there
    curly_brackets   number of "{"
    """
    dropped = _dropped_lines(reading, config)
    kept = ~(np.logical_or.reduce(list(dropped.values())) | reading.is_blank)
    sentences = reading.by_line(_sentence_ends(reading))
    chars = reading.lines_by_document(reading.line_chars)
    scores = {
        "c4_sentences": reading.lines_by_document(np.where(kept, sentences, 0)).astype(np.float64),
        "c4_kept_chars": share(reading.lines_by_document(np.where(kept, reading.line_chars, 0)), chars),
        "lorem_ipsum": reading.by_document(reading.hit_bytes(LOREM_IPSUM)).astype(np.float64),
        "curly_brackets": reading.by_document(reading.positions_of(_CURLY)).astype(np.float64),
    }
    return scores, {f"c4_{reason}": line_spans(reading, lines) for reason, lines in dropped.items()}


def _dropped_lines(reading: Reading, config: C4Config) -> dict[str, np.ndarray]:
    """reason -> bool [L]. Blank lines are dropped for no reason."""
    needs = [language not in config.languages_without_terminals for language in reading.languages]
    needs_terminal = np.repeat(np.array(needs, np.bool_), reading.lines.counts)
    return {
        "no_terminal": needs_terminal & ~(_ends_with_terminal(reading) | reading.is_blank),
        "few_words": (reading.words_in_lines < config.min_words_per_line) & ~reading.is_blank,
        "javascript": reading.by_line(reading.hit_bytes(JAVASCRIPT)) > 0,
        "policy": reading.by_line(reading.hit_bytes(POLICY)) > 0,
    }


def _ends_with_terminal(reading: Reading) -> np.ndarray:
    """bool [L]: ends with a terminal mark or a quotation's end, but not with an ellipsis."""
    ends = reading.last_byte(reading.kinds) & (TERMINAL | QUOTE) != 0
    return ends & ~reading.once(ends_with_ellipsis) & ~reading.is_blank


def _sentence_ends(reading: Reading) -> np.ndarray:
    """The last bytes of runs of terminal marks before white space, a quotation's end or the document's, ascending."""
    marks = np.flatnonzero(reading.kinds & TERMINAL != 0)
    after = reading.kinds_after(marks)
    last = reading.begins_document[marks + 1]
    return marks[last | (after & TERMINAL == 0) & (after & (SPACE | QUOTE) != 0)]


def line_spans(reading: Reading, lines: np.ndarray) -> Spans:
    """The lines where `lines` bool [L] is set, without their newlines."""
    found = np.flatnonzero(lines)
    starts, ends = reading.line_places
    return Spans(reading.lines.row[found], starts[found], ends[found], np.ones(found.size))
