"""Finds the words and phrases of lists in a batch of texts: all lists at once, on hashes of words.

Case is ignored as `characters.lower_case` has it, and so is what stands between the words of a phrase. Scripts without
spaces have one word per letter with its marks, so there a phrase is found inside running text; what touches in the
list must touch in the text.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.text_batch import TextBatch

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TOUCHING = np.uint64(0xD1B54A32D192ED03)
_SLOT_BITS = 16
_FORMS = ("NFC", "NFD")
ANY_LANGUAGE = ""


class Entry(NamedTuple):
    """One word or phrase of a list. It counts in documents of its language, or in all."""

    phrase: str
    list: str
    language: str = ANY_LANGUAGE


class Hits(NamedTuple):
    """Where entries were found, list by list: those of list i are at splits[i]:splits[i + 1], ordered by word.

    Of a list's entries that begin at one word the longest counts, and none that begins inside another.
    """

    word: np.ndarray  # int64 [hits] index into the batch's words
    entry: np.ndarray  # int64 [hits] index into the lexicon's entries
    splits: np.ndarray  # int64 [lists + 1]


class _Table(NamedTuple):
    """The entries of one number of words."""

    num_words: int
    keys: np.ndarray  # uint64 [phrases], sorted, all different
    entries: np.ndarray  # int64 [entries], those of phrase i at splits[i]:splits[i + 1]
    splits: np.ndarray  # int64 [phrases + 1]
    first: np.ndarray  # int64 [slots]: where the keys of each slot begin
    most: int  # keys of a slot


class Lexicon:
    """Entries ready to be looked up. `lists` are the names of their lists, sorted."""

    def __init__(self, entries: Iterable[Entry]):
        """Raises ValueError for an entry without a letter or digit."""
        self.entries = tuple(sorted(set(entries)))
        self.lists = tuple(sorted({entry.list for entry in self.entries}))
        self.list_of = np.array([self.lists.index(entry.list) for entry in self.entries], np.int64)
        self._languages = sorted({entry.language for entry in self.entries})
        self._language_of = np.array([self._languages.index(entry.language) for entry in self.entries], np.int64)
        # Composed and decomposed accents are the same entry.
        spelled = [
            (unicodedata.normalize(form, entry.phrase), i) for i, entry in enumerate(self.entries) for form in _FORMS
        ]
        batch = TextBatch.of([phrase for phrase, _ in spelled])
        self.num_words = batch.words.counts[:: len(_FORMS)]  # of each entry, int64 [entries]
        self._tables, prefixes = _make_tables(batch, np.array([i for _, i in spelled], np.int64))
        self._may_begin = _marked(prefixes[0])
        self._may_go_on = [_marked(found) for found in prefixes[1:]]  # by words so far, from one on

    def find(self, batch: TextBatch, languages: Sequence[str]) -> Hits:
        """The hits in `batch`, given the languages of its documents."""
        hashes = batch.folded_hashes
        words, splits = np.flatnonzero(self._may_begin[_slots(hashes)]), batch.words.splits
        keys = hashes[words]
        found, done = [], 1
        for table in self._tables:
            for length in range(done, table.num_words):
                go_on = np.flatnonzero(self._may_go_on[length - 1][_slots(keys)])
                words, keys = words[go_on], keys[go_on]
                inside = words + length < splits[np.searchsorted(splits, words, side="right")]
                words, keys = words[inside], keys[inside]
                keys = _lengthened(keys, batch, hashes, words + length)
            done = table.num_words
            found.append(_look_up(table, keys, words))
        return self._choose(np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64), batch, languages)

    def _choose(self, found: np.ndarray, batch: TextBatch, languages: Sequence[str]) -> Hits:
        """Drops hits in documents of another language, shorter ones at the same word, and those inside another."""
        word, entry, size = found[:, ::-1]  # the longest first
        number = {language: i for i, language in enumerate(self._languages)}
        language_of_row = np.array([number.get(language, -1) for language in languages], np.int64)
        row = np.searchsorted(batch.words.splits, word, side="right") - 1
        wanted = self._language_of[entry]
        counts = np.flatnonzero((wanted == language_of_row[row]) | (wanted == number.get(ANY_LANGUAGE, -2)))
        word, entry, size = word[counts], entry[counts], size[counts]
        stride = int(batch.words.splits[-1]) + 1
        key, chosen = _first_of_each(self.list_of[entry] * stride + word)
        covered = np.maximum.accumulate(key + size[chosen])
        outside = np.concatenate([[True], key[1:] >= covered[:-1]])[: key.size]
        key, chosen = key[outside], chosen[outside]
        splits = np.searchsorted(key, np.arange(len(self.lists) + 1) * stride)
        return Hits(word[chosen], entry[chosen], splits)


def _make_tables(batch: TextBatch, entries: np.ndarray) -> tuple[list[_Table], list[np.ndarray]]:
    """The tables of phrases, one a document, by number of words; and keys: of all first words, then of what the phrases

    of more than one word begin with, of more than two, and so on.
    """
    hashes = batch.folded_hashes
    starts, counts = batch.words.splits[:-1], batch.words.counts
    if not counts.all():
        raise ValueError(f"the entry {batch.text(int(counts.argmin()))!r} has no letter or digit")
    tables: list[_Table] = []
    prefixes = [[hashes[starts]], *([] for _ in range(1, int(counts.max(initial=1))))]
    for num_words in np.unique(counts).tolist():
        of_length = counts == num_words
        keys = hashes[starts[of_length]]
        for place in range(1, num_words):
            prefixes[place].append(keys)
            keys = _lengthened(keys, batch, hashes, starts[of_length] + place)
        pairs = sorted(set(zip(keys.tolist(), entries[of_length].tolist(), strict=True)))
        different, splits = np.unique(np.array([key for key, _ in pairs], np.uint64), return_index=True)
        of_entries = np.array([entry for _, entry in pairs], np.int64)
        slots = _slots(different)
        first, most = np.searchsorted(slots, np.arange(1 << _SLOT_BITS)), int(np.bincount(slots).max())
        tables.append(_Table(num_words, different, of_entries, np.append(splits, of_entries.size), first, most))
    return tables, [np.concatenate(found) for found in prefixes]


def _lengthened(keys: np.ndarray, batch: TextBatch, hashes: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Keys of phrases that go on to the word `last`; whether it touches the one before it is part of the key."""
    touches = batch.words.start[last] == batch.words.end[last - 1]
    return keys * _MULTIPLIER + (hashes[last] ^ touches * _TOUCHING)


