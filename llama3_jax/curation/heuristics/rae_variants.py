"""What "duplicated n-gram coverage" means: one paper sentence (Rae et al. 2021, A.1.1), four programs, four numbers.

On "a b c d e" three times, duplicated 5-grams cover 10/29, 1, 19/29 and 1 of the text for datatrove, dolma, NeMo
Curator and DCLM. The paper's "characters contained within duplicates, overlaps counted once" is DCLM's.
All variants see the same words here; the originals also differ in how they split text. Two of their accidents are left
out: datatrove's joining of words without a space ("ab c" = "a bc"), Curator's ties that depend on Python's hash seed.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.heuristics.repeats import Repeats
from llama3_jax.curation.heuristics.segments import segment_maxima, segment_sums

_LOW = 32  # bits for the lower part of a pair packed into one int64
_LARGEST_LOW = (1 << _LOW) - 1


class Words(NamedTuple):
    """The words of some documents: what the variants weigh n-grams by."""

    bounds: np.ndarray  # int64 [documents + 1] into words
    before: np.ndarray  # int64 [words + 1] characters of all words before this one


Measure = Callable[[Repeats, Words], np.ndarray]
"""int64 [documents]: characters, by the variant's own way of counting."""


class Variant(NamedTuple):
    """How a program measures repetition. What a share is of: "words" and "text" are characters of these."""

    duplicated: Measure
    duplicated_of: str  # "words", "text" or "ngrams"
    top: Measure
    top_of: str
    all_copies: bool  # duplicate lines and paragraphs: all copies, or those after the first
    segments_of: str  # "segments", "text" or "words"


def _per_document(characters: np.ndarray, positions: np.ndarray, words: Words) -> np.ndarray:
    return segment_sums(characters, np.searchsorted(positions, words.bounds))


def _gaps(positions: np.ndarray, n: int) -> np.ndarray:
    """Words to the next of `positions`, at most n; n-grams of different documents are at least n apart."""
    return np.minimum(np.diff(positions, append=positions[-1:] + n), n)


def _covered(repeats: Repeats, words: Words) -> np.ndarray:
    """Every word inside a repeated n-gram, once."""
    starts = repeats.positions
    return _per_document(words.before[starts + _gaps(starts, repeats.n)] - words.before[starts], starts, words)


def _every_occurrence(repeats: Repeats, words: Words) -> np.ndarray:
    """Every repeated n-gram whole, so a word as often as it is covered."""
    starts = repeats.positions
    return _per_document(words.before[starts + repeats.n] - words.before[starts], starts, words)


def _later_copies(repeats: Repeats, words: Words) -> np.ndarray:
    """Every word inside a second or later copy, once, and the spaces within each run of them."""
    starts = repeats.positions[repeats.positions != repeats.first]
    gaps = _gaps(starts, repeats.n)
    spaces = np.minimum(gaps, repeats.n - 1)
    return _per_document(words.before[starts + gaps] - words.before[starts] + spaces, starts, words)


def _walked_copies(repeats: Repeats, words: Words) -> np.ndarray:
    """Copies of what was met before on a walk that steps over each copy; sequential by definition."""
    counted = np.zeros(repeats.positions.size, np.int64)
    seen: set[int] = set()
    free = 0
    for i, (start, first) in enumerate(zip(repeats.positions.tolist(), repeats.first.tolist(), strict=True)):
        if start < free:
            continue
        if first in seen:
            counted[i] = words.before[start + repeats.n] - words.before[start]
            free = start + repeats.n
        seen.add(first)
    return _per_document(counted, repeats.positions, words)


def _longest_top(repeats: Repeats, words: Words) -> np.ndarray:
    """Copies times length of the most frequent n-gram, the longest of equals; 0 where none is there twice."""
    length = words.before[repeats.positions + repeats.n] - words.before[repeats.positions]
    best = _best_per_document(repeats, length, words)
    return (best >> _LOW) * (best & _LARGEST_LOW)


def _earliest_top(repeats: Repeats, words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(copies, first position, characters) [documents] of the most frequent n-gram, the earliest of equals."""
    starts = words.bounds[:-1]
    long_enough = np.diff(words.bounds) >= repeats.n
    best = _best_per_document(repeats, _LARGEST_LOW - repeats.first, words)
    best = np.where(long_enough, np.maximum(best, (1 << _LOW) + _LARGEST_LOW - starts), 0)
    first = np.where(long_enough, _LARGEST_LOW - (best & _LARGEST_LOW), 0)
    stop = np.where(long_enough, first + repeats.n, 0)
    return best >> _LOW, first, words.before[stop] - words.before[first]


def _best_per_document(repeats: Repeats, rank: np.ndarray, words: Words) -> np.ndarray:
    """The largest (copies, rank) packed into an int64 [documents], 0 where nothing repeats."""
    bounds = np.searchsorted(repeats.positions, words.bounds)
    return segment_maxima((repeats.copies << _LOW) + rank, bounds, 0)


def _top(repeats: Repeats, words: Words) -> np.ndarray:
    copies, _, length = _earliest_top(repeats, words)
    return copies * length


def _top_with_spaces(repeats: Repeats, words: Words) -> np.ndarray:
    copies, _, length = _earliest_top(repeats, words)
    return copies * (length + repeats.n - 1)


def _top_without_overlaps(repeats: Repeats, words: Words) -> np.ndarray:
    """As a replacement in the text finds it: from the left, a copy that overlaps the one before is none."""
    copies, first, length = _earliest_top(repeats, words)
    of_top = np.isin(repeats.first, first[copies > 1])
    counted = np.zeros(repeats.positions.size, np.int64)
    free = 0
    for i in np.flatnonzero(of_top).tolist():
        if repeats.positions[i] >= free:
            counted[i] = 1
            free = repeats.positions[i] + repeats.n
    apart = np.maximum(_per_document(counted, repeats.positions, words), copies > 0)
    return apart * (length + repeats.n - 1)


VARIANTS: Mapping[str, Variant] = {
    "rae_dclm": Variant(_covered, "words", _longest_top, "words", True, "segments"),
    "rae_datatrove": Variant(_walked_copies, "text", _top_with_spaces, "text", False, "text"),
    "rae_dolma": Variant(_every_occurrence, "ngrams", _top, "words", True, "words"),
    "rae_curator": Variant(_later_copies, "text", _top_without_overlaps, "text", False, "segments"),
}


def characters_of_ngrams(n: int, words: Words) -> np.ndarray:
    """int64 [documents]: characters of all n-grams together, each word as often as n-grams hold it."""
    starts, stops = words.bounds[:-1], words.bounds[1:]
    sums = np.concatenate([[0], np.cumsum(words.before)])
    ends = sums[stops + 1] - sums[np.minimum(starts + n, stops + 1)]
    return ends - (sums[np.maximum(stops + 1 - n, starts)] - sums[starts])
