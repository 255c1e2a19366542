"""How much of a text, and of its URL, is words of a list of adult ones (Llama 3, 3.1)."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.lexicon import Entry, Lexicon
from llama3_jax.curation.text_batch import PART_BYTES, TextBatch
from llama3_jax.curation.word_lists import read_entries

SAMPLE = Path(__file__).parent / "lists" / "adult_words.sample.txt"
"""A tame list that shows the format."""

ADULT = "adult"
_DIGITS_TO_SPACE = dict.fromkeys(map(ord, "0123456789"), " ")


class AdultWords:
    """A list, ready to be looked for."""

    def __init__(self, entries: Iterable[Entry]):
        """Raises ValueError for an entry without a letter or digit."""
        self._lexicon = Lexicon(entries)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "AdultWords":
        """Of a file, or a folder of files by language. Raises what `read_entries` does."""
        return cls(read_entries(path, ADULT))

    def scores(self, batch: TextBatch, languages: Sequence[str]) -> Scores:
        """`adult_words`, how many entries there are, and `adult_density`, the share of the words that are in one."""
        found = [
            self._count(part, languages[first : first + len(part)]) for first, part in batch.parts(PART_BYTES)
        ] or [np.zeros((3, 0), np.int64)]
        hits, covered, words = np.concatenate(found, axis=1)
        return {"adult_words": hits, "adult_density": covered / np.maximum(words, 1)}

    def url_scores(self, urls: Sequence[str], languages: Sequence[str]) -> Scores:
        """`adult_url_words`: how many entries there are between the digits and punctuation of each URL."""
        batch = TextBatch.of([url.translate(_DIGITS_TO_SPACE) for url in urls])
        return {"adult_url_words": self._count(batch, languages)[0]}

    def _count(self, batch: TextBatch, languages: Sequence[str]) -> np.ndarray:
        """int64 [3, D]: entries found, words in them, and words."""
        hits = self._lexicon.find(batch, languages)
        row = np.searchsorted(batch.words.splits, hits.word, side="right") - 1
        covered = np.bincount(row, self._lexicon.num_words[hits.entry], len(batch)).astype(np.int64)
        return np.stack([np.bincount(row, minlength=len(batch)), covered, batch.words.counts])
