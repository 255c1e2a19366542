"""A batch of texts as the quality rules read it: kinds of characters, hits of lists, and what they add up to by line."""

import functools
from collections.abc import Sequence

import numpy as np

from llama3_jax.curation.hashing import hash_ranges
from llama3_jax.curation.heuristics.character_kinds import kinds_of_characters
from llama3_jax.curation.heuristics.lexicon import Hits, Lexicon, word_hashes
from llama3_jax.curation.heuristics.segments import segment_sums
from llama3_jax.curation.text_batch import Ranges, TextBatch


class Reading:
    """Tables of one batch that several rules share, each made on first use. `languages` [documents] are ISO 639-1."""

    def __init__(self, batch: TextBatch, languages: Sequence[str], lexicon: Lexicon):
        """Raises ValueError if there is not one language a document."""
        if len(languages) != len(batch):
            raise ValueError(f"there are {len(languages)} languages for {len(batch)} documents")
        self.batch = batch
        self.languages = languages
        self.lexicon = lexicon

    # Bytes.

    @functools.cached_property
    def kinds(self) -> np.ndarray:
        """Flags of the character that each byte is part of, uint8 [N]."""
        return self.batch.classify(kinds_of_characters())

    @functools.cached_property
    def counted_kinds(self) -> np.ndarray:
        """`kinds` at the first byte of each character, 0 at the others: sums of it count characters."""
        if self.batch.is_ascii:
            return self.kinds
        return np.where((self.batch.data & 0xC0) == 0x80, 0, self.kinds)

    def is_kind(self, flags: int) -> np.ndarray:
        """bool [N]: a character of any of these kinds begins at this byte."""
        return (self.counted_kinds & flags) != 0

    def chars_between(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Characters in stretches of bytes, int64."""
        if self.batch.is_ascii:
            return ends - starts
        return ends - starts - (self._continuations[ends] - self._continuations[starts])

    @functools.cached_property
    def _continuations(self) -> np.ndarray:
        before = np.zeros(len(self.batch.data) + 1, np.int64)
        np.cumsum((self.batch.data & 0xC0) == 0x80, out=before[1:])
        return before

    @functools.cached_property
    def begins_document(self) -> np.ndarray:
        """bool [N + 1]: a document begins at this byte, or the batch ends: what is before it is another's."""
        begins = np.zeros(len(self.batch.data) + 1, np.bool_)
        begins[self.batch.offsets] = True
        return begins

    def follows(self, positions: np.ndarray, byte: int) -> np.ndarray:
        """bool, shape of `positions`: the byte before each is this one, of the same document."""
        return (self.batch.data[positions - 1] == byte) & ~self.begins_document[positions]

    def runs_of(self, byte: int) -> tuple[np.ndarray, np.ndarray]:
        """(starts, ends) of the runs of one byte within documents."""
        positions = np.flatnonzero(self.batch.data == byte)
        first = ~self.follows(positions, byte)
        last = np.append(first[1:], True)[: positions.size]
        return positions[first], positions[last] + 1

    # Words.

    @functools.cached_property
    def word_hashes(self) -> np.ndarray:
        """Of words as they stand, uint64 [words]."""
        return hash_ranges(self.batch.data, self.batch.words.start, self.batch.words.end)

    @functools.cached_property
    def folded_hashes(self) -> np.ndarray:
        """Of words in lower case, uint64 [words]."""
        return word_hashes(self.batch)

    @functools.cached_property
    def word_chars(self) -> np.ndarray:
        """Characters of each word, int64 [words]."""
        return self.chars_between(self.batch.words.start, self.batch.words.end)

    @functools.cached_property
    def hits(self) -> Hits:
        """Where the lexicon's entries are."""
        return self.lexicon.find(self.batch, self.folded_hashes, self.languages)

    def hits_of(self, name: str) -> Hits:
        """Those of one list, none where the lexicon has no such list."""
        if name not in self.lexicon.lists:
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64))
        mine = self.lexicon.list_of[self.hits.entry] == self.lexicon.lists.index(name)
        return Hits(self.hits.word[mine], self.hits.entry[mine])

    def hit_bytes(self, name: str) -> np.ndarray:
        """The byte at which each hit of one list begins, ascending, int64 [hits]."""
        return self.batch.words.start[self.hits_of(name).word]

    # Documents.

    def by_document(self, positions: np.ndarray) -> np.ndarray:
        """How many of these bytes (ascending) each document has, int64 [D]."""
        return np.diff(np.searchsorted(positions, self.batch.offsets))

    def count(self, flags: int) -> np.ndarray:
        """Characters of these kinds in each document, int64 [D]."""
        return segment_sums(self.is_kind(flags), self.batch.offsets)

    # Lines.

    @property
    def lines(self) -> Ranges:
        """The lines of the batch."""
        return self.batch.lines

    @functools.cached_property
    def line_bounds(self) -> np.ndarray:
        """int64 [lines + 1]: where each line begins, then the end; what is between lines is newlines only."""
        return np.append(self.lines.start, len(self.batch.data))

    def by_line(self, positions: np.ndarray) -> np.ndarray:
        """How many of these bytes (ascending) each line has, int64 [L]."""
        return np.diff(np.searchsorted(positions, self.line_bounds))

    def count_in_lines(self, mask: np.ndarray) -> np.ndarray:
        """How many bytes of `mask` bool [N] each line has, int64 [L]."""
        return segment_sums(mask, self.line_bounds)

    def lines_by_document(self, values: np.ndarray) -> np.ndarray:
        """Sums of whole numbers or booleans [L] over each document's lines, int64 [D]."""
        return segment_sums(values, self.lines.splits)

    @functools.cached_property
    def first_byte(self) -> np.ndarray:
        """Where the first token of each line begins; the line's end where it is blank, int64 [L]."""
        token = np.searchsorted(self.batch.tokens.start, self.lines.start)
        starts = np.append(self.batch.tokens.start, len(self.batch.data))
        return np.minimum(starts[token], self.lines.end)

    @functools.cached_property
    def end_byte(self) -> np.ndarray:
        """Where the last token of each line ends; the line's start where it is blank, int64 [L]."""
        tokens = np.searchsorted(self.batch.tokens.start, self.lines.end)
        ends = np.concatenate([[0], self.batch.tokens.end])
        return np.maximum(ends[tokens], self.lines.start)

    @functools.cached_property
    def is_blank(self) -> np.ndarray:
        """bool [L]: nothing but white space."""
        return self.end_byte <= self.first_byte

    @functools.cached_property
    def words_in_lines(self) -> np.ndarray:
        """int64 [L]."""
        return self.by_line(self.batch.words.start)

    @functools.cached_property
    def line_chars(self) -> np.ndarray:
        """Characters of each line without white space around it, int64 [L]."""
        return np.where(self.is_blank, 0, self.chars_between(self.first_byte, np.maximum(self.end_byte, self.first_byte)))
