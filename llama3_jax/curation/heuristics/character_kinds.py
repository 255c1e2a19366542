"""What characters are for the quality rules: flags for every code point, several at once where several hold."""

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

_BY_CATEGORY = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE}  # by the first letter of the general category
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
    categories = [unicodedata.category(chr(point)) for point in range(sys.maxunicode + 1)]
    kinds = np.array([_BY_CATEGORY.get(name[0], 0) for name in categories], np.uint8)
    kinds[[point for point, name in enumerate(categories) if name == "Sm" and point >= 0x80]] |= MATH
    for flag, text in _CHARACTERS.items():
        kinds[[ord(character) for character in text]] |= flag
    kinds.flags.writeable = False
    return kinds
