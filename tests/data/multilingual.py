"""Text in several languages that needs no download: words made of a script's letters, and catalogues of messages."""

from collections.abc import Iterator
from pydoc_data import topics

import numpy as np

from benchmarks.curation_tokenizer import CATALOGUES, messages

# Letters and vowel signs: code points from, to (exclusive).
SCRIPTS = {"hi": [(0x905, 0x93A), (0x93E, 0x94D)], "th": [(0xE01, 0xE2F), (0xE30, 0xE3A)], "el": [(0x3B1, 0x3CA)]}


def made_of_script(name: str, num_documents: int, seed: int) -> list[tuple[str, str]]:
    """Documents of 200 words; words are 2 to 9 letters, some far more frequent than others. Thai has no spaces."""
    letters = [chr(code) for begin, end in SCRIPTS[name] for code in range(begin, end)]
    language = np.random.default_rng(7)  # the words are the same for every seed
    words = ["".join(language.choice(letters, language.integers(2, 10))) for _ in range(800)]
    weights = 1 / np.arange(1, len(words) + 1)
    text = np.random.default_rng(seed)
    between = "" if name == "th" else " "
    chosen = (text.choice(words, 200, p=weights / weights.sum()) for _ in range(num_documents))
    return [(name, between.join(document)) for document in chosen]


def english() -> list[tuple[str, str]]:
    """The help topics of Python."""
    return [("en", text) for _, text in sorted(topics.topics.items())]


def translated(language: str, most_characters: int) -> Iterator[tuple[str, str]]:
    """Messages of the catalogues of this machine, up to so much text."""
    for path in sorted((CATALOGUES / language / "LC_MESSAGES").glob("*.mo")):
        for message in messages(path):
            if most_characters > 0:
                most_characters -= len(message)
                yield language, message
