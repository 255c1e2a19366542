"""How much of a text or URL is words of a list that the user supplies, such as adult ones (Llama 3, 3.1).

A list is a UTF-8 file with a word or phrase a line; `#` begins a comment. Case does not matter. A word counts where it
stands between white space and punctuation; in scripts that are written without spaces (Thai, Lao, Khmer, Burmese,
Chinese, Japanese) wherever it occurs. Vowel signs are parts of words.
"""

import dataclasses
import functools
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llama3_jax.core.files import open_file
from llama3_jax.curation.annotations import Scores

ADULT_SAMPLE = Path(__file__).parent / "lists" / "adult_words.sample.txt"
"""A tame list that shows the format."""

_PUNCTUATION = r"!-/:-@\[-`{-~\u00a1\u00ab\u00bb\u00bf\u0964\u0965\u2000-\u200b\u200e-\u206f\u3000-\u303f"
_BETWEEN_WORDS = re.compile(rf"[\s{_PUNCTUATION}]+")
_ASCII_TO_SPACE = str.maketrans({chr(code): " " for code in range(128) if _BETWEEN_WORDS.match(chr(code))})
_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_URL_WORD = re.compile(r"[^\W\d_]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordList:
    """Entries by the way they are looked for. Made by `load` or `parse`."""

    words: frozenset[str]
    phrases: dict[str, tuple[str, ...]]  # by their first word
    pieces: tuple[str, ...]  # of scripts without spaces

    @classmethod
    def load(cls, path: str | os.PathLike) -> "WordList":
        """Of a file at a path or fsspec URL. Raises OSError, and ValueError if it holds no entry."""
        with io.TextIOWrapper(open_file(path), encoding="utf-8") as file:
            found = cls.parse(file)
        if not (found.words or found.phrases or found.pieces):
            raise ValueError(f"{os.fspath(path)}: a list without words")
        return found

    @classmethod
    def parse(cls, lines: Iterable[str]) -> "WordList":
        """Of lines."""
        entries = (_fold(line.partition("#")[0].strip().removeprefix("\ufeff")) for line in lines)
        words, phrases, pieces = set(), {}, set()
        for entry in entries:
            if _WITHOUT_SPACES.search(entry):
                pieces.add(entry)
                continue
            parts = _words(entry)
            if len(parts) == 1:
                words.add(parts[0])
            elif parts:
                phrases.setdefault(parts[0], set()).add("  ".join(parts))
        return cls(
            words=frozenset(words),
            phrases={first: tuple(sorted(found)) for first, found in phrases.items()},
            pieces=tuple(sorted(pieces)),
        )

    def count(self, text: str) -> tuple[int, int]:
        """(occurrences of entries, words) in a text."""
        text = _fold(text)
        words = _words(text)
        found = sum(map(self.words.__contains__, words))
        firsts = [first for first in self.phrases if first in set(words)] if self.phrases else []
        if firsts:
            spaced = f" {'  '.join(words)} "  # two spaces: phrases that follow each other share none
            found += sum(spaced.count(f" {phrase} ") for first in firsts for phrase in self.phrases[first])
        if self.pieces and not text.isascii():
            found += sum(map(text.count, self.pieces))
        return found, len(words)

    def scores(self, texts: Sequence[str], name: str) -> Scores:
        """`<name>_words`, occurrences of entries, and `<name>_density`, their share of the words (0 without words)."""
        counts = np.array([self.count(text) for text in texts], np.int64).reshape(-1, 2)
        return {f"{name}_words": counts[:, 0], f"{name}_density": counts[:, 0] / np.maximum(counts[:, 1], 1)}

    def url_scores(self, urls: Sequence[str], name: str) -> Scores:
        """`<name>_url_words`: how many of the words between digits and punctuation of each URL are on the list."""
        known = functools.cache(self.words.__contains__)
        counts = [sum(map(known, _URL_WORD.findall(url.lower()))) for url in urls]
        return {f"{name}_url_words": np.array(counts, np.int64)}


def _fold(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).lower()


def _words(text: str) -> list[str]:
    if text.isascii():
        return text.translate(_ASCII_TO_SPACE).split()
    return _BETWEEN_WORDS.sub(" ", text).split()
