"""What characters are for curation: a class for every code point, from Unicode's general categories.

Tables are indexed by code point and applied to whole batches with `np.take`. They are made once, when first needed.
They are those of Unicode 14.0, whichever version Python has, so that every machine finds the same words: letters and
marks are listed in `unicode_letters.txt`, and Python is asked only about those. What is newer separates words.
"""

import functools
import importlib.resources
import sys
import unicodedata

import numpy as np

_LETTERS = importlib.resources.files("llama3_jax.curation").joinpath("unicode_letters.txt")

# Classes of `word_classes`.
SEPARATOR = 0  # between words: punctuation, symbols, white space, controls, what Unicode has not assigned
WORD = 1  # letters and digits of scripts that put spaces between words
UNSPACED = 2  # letters of scripts that do not: each is a unit of its own
EXTEND = 3  # goes with the character before it: marks (vowel signs, accents, variation selectors), joiners

# Scripts written without spaces between words, as ranges of code points (first, last).
_UNSPACED_SCRIPTS = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals of Han
    (0x3005, 0x3007),  # iteration mark, closing mark and zero of Han
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3031, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo and Katakana extended
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA9E0, 0xA9FF),  # Myanmar extended
    (0xA980, 0xA9DF),  # Javanese
    (0xAA60, 0xAADF),  # Myanmar extended, Tai Viet
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x16FE0, 0x18D7F),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # Kana extended, Nushu
    (0x20000, 0x3FFFF),  # Han, further extensions
)
_END_OF_CASES = 0x20000  # beyond are no letters with cases and no decimal digits
# Format characters inside words: soft hyphen, zero-width non-joiner and joiner, word joiner.
_JOINERS = (0x00AD, 0x200C, 0x200D, 0x2060)
# Wenzek et al. 2019 (ccNet): the punctuation outside ASCII that it removes; that of ASCII stays.
_CCNET_PUNCTUATION = "，。、„”“«»」「《》´∶：？！（）；–—．～’…━〈〉【】％►"


@functools.cache
def word_classes() -> np.ndarray:
    """The word class of each code point, uint8 [1114112]."""
    classes = np.zeros(sys.maxunicode + 1, np.uint8)
    for line in _LETTERS.read_text(encoding="ascii").splitlines():
        if not line.startswith("#"):
            bounds, kind = line.split()
            first, last = (int(bound, 16) for bound in bounds.split(".."))
            classes[first : last + 1] = WORD if kind == "L" else EXTEND
    for first, last in _UNSPACED_SCRIPTS:
        script = classes[first : last + 1]
        script[script == WORD] = UNSPACED
    classes[list(_JOINERS)] = EXTEND
    classes.flags.writeable = False
    return classes


@functools.cache
def spaces() -> np.ndarray:
    """1 for white space as `str.isspace` has it, else 0, uint8 [1114112]."""
    classes = np.zeros(sys.maxunicode + 1, np.uint8)
    classes[[point for point in range(0x3001) if chr(point).isspace()]] = 1  # the last one is U+3000
    classes.flags.writeable = False
    return classes


@functools.cache
def lower_case() -> np.ndarray:
    """The lower case of each letter, else the code point itself, uint32 [1114112].

    Only where that is one character of as many bytes, so that no text in UTF-8 changes its length, unlike with
    `str.lower`: a few dozen rare letters stay as they are (the Kelvin sign, capital sharp s, dotted capital I, …).
    """
    lower = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    points = np.flatnonzero(word_classes()[:_END_OF_CASES])
    small = np.array([chr(point).lower() for point in points.tolist()], "U2").view(np.uint32).reshape(-1, 2)
    fits = (small[:, 1] == 0) & (_num_bytes(small[:, 0]) == _num_bytes(points))
    lower[points[fits]] = small[fits, 0]
    lower.flags.writeable = False
    return lower


@functools.cache
def ccnet_letters() -> np.ndarray:
    """What ccNet makes of each code point before it hashes a line, uint32 [1114112]: 0 for what it takes out.

    That are controls (here without the newline) and some punctuation. Letters are in lower case, and decimal digits
    are the zero of their script.
    """
    letters = lower_case().copy()
    points = np.flatnonzero(word_classes()[:_END_OF_CASES])
    letters[points] -= np.array([unicodedata.decimal(chr(point), 0) for point in points.tolist()], np.uint32)
    letters[[*range(0x20), *range(0x7F, 0xA0), *map(ord, _CCNET_PUNCTUATION)]] = 0
    letters[ord("\n")] = ord("\n")
    letters.flags.writeable = False
    return letters


def _num_bytes(points: np.ndarray) -> np.ndarray:
    """Bytes of code points in UTF-8."""
    return np.searchsorted([0x80, 0x800, 0x10000], points, side="right")
