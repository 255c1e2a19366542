"""A batch of texts as the quality rules read it: kinds of characters, hits of lists, and their sums by line."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from llama3_jax.curation.hashing import hash_ranges
from llama3_jax.curation.heuristics.character_kinds import SPACE, kinds_of_characters
from llama3_jax.curation.heuristics.segments import count_positions, segment_sums
from llama3_jax.curation.lexicon import Hits, Lexicon
from llama3_jax.curation.text_batch import Ranges, TextBatch

T = TypeVar("T")


class Reading:
    """Tables of one batch that several rules share, each made on first use. `languages` [documents] are ISO 639-1."""

    def __init__(self, batch: TextBatch, languages: Sequence[str], lexicon: Lexicon):
        """Raises ValueError if there is not one language a document."""
        if len(languages) != len(batch):
            raise ValueError(f"there are {len(languages)} languages for {len(batch)} documents")
        self.batch = batch
        self.languages = languages
        self.lexicon = lexicon
        self._counts: dict[int, np.ndarray] = {}
        self._positions: dict[int, np.ndarray] = {}
        self._made: dict[Callable, Any] = {}

    def once(self, make: Callable[["Reading"], T]) -> T:
        """`make(self)`, kept: for tables that several rules read and one module knows how to make."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    # Bytes.

    @functools.cached_property
    def kinds(self) -> np.ndarray:
        """Flags of the character that each byte is part of, uint8 [N]."""
        return self.batch.classify(kinds_of_characters())

    @functools.cached_property
    def _counted_kinds(self) -> np.ndarray:
        """`kinds` at the first byte of each character, 0 at the others: sums of it count characters."""
        if self.batch.is_ascii:
            return self.kinds
        return np.where((self.batch.data & 0xC0) == 0x80, 0, self.kinds)

    def _is_kind(self, flags: int) -> np.ndarray:
        """bool [N]: a character of any of these kinds begins at this byte."""
        return (self._counted_kinds & flags) != 0

    def chars_between(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Characters in stretches of bytes, int64."""
        first = np.zeros((), np.int64)  # count from the first document
        return self.batch.char_offsets(ends, first) - self.batch.char_offsets(starts, first)

    def positions_of(self, byte: int) -> np.ndarray:
        """Where a character of ASCII is, ascending, int64."""
        if byte not in self._positions:
            self._positions[byte] = np.flatnonzero(self.batch.data == byte)
        return self._positions[byte]

    @functools.cached_property
    def begins_document(self) -> np.ndarray:
        """bool [N + 1]: a document begins at this byte, or the batch ends: what is before it is another's."""
        begins = np.zeros(len(self.batch.data) + 1, np.bool_)
        begins[self.batch.offsets] = True
        return begins

    def follows(self, positions: np.ndarray, byte: int) -> np.ndarray:
        """bool, shape of `positions`: the byte before each is this one, of the same document."""
        return (self.batch.data[positions - 1] == byte) & ~self.begins_document[positions]

    def kinds_after(self, positions: np.ndarray) -> np.ndarray:
        """The kinds of what follows these bytes in their documents, 0 where nothing does; uint8."""
        following = positions + 1
        kinds = self.kinds[np.minimum(following, len(self.kinds) - 1)]
        return np.where(self.begins_document[following], np.uint8(0), kinds)

    def runs_of(self, byte: int) -> tuple[np.ndarray, np.ndarray]:
        """(starts, ends) of the runs of one byte within documents."""
        positions = self.positions_of(byte)
        first = ~self.follows(positions, byte)
        last = np.append(first[1:], True)[: positions.size]
        return positions[first], positions[last] + 1

    @functools.cached_property
    def capitals(self) -> np.ndarray:
        """The bytes that are others in lower case, ascending, int64."""
        return np.flatnonzero(self.batch.data != self.batch.lower_data)

    # Words.

    @functools.cached_property
    def word_hashes(self) -> np.ndarray:
        """Of words as they stand, uint64 [words]: the batch's `folded_hashes` but for words with capitals."""
        hashes, words = self.batch.folded_hashes.copy(), self.batch.words
        has_capital = np.zeros(hashes.size, np.bool_)
        at = np.searchsorted(words.start, self.capitals, side="right") - 1
        has_capital[at[at >= 0]] = True  # circled letters have a case but are in no word
        capitalised = np.flatnonzero(has_capital)
        hashes[capitalised] = hash_ranges(self.batch.data, words.start[capitalised], words.end[capitalised])
        return hashes

    @functools.cached_property
    def word_chars(self) -> np.ndarray:
        """Characters of each word, int64 [words]."""
        return self.chars_between(self.batch.words.start, self.batch.words.end)

    @functools.cached_property
    def hits(self) -> Hits:
        """Where the lexicon's entries are."""
        return self.lexicon.find(self.batch, self.languages)

    def hits_of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(words ascending, entries), int64 [hits] each, of one list; none where the lexicon has no such list."""
        if name not in self.lexicon.lists:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        i = self.lexicon.lists.index(name)
        mine = slice(self.hits.splits[i], self.hits.splits[i + 1])
        return self.hits.word[mine], self.hits.entry[mine]

    def hit_bytes(self, name: str) -> np.ndarray:
        """The byte at which each hit of one list begins, ascending, int64 [hits]."""
        return self.batch.words.start[self.hits_of(name)[0]]

    # Documents.

    def by_document(self, positions: np.ndarray) -> np.ndarray:
        """How many of these bytes (ascending) each document has, int64 [D]."""
        return count_positions(positions, self.batch.offsets)

    def count(self, flags: int) -> np.ndarray:
        """Characters of these kinds, white space aside, in each document, int64 [D]."""
        return self.lines_by_document(self.count_in_lines(flags))

    @functools.cached_property
    def ink(self) -> np.ndarray:
        """Characters of each document that are no white space, int64 [D]."""
        return self.batch.num_chars - segment_sums(self._is_kind(SPACE), self.batch.offsets)

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
        return count_positions(positions, self.line_bounds)

    def count_in_lines(self, flags: int) -> np.ndarray:
        """Characters of these kinds, white space aside, in each line, int64 [L]."""
        if flags not in self._counts:
            self._counts[flags] = segment_sums(self._is_kind(flags), self.line_bounds)
        return self._counts[flags]

    def lines_by_document(self, values: np.ndarray) -> np.ndarray:
        """Sums of whole numbers or booleans [L] over each document's lines, int64 [D]."""
        return segment_sums(values, self.lines.splits)

    @functools.cached_property
    def _tokens_before(self) -> np.ndarray:
        """Tokens in all lines before each one, then all of them, int64 [L + 1]."""
        return np.concatenate([[0], np.cumsum(self.by_line(self.batch.tokens.start))])

    @functools.cached_property
    def first_byte(self) -> np.ndarray:
        """Where the first token of each line begins; the line's end where it is blank, int64 [L]."""
        first = self.lines.end.copy()
        shown = ~self.is_blank
        first[shown] = self.batch.tokens.start[self._tokens_before[:-1][shown]]
        return first

    @functools.cached_property
    def end_byte(self) -> np.ndarray:
        """Where the last token of each line ends; the line's end where it is blank, int64 [L]."""
        end = self.lines.end.copy()
        shown = ~self.is_blank
        end[shown] = self.batch.tokens.end[self._tokens_before[1:][shown] - 1]
        return end

    @functools.cached_property
    def is_blank(self) -> np.ndarray:
        """bool [L]: nothing but white space."""
        return np.diff(self._tokens_before) == 0

    @functools.cached_property
    def words_in_lines(self) -> np.ndarray:
        """int64 [L]."""
        return self.by_line(self.batch.words.start)

    @functools.cached_property
    def line_chars(self) -> np.ndarray:
        """Characters of each line without white space around it, int64 [L]."""
        return self.chars_between(self.first_byte, self.end_byte)

    @functools.cached_property
    def line_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each line begins and ends, in characters of its document, int64 [L] each."""
        row = self.lines.row
        begins = self.batch.offsets[row]
        return self.chars_between(begins, self.lines.start), self.chars_between(begins, self.lines.end)

    def last_byte(self, values: np.ndarray) -> np.ndarray:
        """`values` [N] at the last byte of each line's text; of blank lines, anything; [L]."""
        return values[np.maximum(self.end_byte - 1, 0)]