def _look_up(table: _Table, keys: np.ndarray, words: np.ndarray) -> np.ndarray:
    """int64 [3, hits]: (word, entry, words) of each of `keys` that the table has, as often as it has it."""
    last = table.keys.size - 1
    phrase = np.minimum(table.first[_slots(keys)], last)
    for _ in range(table.most - 1):  # keys ascend, those of the next slots are larger
        phrase = np.minimum(phrase + (table.keys[phrase] < keys), last)
    known = np.flatnonzero(table.keys[phrase] == keys)
    words, phrase = words[known], phrase[known]
    counts = table.splits[phrase + 1] - table.splits[phrase]
    which = np.repeat(table.splits[phrase] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return np.stack([np.repeat(words, counts), table.entries[which], np.full(which.size, table.num_words)])


def _first_of_each(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(different keys, ascending, and the place of the first of each) of int64 [K], as `np.unique` has them."""
    bits = keys.size.bit_length()
    ordered = np.sort(keys << bits | np.arange(keys.size))
    found = ordered >> bits
    first = np.concatenate([[True], found[1:] != found[:-1]])[: keys.size]
    return found[first], ordered[first] & ((1 << bits) - 1)


def _marked(hashes: np.ndarray) -> np.ndarray:
    """bool [slots]: one of `hashes` is in the slot."""
    marked = np.zeros(1 << _SLOT_BITS, np.bool_)
    marked[_slots(hashes)] = True
    return marked


def _slots(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)
