"""The repetition scores of a batch: its words, lines and paragraphs as pieces."""

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.hashing import hash_ranges, salted
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.repetition import Pieces, RepetitionConfig, duplicate_shares, ngram_shares
from llama3_jax.curation.heuristics.segments import segment_sums


def repetition_scores(reading: Reading, config: RepetitionConfig) -> Scores:
    """The scores of `repetition` [documents]; words are compared with case, as lines are."""
    batch = reading.batch
    word_chars = segment_sums(reading.word_chars, batch.words.splits)
    words = Pieces(reading.word_hashes, reading.word_chars, batch.words.splits)
    lines, paragraphs = reading.once(text_lines), reading.once(text_paragraphs)
    return {
        **duplicate_shares("line", lines, batch.num_chars, word_chars, config),
        **duplicate_shares("paragraph", paragraphs, batch.num_chars, word_chars, config),
        **ngram_shares(words, batch.num_chars, config),
    }


def text_lines(reading: Reading) -> Pieces:
    """Lines without the white space around them; blank ones left out."""
    shown = np.flatnonzero(~reading.is_blank)
    hashes = hash_ranges(reading.batch.data, reading.first_byte[shown], reading.end_byte[shown])
    return Pieces(hashes, reading.line_chars[shown], np.searchsorted(shown, reading.lines.splits))


def text_paragraphs(reading: Reading) -> Pieces:
    """Runs of lines with text, as those lines joined by newlines."""
    lines = reading.once(text_lines)
    shown = np.flatnonzero(~reading.is_blank)
    begins = np.diff(shown, prepend=-2) > 1
    begins[lines.bounds[:-1][np.diff(lines.bounds) > 0]] = True
    first = np.flatnonzero(begins)
    size = np.diff(first, append=shown.size)
    place = np.arange(shown.size) - np.repeat(first, size)
    hashes = salted(lines.hashes, place.astype(np.uint64))  # so that the order of lines counts
    if first.size:
        hashes = np.add.reduceat(hashes, first)
    chars = segment_sums(lines.lengths, np.append(first, shown.size)) + size - 1
    return Pieces(hashes, chars, np.searchsorted(first, lines.bounds))
