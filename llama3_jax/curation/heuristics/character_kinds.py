"""What characters are for the quality rules: flags for every code point, several at once where several hold."""

import collections
import functools
import sys
import unicodedata

import numpy as np

LETTER = 1  # letters and their marks: vowel signs of Thai and Hindi are letters
DIGIT = 2
SPACE = 4
TERMINAL = 8  # ends a sentence
QUOTE = 16  # ends a quotation, and so may follow what ends a sentence
BULLET = 32  # begins an item of a list
CODE = 64  # punctuation that programs are full of and prose is not
MATH = 128  # symbols of formulas beyond ASCII

_BY_CATEGORY = collections.defaultdict(
    int,
    dict.fromkeys(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me"), LETTER)
    | dict.fromkeys(("Nd", "Nl", "No"), DIGIT)
    | dict.fromkeys(("Zs", "Zl", "Zp"), SPACE)
    | {"Sm": MATH},
)
_CHARACTERS = {
    SPACE: "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85",
    TERMINAL: ".!?…।॥。！？‽⁇⁈⁉",  # with the dandas of Hindi
    QUOTE: '"”»›“«」』',  # “ and « close in German
    BULLET: "*-•‣●○◦▪■□▶►·–—⁃∙➢➤✓✔",
    CODE: "{}[]()<>;=_\\|&^~`@$%/#",
}


@functools.cache
def kinds_of_characters() -> np.ndarray:
    """The flags of each code point, uint8 [1114112]."""
    categories = map(unicodedata.category, map(chr, range(sys.maxunicode + 1)))
    kinds = np.fromiter(map(_BY_CATEGORY.__getitem__, categories), np.uint8, sys.maxunicode + 1)
    kinds[:0x80] &= ~np.uint8(MATH)
    for flag, text in _CHARACTERS.items():
        kinds[[ord(character) for character in text]] |= flag
    kinds.flags.writeable = False
    return kinds
