"""A batch of texts as one buffer of UTF-8, and where its lines, words and characters are: no Python loop over any.

All of curation's fast paths read texts this way: a table is computed for the whole batch, on first use, and kept. No
document's entries depend on the other documents of the batch.

Words are runs of letters, digits and the marks that go with them (vowel signs of Hindi, accents), so text of any
language keeps what distinguishes its words. Scripts without spaces give one word per letter with its marks: a character
of Han or Kana, a consonant with its vowel sign in Thai. `characters.py` has the classes.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from llama3_jax.curation import characters, hashing

PART_BYTES = 1 << 21  # of text at a time, so that its tables fit a cache
_NEWLINE = ord("\n")
# Characters outside ASCII: how many bytes, the least first byte, and the bits of it that are the character's.
_LEADS = ((2, np.uint8(0xC0), np.uint8(0x1F)), (3, np.uint8(0xE0), np.uint8(0x0F)), (4, np.uint8(0xF0), np.uint8(0x07)))


class Ranges(NamedTuple):
    """Stretches of a batch's bytes, in order: entries splits[d]:splits[d + 1] lie in document d."""

    start: np.ndarray  # int64 [R]: byte of the buffer
    end: np.ndarray  # int64 [R], exclusive
    splits: np.ndarray  # int64 [D + 1]

    @property
    def row(self) -> np.ndarray:
        """The document of each entry, int64 [R]."""
        return np.repeat(np.arange(len(self.splits) - 1), self.counts)

    @property
    def counts(self) -> np.ndarray:
        """Entries of each document, int64 [D]."""
        return np.diff(self.splits)


