"""Shares of a document that repeat: lines, paragraphs and n-grams (Rae et al. 2021, table A1; Llama 3, 3.1.1)."""

import dataclasses
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.heuristics.rae_variants import VARIANTS, Variant, Words, characters_of_ngrams
from llama3_jax.curation.heuristics.repeats import count_copies, find_repeats
from llama3_jax.curation.heuristics.segments import chunks_of_segments, segment_sums, share

_WORDS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepetitionConfig:
    """Which n-grams are measured, and by whose definition (`rae_variants.VARIANTS`)."""

    variant: str = "rae_dclm"
    top: tuple[int, ...] = (2, 3, 4)
    duplicated: tuple[int, ...] = (5, 6, 7, 8, 9, 10)

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        for field in ("top", "duplicated"):
            if any(n < 2 for n in getattr(self, field)):
                raise ValueError(f"{field} must hold sizes of n-grams of at least 2, got {getattr(self, field)}")


class Pieces(NamedTuple):
    """Words, lines or paragraphs of a batch of documents, in order."""

    hashes: np.ndarray  # uint64 [pieces], equal for equal pieces
    lengths: np.ndarray  # int64 [pieces] characters
    bounds: np.ndarray  # int64 [documents + 1] into pieces


def ngram_shares(words: Pieces, text_chars: np.ndarray, config: RepetitionConfig) -> Scores:
    """`top_<n>gram` and `duplicate_<n>gram` [documents]: shares of characters; 0 where a document has no n-gram.

    `text_chars` int64 [documents] is the length of each whole text, which some variants divide by.
    """
    names = [f"top_{n}gram" for n in config.top] + [f"duplicate_{n}gram" for n in config.duplicated]
    scores = {name: np.zeros(words.bounds.size - 1) for name in names}
    for first, last in chunks_of_segments(words.bounds, _WORDS_AT_ONCE):
        part = slice(int(words.bounds[first]), int(words.bounds[last]))
        bounds = words.bounds[first : last + 1] - part.start
        piece = Pieces(words.hashes[part], words.lengths[part], bounds)
        for name, found in _ngram_shares(piece, text_chars[first:last], config).items():
            scores[name][first:last] = found
    return scores


def _ngram_shares(words: Pieces, text_chars: np.ndarray, config: RepetitionConfig) -> Scores:
    variant = VARIANTS[config.variant]
    before = np.concatenate([[0], np.cumsum(words.lengths, dtype=np.int64)])
    weighed = Words(words.bounds, before)
    whole = {"text": text_chars, "words": before[words.bounds[1:]] - before[words.bounds[:-1]]}
    scores: dict[str, np.ndarray] = {}
    for repeats in find_repeats(words.hashes, words.bounds, max(config.top + config.duplicated, default=1)):
        if repeats.n in config.top:
            scores[f"top_{repeats.n}gram"] = share(variant.top(repeats, weighed), whole[variant.top_of])
        if repeats.n in config.duplicated:
            if variant.duplicated_of == "ngrams":
                whole["ngrams"] = characters_of_ngrams(repeats.n, weighed)
            found = share(variant.duplicated(repeats, weighed), whole[variant.duplicated_of])
            scores[f"duplicate_{repeats.n}gram"] = found
    return scores


def duplicate_shares(
    name: str, pieces: Pieces, text_chars: np.ndarray, word_chars: np.ndarray, config: RepetitionConfig
) -> Scores:
    """`duplicate_<name>s` and `duplicate_<name>_chars` [documents]: shares of the lines or paragraphs that are copies.

    `text_chars` and `word_chars` int64 [documents]: characters of each whole text, and of its words.
    """
    variant: Variant = VARIANTS[config.variant]
    copies, is_first = count_copies(pieces.hashes, pieces.bounds)
    duplicate = copies > 1 if variant.all_copies else ~is_first
    chars = segment_sums(np.where(duplicate, pieces.lengths, 0), pieces.bounds)
    whole = {"text": text_chars, "words": word_chars, "segments": segment_sums(pieces.lengths, pieces.bounds)}
    return {
        f"duplicate_{name}s": share(segment_sums(duplicate, pieces.bounds), np.diff(pieces.bounds)),
        f"duplicate_{name}_chars": share(chars, whole[variant.segments_of]),
    }
