"""Ranking by quality within each language, and the cut that keeps a declared share of it (Llama 3, 3.1.1 multilingual).

Exact whatever the ties, in memory that does not grow with the corpus: a document's key is a row of 16-bit digits (its
score's place on a fixed scale, its score, its id), best first. Each pass counts, language by language, one digit of the
documents that lie at the border so far; counts of parts of the corpus add up. One or two passes settle most cuts;
documents of equal score go on to be told apart by id.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.classify.draws import id_words

NUM_BINS = 1 << 16
_SCORE_DIGITS, _ID_DIGITS = 4, 8
NUM_DIGITS = 1 + _SCORE_DIGITS + _ID_DIGITS

NOTHING = (-1,)  # a border that no key is before

Counts = dict[str, np.ndarray]
"""language -> int64 [NUM_BINS], documents by one digit of their keys, the best in bin 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """What is kept. Raises ValueError for what makes no sense."""

    share: float = 0.5  # of each language's documents
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of some languages, instead
    low: float = 0.0  # scores at or below lie in one bin: the scale changes no result, only the number of passes
    high: float = 1.0

    def __post_init__(self):
        for name, share in {"share": self.share, **self.shares}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"shares: {name} is to keep {share}, which is not between 0 and 1")
        if not self.low < self.high:
            raise ValueError(f"low: {self.low} is not below high, {self.high}")


class Cut(NamedTuple):
    """Where a language is cut: documents whose key is before `border` stay, and `rest` of those that begin with it."""

    border: tuple[int, ...]
    rest: int | None  # None: all of them, and the cut is settled
    num_documents: int  # of the language, with a score


class Ranked(NamedTuple):
    """Documents of a batch, ready to be ranked: D of them."""

    keys: np.ndarray  # uint16 [D, NUM_DIGITS], in lexicographic order from best to worst
    languages: np.ndarray  # str [D]
    is_scored: np.ndarray  # bool [D]


def rank_keys(
    scores: np.ndarray, ids: Sequence[bytes] | np.ndarray, languages: Sequence[str] | np.ndarray, config: RankingConfig
) -> Ranked:
    """Keys of documents with scores float [D] (higher is better; NaN is none), ties by id, the lowest first."""
    scores = np.asarray(scores, np.float64) + 0.0  # -0.0 is 0.0
    is_scored = ~np.isnan(scores)
    place = np.nan_to_num((scores - config.low) / (config.high - config.low), posinf=1.0, neginf=0.0)
    scale = (NUM_BINS - 1 - np.floor(np.clip(place, 0, 1) * (NUM_BINS - 1))).astype(np.uint16)
    bits = scores.view(np.int64)
    ascending = np.where(bits < 0, ~bits, bits ^ np.int64(-(2**63))).view(np.uint64)
    keys = np.concatenate([scale[:, None], _digits(~ascending[:, None]), _digits(id_words(ids))], axis=1)
    return Ranked(keys, np.asarray(languages, dtype=str), is_scored)


def _digits(words: np.ndarray) -> np.ndarray:
    """uint64 [D, n] as uint16 [D, 4 n], highest first."""
    return words.astype(">u8").view(">u2").astype(np.uint16)


def count_digits(ranked: Ranked, cuts: Mapping[str, Cut]) -> Counts:
    """The map step: the next digit of documents at the border of their language, whose cut is not settled.

    Languages without a cut yet are counted by their first digit, so the first pass has `cuts = {}`.
    """
    counts = {}
    for language in np.unique(ranked.languages).tolist():
        cut = cuts.get(language, Cut((), 0, 0))
        if cut.rest is None:
            continue
        keys = ranked.keys[(ranked.languages == language) & ranked.is_scored]
        _, at_border = _compare(keys, cut.border)
        counts[language] = np.bincount(keys[at_border, len(cut.border)], minlength=NUM_BINS)
    return counts


def add_counts(total: Counts, more: Counts) -> None:
    """Adds one part's counts to `total`, in place."""
    for language, counts in more.items():
        total[language] = total[language] + counts if language in total else counts


def refine(cuts: Mapping[str, Cut], counts: Counts, config: RankingConfig) -> dict[str, Cut]:
    """The reduce step: the cuts, one digit further.

    Raises ValueError if two documents have one id and score, so that nothing can part them.
    """
    found = dict(cuts)
    for language, by_digit in counts.items():
        cut = cuts.get(language)
        if cut is None:
            num_documents = int(by_digit.sum())
            cut = Cut((), int(config.shares.get(language, config.share) * num_documents), num_documents)
        found[language] = _refined(cut, by_digit, language)
    return found


def _refined(cut: Cut, by_digit: np.ndarray, language: str) -> Cut:
    if not cut.rest:
        return Cut(NOTHING, None, cut.num_documents)
    up_to = np.cumsum(by_digit)
    digit = int(np.searchsorted(up_to, cut.rest))
    border = (*cut.border, digit)
    if up_to[digit] == cut.rest:
        return Cut(border, None, cut.num_documents)
    if len(border) == NUM_DIGITS:
        raise ValueError(f"{language}: two documents have the same score and id")
    return Cut(border, cut.rest - int(up_to[digit] - by_digit[digit]), cut.num_documents)


def find_cuts(read_parts: Callable[[], Iterable[Ranked]], config: RankingConfig) -> dict[str, Cut]:
    """Runs the passes in this process; `read_parts()` gives all parts of the corpus, each time again."""
    cuts: dict[str, Cut] = {}
    while not cuts or any(cut.rest is not None for cut in cuts.values()):
        total: Counts = {}
        for part in read_parts():
            add_counts(total, count_digits(part, cuts))
        if not total:
            break
        cuts = refine(cuts, total, config)
    return cuts


def is_kept(ranked: Ranked, cuts: Mapping[str, Cut]) -> np.ndarray:
    """bool [D]: the documents of each language that are within its share; never one without a score."""
    kept = np.zeros(len(ranked.languages), bool)
    for language in np.unique(ranked.languages).tolist():
        rows = np.flatnonzero((ranked.languages == language) & ranked.is_scored)
        if rows.size:
            before, at_border = _compare(ranked.keys[rows], cuts[language].border)
            kept[rows] = before | at_border
    return kept


def _compare(keys: np.ndarray, border: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which keys come before the border, and which begin with it; bool [D] each."""
    before, equal = np.zeros(len(keys), bool), np.ones(len(keys), bool)
    for digits, digit in zip(keys.T, border, strict=False):
        before |= equal & (digits < digit)
        equal &= digits == digit
    return before, equal
