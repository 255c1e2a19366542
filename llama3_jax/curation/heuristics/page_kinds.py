"""What kind of page it is, cheaply, from the kinds of its lines: prose, code, formulas, or reasoning that joins them.

The paper has pipelines of their own for code, mathematics and reasoning interleaved with prose (3.1.1). These scores
choose who gets into them, before a model looks at the page: shares of characters on lines of a kind.
"""

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.heuristics.character_kinds import CODE, DIGIT, LETTER, MATH
from llama3_jax.curation.heuristics.code import identifier_joints
from llama3_jax.curation.heuristics.formulas import formula_ranges, tex_commands
from llama3_jax.curation.heuristics.lists import CONNECTIVE, KEYWORD
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.segments import share

_ENDS_OF_CODE = np.zeros(256, np.bool_)
_ENDS_OF_CODE[list(b"{};)(,:\\")] = True
_EQUALS = ord("=")
# Where reasoning counts as fully there: this part of the text each in prose and in formulas or code, and this many
# connectives by words.
_FULL_PART, _FULL_CONNECTIVES = 0.25, 0.02


def page_kind_scores(reading: Reading) -> Scores:
    """Scores in [0, 1] of the kinds [documents], and what the last one is made of.

    code_page            share of the characters of lines that are on lines of code
    math_page            ... on lines with formulas
    prose                ... on lines of prose, those with formulas in them included
    connectives_per_word words and phrases that join the steps of an argument, by words
    switches             changes between prose and code or formulas, from one line with text to the next or within
                         one, by lines with text
    reasoning_page       prose, formulas or code, and connectives are all there
    """
    code, formula, prose = line_kinds(reading)
    chars = reading.lines_by_document(reading.line_chars)
    part = lambda lines: share(reading.lines_by_document(np.where(lines, reading.line_chars, 0)), chars)
    connectives = share(reading.by_document(reading.hit_bytes(CONNECTIVE)), reading.batch.words.counts)
    both = np.minimum(part(prose), part(code | formula)) / _FULL_PART
    return {
        "code_page": part(code),
        "math_page": part(formula),
        "prose": part(prose),
        "connectives_per_word": connectives,
        "switches": _switches(reading, code | formula, prose),
        "reasoning_page": np.minimum(both, 1) * np.minimum(connectives / _FULL_CONNECTIVES, 1),
    }


def line_kinds(reading: Reading) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(code, formula, prose) bool [L]. A line with formulas is not code; it may be prose. Blank lines are none."""
    chars = reading.line_chars
    symbols = reading.count_in_lines(CODE)
    letters = reading.count_in_lines(LETTER)
    joints = reading.by_line(reading.once(identifier_joints))
    formula = (_has_formula(reading) | _is_equation(reading, letters, joints)) & ~reading.is_blank
    last = reading.last_byte(reading.batch.data)
    names = joints + reading.by_line(reading.hit_bytes(KEYWORD))
    signs = (
        (symbols >= 3) & (8 * symbols >= chars),  # an eighth of the line
        (symbols >= 2) & _ENDS_OF_CODE[last] & (16 * symbols >= chars),
        (symbols >= 2) & (names > 0) & (16 * symbols >= chars),
    )
    code = np.logical_or.reduce(signs) & ~formula & ~reading.is_blank
    prose = (reading.words_in_lines >= 5) & (10 * letters >= 6 * chars) & ~code & ~reading.is_blank
    return code, formula, prose


def _has_formula(reading: Reading) -> np.ndarray:
    """bool [L]: TeX, or symbols of mathematics."""
    commands = reading.by_line(reading.once(tex_commands)) > 0
    return _within_formula(reading) | commands | (reading.count_in_lines(MATH) >= 2)


def _is_equation(reading: Reading, letters: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """bool [L]: "=" on a line that is digits and signs rather than names."""
    equals = reading.by_line(reading.positions_of(_EQUALS))
    digits = reading.count_in_lines(DIGIT)
    return (equals > 0) & (digits > 0) & (4 * letters <= reading.line_chars) & (joints == 0)


def _within_formula(reading: Reading) -> np.ndarray:
    """bool [L]: from the line on which a formula begins to the one on which it ends."""
    starts, ends = (np.searchsorted(reading.lines.start, at, side="right") - 1 for at in reading.once(formula_ranges))
    depth = np.zeros(reading.lines.start.size + 1, np.int64)
    np.add.at(depth, starts, 1)
    np.add.at(depth, ends + 1, -1)
    return np.cumsum(depth)[:-1] > 0


def _switches(reading: Reading, special: np.ndarray, prose: np.ndarray) -> np.ndarray:
    """By lines with text, [D]."""
    shown = np.flatnonzero(~reading.is_blank)
    kind = special[shown] * 1 + prose[shown] * 2  # 3: a line of both
    row = reading.lines.row[shown]
    differs = np.zeros(shown.size, np.bool_)
    differs[1:] = (kind[1:] != kind[:-1]) & (kind[1:] > 0) & (kind[:-1] > 0) & (row[1:] == row[:-1])
    changes = np.zeros(special.size, np.int64)
    changes[shown] = differs.astype(np.int64) + (kind == 3)  # booleans would not add up to 2
    return share(reading.lines_by_document(changes), reading.lines_by_document(~reading.is_blank))
