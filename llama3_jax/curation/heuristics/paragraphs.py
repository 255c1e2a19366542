"""The repetition scores of a batch: its words, lines and paragraphs as pieces."""

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.hashing import hash_ranges
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.repetition import Pieces, RepetitionConfig, duplicate_shares, ngram_shares
from llama3_jax.curation.heuristics.segments import segment_sums


def repetition_scores(reading: Reading, config: RepetitionConfig) -> Scores:
    """The scores of `repetition` [documents]; words are compared with case, as lines are."""
    batch = reading.batch
    word_chars = segment_sums(reading.word_chars, batch.words.splits)
    words = Pieces(reading.word_hashes, reading.word_chars, batch.words.splits)
    lines, paragraphs = text_lines(reading), text_paragraphs(reading)
    return {
        **duplicate_shares("line", lines, batch.num_chars, word_chars, config),
        **duplicate_shares("paragraph", paragraphs, batch.num_chars, word_chars, config),
        **ngram_shares(words, batch.num_chars, config),
    }


def text_lines(reading: Reading) -> Pieces:
    """Lines without the white space around them; blank ones left out."""
    shown = np.flatnonzero(~reading.is_blank)
    starts, ends = reading.first_byte[shown], reading.end_byte[shown]
    hashes = hash_ranges(reading.batch.data, starts, ends)
    return Pieces(hashes, reading.line_chars[shown], np.searchsorted(shown, reading.lines.splits))


def text_paragraphs(reading: Reading) -> Pieces:
    """Runs of lines with text, from the first one's text to the last one's."""
    shown = ~reading.is_blank
    before = np.concatenate([[False], shown])[:-1]
    before[reading.lines.splits[:-1][reading.lines.counts > 0]] = False
    first = np.flatnonzero(shown & ~before)
    after = np.concatenate([shown & before, [False]])[1:]
    last = np.flatnonzero(shown & ~after)
    starts, ends = reading.first_byte[first], reading.end_byte[last]
    hashes = hash_ranges(reading.batch.data, starts, ends)
    return Pieces(hashes, reading.chars_between(starts, ends), np.searchsorted(first, reading.lines.splits))