class TextBatch:
    """Documents' texts in one buffer. `data` uint8 [N] is UTF-8; document d is data[offsets[d]:offsets[d + 1]].

    Both arrays are shared, not copied, and must not be changed. Lone surrogates are held as Python's "surrogatepass"
    writes them. Bytes that are not UTF-8 give some words or none, and no errors.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        """Raises ValueError where the offsets are not those of the data."""
        if data.dtype != np.uint8 or offsets.dtype != np.int64 or data.ndim != 1 or offsets.ndim != 1:
            raise ValueError(f"data must be uint8 and offsets int64, of rank 1, not {data.dtype} and {offsets.dtype}")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to the {len(data)} bytes of data")
        self.data = data
        self.offsets = offsets

    @classmethod
    def of(cls, texts: Sequence[str]) -> "TextBatch":
        """The batch of these texts."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def from_arrow(cls, texts: pa.Array | pa.ChunkedArray) -> "TextBatch":
        """The batch of an Arrow column of strings, without copying the text of a single chunk; null is an empty text.

        Raises ValueError for other types.
        """
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.chunk(0) if texts.num_chunks == 1 else pa.concat_arrays(_large(texts))
        width = {pa.string(): np.int32, pa.large_string(): np.int64}.get(texts.type)
        if width is None:
            raise ValueError(f"texts must be string or large_string, not {texts.type}")
        if texts.null_count:
            texts = texts.fill_null("")
        if not len(texts):
            return cls.of([])
        _, edges, data = texts.buffers()
        offsets = np.frombuffer(edges, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
        data = np.frombuffer(data if data is not None else b"", np.uint8)
        return cls(data[offsets[0] : offsets[-1]], offsets - offsets[0])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, row: int) -> str:
        """One document's text."""
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode("utf-8", "surrogatepass")

    @functools.cached_property
    def strings(self) -> list[str]:
        """Every document's text, for what works on characters one document at a time."""
        return [self.text(row) for row in range(len(self))]

    def rows(self, start: int, stop: int) -> "TextBatch":
        """The documents [start, stop) as a batch that shares the buffer; its tables are its own."""
        offsets = self.offsets[start : stop + 1]
        return TextBatch(self.data[offsets[0] : offsets[-1]], offsets - offsets[0])

    def parts(self, max_bytes: int) -> Iterator[tuple[int, "TextBatch"]]:
        """The batch in pieces of whole documents and at most `max_bytes` (but at least one document), with first rows.

        For work whose tables should fit a cache, or bounded memory. A batch that is small enough is its only piece.
        """
        if 0 < len(self.data) <= max_bytes:
            yield 0, self
            return
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + max_bytes, side="right")) - 1
            stop = min(max(stop, start + 1), len(self))
            yield start, self.rows(start, stop)
            start = stop

    # Characters.

    @functools.cached_property
    def is_ascii(self) -> bool:
        return not len(self.data) or int(self.data.max()) < 0x80

    @property
    def num_bytes(self) -> np.ndarray:
        """Bytes of each document, int64 [D]."""
        return np.diff(self.offsets)

    @functools.cached_property
    def num_chars(self) -> np.ndarray:
        """Characters (code points) of each document, int64 [D]."""
        return np.diff(self._chars_before(self.offsets))

    def char_offsets(self, positions: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Bytes of the buffer as characters of the documents `row` that they lie in; int64, all of one shape."""
        return self._chars_before(positions) - self._chars_before(self.offsets[row])

    def _chars_before(self, positions: np.ndarray) -> np.ndarray:
        return positions if self.is_ascii else positions - self._continuations_before[positions]

    @functools.cached_property
    def _continuations_before(self) -> np.ndarray:
        """How many of the first i bytes go on with a character rather than begin one, [N + 1]."""
        before = np.zeros(len(self.data) + 1, np.int32 if len(self.data) < 2**31 else np.int64)
        np.cumsum((self.data & 0xC0) == 0x80, out=before[1:])
        return before

    def classify(self, classes: np.ndarray) -> np.ndarray:
        """The class of the character that each byte is part of, uint8 [N], from a table over code points [1114112]."""
        by_byte = np.zeros(256, np.uint8)
        by_byte[:0x80] = classes[:0x80]
        return self._fill(np.take(by_byte, self.data), classes)

    def _fill(self, found: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Adds the classes of characters outside ASCII to `found`, which is 0 there."""
        for size, first, points in self.wide_characters:
            values = np.take(classes, points, mode="clip")
            if 2 * np.count_nonzero(values) < len(values):
                classed = np.flatnonzero(values)
                first, values = first[classed], values[classed]
            for place in range(size):
                found[first + place] = values
        return found

    @functools.cached_property
    def wide_characters(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Characters outside ASCII, by their bytes: (bytes, position of the first one, code point)."""
        if self.is_ascii:
            return []
        found = []
        for size, lead, bits in _LEADS:
            first = np.flatnonzero(self.data[: max(len(self.data) - size + 1, 0)] - lead <= bits)
            points = self.data[first].astype(np.uint32) & bits
            for place in range(1, size):
                points <<= np.uint32(6)
                points |= self.data[place:][first] & np.uint8(0x3F)
            found.append((size, first, points))
        return found

    @functools.cached_property
    def lower_data(self) -> np.ndarray:
        """`data` in lower case, byte for byte, so that all ranges hold in it too; see `characters.lower_case`."""
        is_capital = self._is_between("A", "Z")
        return self._replace_wide(self.data | is_capital.view(np.uint8) << np.uint8(5), characters.lower_case())

    def replaced(self, points: np.ndarray) -> np.ndarray:
        """`data` with each character replaced, from a table of code points by code point [1114112], uint8 [N].

        A character and what replaces it must have as many bytes; 0 replaces each of its bytes by 0.
        """
        by_byte = np.arange(256, dtype=np.uint8)
        by_byte[:0x80] = points[:0x80]
        return self._replace_wide(np.take(by_byte, self.data), points)

    def _replace_wide(self, data: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Replaces characters outside ASCII."""
        for size, first, old in self.wide_characters:
            new = np.take(points, old, mode="clip")
            changed = np.flatnonzero(new != old)
            first, new = first[changed], new[changed]
            stays = new > 0
            for place in range(size - 1, 0, -1):
                data[first + place] = (new & 0x3F | 0x80) * stays
                new = new >> 6
            data[first] = (new | (0xF00 >> size) & 0xFF) * stays
        return data

    def _is_between(self, first: str, last: str) -> np.ndarray:
        """Where the letters from `first` to `last` of ASCII are, bool [N]: faster than a table, where speed matters."""
        return self.data - np.uint8(ord(first)) <= ord(last) - ord(first)

    # Lines and words.

    @functools.cached_property
    def lines(self) -> Ranges:
        """What lies between "\\n"s, without them. A document that ends with one has no empty line after it."""
        newlines = np.flatnonzero(self.data == _NEWLINE)
        begins, ends = self.offsets[:-1], self.offsets[1:]
        filled = ends > begins
        unfinished = filled.copy()  # the last line ends with the document
        unfinished[filled] = self.data[ends[filled] - 1] != _NEWLINE
        line_ends = np.sort(np.concatenate([newlines, ends[unfinished]]), kind="stable")
        splits = _splits(np.diff(np.searchsorted(newlines, self.offsets)) + unfinished)
        starts = np.empty_like(line_ends)
        starts[1:] = line_ends[:-1] + 1
        starts[splits[:-1][filled]] = begins[filled]
        return Ranges(starts, line_ends, splits)

    @functools.cached_property
    def words(self) -> Ranges:
        """Runs of letters, digits and their marks; single letters of scripts without spaces."""
        is_word = self._is_between("a", "z") | self._is_between("A", "Z") | self._is_between("0", "9")
        classes = self._fill(is_word.view(np.uint8), characters.word_classes())  # true is WORD
        if not self.is_ascii:
            self._extend(classes)
        inside = classes != characters.SEPARATOR
        begins = _rises(inside)
        if not self.is_ascii:
            begins |= (classes == characters.UNSPACED) & ((self.data & 0xC0) != 0x80)
            begins[1:] |= (classes[1:] == characters.WORD) & (classes[:-1] >= characters.UNSPACED)
        return self.runs(inside, begins)

    @functools.cached_property
    def folded_hashes(self) -> np.ndarray:
        """The hashes of words in lower case, uint64 [W]."""
        return hashing.hash_ranges(self.lower_data, self.words.start, self.words.end)

    @functools.cached_property
    def tokens(self) -> Ranges:
        """Runs without white space, as `str.split` finds them."""
        return self.runs(~self.is_space)

    @functools.cached_property
    def is_space(self) -> np.ndarray:
        """Where white space is, as `str.isspace` has it, bool [N]."""
        is_space = self._is_between("\t", "\r") | self._is_between("\x1c", " ")
        return self._fill(is_space.view(np.uint8), characters.spaces()).view(bool)

    def _extend(self, classes: np.ndarray) -> None:
        """Gives marks and joiners the class of what they follow: WORD, SEPARATOR, or EXTEND after UNSPACED."""
        marks = np.flatnonzero(classes == characters.EXTEND)
        if not len(marks):
            return
        is_begin = np.zeros(len(self.data) + 1, bool)
        is_begin[self.offsets] = True
        first = is_begin[marks]  # of a run of marks
        first[0] = True
        first[1:] |= marks[1:] != marks[:-1] + 1
        runs = marks[first]
        followed = np.where(is_begin[runs], characters.SEPARATOR, classes[runs - 1])
        followed[followed == characters.UNSPACED] = characters.EXTEND
        classes[marks] = followed[np.cumsum(first) - 1]

    def runs(self, inside: np.ndarray, begins: np.ndarray | None = None) -> Ranges:
        """Runs of the bytes `inside`, bool [N], each within a document; cut also where `begins`, bool [N], is true."""
        begins = _rises(inside) if begins is None else begins.copy()
        first = self.offsets[:-1][self.num_bytes > 0]
        begins[first] = inside[first]
        ends = inside.copy()  # of the last byte
        ends[:-1] &= ~inside[1:] | begins[1:]
        starts = np.flatnonzero(begins)
        return Ranges(starts, np.flatnonzero(ends) + 1, np.searchsorted(starts, self.offsets))


def _large(texts: pa.ChunkedArray) -> list[pa.Array]:
    """Chunks with 64-bit offsets, so that joining them cannot overflow; one empty chunk where there is none."""
    return [chunk.cast(pa.large_string()) for chunk in texts.chunks] or [pa.array([], pa.large_string())]


def _rises(inside: np.ndarray) -> np.ndarray:
    """True where `inside` is and was not one place before."""
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    return begins


def _splits(counts: np.ndarray) -> np.ndarray:
    splits = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=splits[1:])
    return splits
