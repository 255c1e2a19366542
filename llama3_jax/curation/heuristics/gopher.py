"""Is it text? Lengths, symbols, lists, ellipses and stop words (Rae et al. 2021, A.1.1)."""

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.heuristics.character_kinds import BULLET, LETTER
from llama3_jax.curation.heuristics.lists import DIRTY, STOP
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.segments import count_positions, segment_any, segment_sums, share

_HASH, _DOT = ord("#"), ord(".")
_ELLIPSIS = "…".encode()


def gopher_scores(reading: Reading) -> Scores:
    """The scores of the Gopher rules [documents].

    words                number of words; of letters with their marks in scripts without spaces
    mean_word_chars      characters of a word
    hashes_per_word      "#"s by words
    ellipses_per_word    "…"s and runs of three or more "."s by words
    bullet_lines         share of the lines with text that begin with a bullet
    ellipsis_lines       share of the lines with text that end with an ellipsis
    alphabetic_tokens    share of what white space separates that has a letter
    stop_words           how many different stop words of the document's language there are
    """
    words = reading.batch.words.counts
    ellipses = reading.once(ellipsis_ends)
    with_text = reading.lines_by_document(~reading.is_blank)
    bullets = _first_kinds(reading) & BULLET != 0
    return {
        "words": words.astype(np.float64),
        "mean_word_chars": share(segment_sums(reading.word_chars, reading.batch.words.splits), words),
        "hashes_per_word": share(reading.by_document(reading.positions_of(_HASH)), words),
        "ellipses_per_word": share(reading.by_document(ellipses - 1), words),
        "bullet_lines": share(reading.lines_by_document(bullets), with_text),
        "ellipsis_lines": share(reading.lines_by_document(reading.once(ends_with_ellipsis)), with_text),
        "alphabetic_tokens": _alphabetic_tokens(reading),
        "stop_words": different_entries(reading, STOP),
    }


def dirty_word_scores(reading: Reading) -> Scores:
    """`dirty_words`, how many there are, and `dirty_word_share`, of all words (Llama 3, 3.1.1; Raffel et al. 2020)."""
    count = count_positions(reading.hits_of(DIRTY)[0], reading.batch.words.splits)
    return {
        "dirty_words": count.astype(np.float64),
        "dirty_word_share": share(count, reading.batch.words.counts),
    }


def ellipsis_ends(reading: Reading) -> np.ndarray:
    """The bytes just after each "…" and each run of three or more "."s, ascending."""
    starts, stops = reading.runs_of(_DOT)
    data = reading.batch.data
    single = np.zeros(0, np.int64)
    if not reading.batch.is_ascii:
        single = np.flatnonzero(data[2:] == _ELLIPSIS[2])
        single = single[(data[single] == _ELLIPSIS[0]) & (data[single + 1] == _ELLIPSIS[1])]
    return np.sort(np.concatenate([stops[stops - starts >= 3], single + len(_ELLIPSIS)]))


def ends_with_ellipsis(reading: Reading) -> np.ndarray:
    """bool [L]: the last thing on the line is an ellipsis."""
    ends = np.zeros(len(reading.batch.data) + 1, np.bool_)
    ends[reading.once(ellipsis_ends)] = True
    return ends[reading.end_byte] & ~reading.is_blank


def different_entries(reading: Reading, name: str) -> np.ndarray:
    """How many different entries of one list each document has, float64 [D]."""
    word, entry = reading.hits_of(name)
    row = np.searchsorted(reading.batch.words.splits, word, side="right") - 1
    used = np.zeros(len(reading.lexicon.entries), np.bool_)
    used[entry] = True
    place = np.cumsum(used) - 1
    has = np.zeros((len(reading.batch), int(used.sum())), np.bool_)
    has[row, place[entry]] = True
    return np.count_nonzero(has, axis=1).astype(np.float64)


def _first_kinds(reading: Reading) -> np.ndarray:
    """The kinds of the first character of each line that is no white space, 0 for blank lines; uint8 [L]."""
    shown = ~reading.is_blank
    kinds = np.zeros(shown.size, np.uint8)
    kinds[shown] = reading.kinds[reading.first_byte[shown]]
    return kinds


def _alphabetic_tokens(reading: Reading) -> np.ndarray:
    """Share of the tokens with a letter; what is between tokens has none."""
    tokens = reading.batch.tokens
    is_letter = reading.kinds & LETTER != 0
    has_letter = is_letter[tokens.start]
    others = np.flatnonzero(~has_letter)  # few: most tokens begin with a letter
    has_letter[others] = segment_any(is_letter, tokens.start[others], tokens.end[others])
    return share(segment_sums(has_letter, tokens.splits), tokens.counts)
