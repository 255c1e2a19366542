"""Repetition of whole texts: DCLM's published numbers, lines and paragraphs in any dress, and awkward input."""

import numpy as np
import pytest

from llama3_jax.curation.heuristics.lists import built_in
from llama3_jax.curation.heuristics.paragraphs import repetition_scores
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.repetition import RepetitionConfig
from llama3_jax.curation.heuristics.score import Heuristics, HeuristicsConfig
from llama3_jax.curation.lexicon import Lexicon
from llama3_jax.curation.text_batch import TextBatch

LEXICON = Lexicon([])


def scores(text: str, **config) -> dict[str, float]:
    reading = Reading(TextBatch.of([text]), ["en"], LEXICON)
    return {name: float(values[0]) for name, values in repetition_scores(reading, RepetitionConfig(**config)).items()}


# The exact fractions that DCLM's tests bracket (tests/baselines/mappers/filters/test_content_filters.py, 2024).
@pytest.mark.parametrize(
    ("text", "score", "expected"),
    [
        ("Hello\nHello\n\n\n\nHello", "duplicate_lines", 1),
        ("Hello\nHello\n\n\n\nHello", "duplicate_line_chars", 1),
        ("Hello, World.\nHello, World.\n\nHello", "duplicate_lines", 2 / 3),
        ("Hello, World.\nHello, World.\n\nHello", "duplicate_line_chars", 26 / 31),
        ("Hello, World.\n\nHello, World.\n\nHello, World.\nHello", "duplicate_paragraphs", 2 / 3),
        ("Hello, World.\n\nHello, World.\n\nHello, World.\nHello", "duplicate_paragraph_chars", 26 / 45),
        ("hello", "top_2gram", 0),
        ("hello", "duplicate_5gram", 0),
        ("hello      world hello apple.... world hello\n world hello", "top_2gram", 30 / 40),
        ("hello      world hello apple.... world hello\n world hello", "top_3gram", 30 / 40),
        ("hello      world hello apple.... world hello\n world hello", "top_4gram", 0),
        ("a b a b a b ab cd ab cd ab cd abc def abc def", "top_2gram", 12 / 30),
        ("a b a b a b abc def abc def ab cd ab cd ab cd", "top_2gram", 12 / 30),
        (
            "hello world hello\n world hello. apple world hello world hello world hello world",
            "duplicate_5gram",
            60 / 65,
        ),
    ],
)
def test_numbers_of_dclm(text, score, expected):
    assert scores(text)[score] == pytest.approx(expected, abs=1e-12)


def test_lines_are_compared_without_the_space_around_them():
    assert scores("same line\n  same line \r\nother\n\n \n")["duplicate_lines"] == 2 / 3


def test_the_order_of_lines_makes_a_paragraph():
    assert scores("one\ntwo\n\ntwo\none\n\nthree")["duplicate_paragraphs"] == 0
    assert scores("one\ntwo\n \none\ntwo\n\nthree")["duplicate_paragraphs"] == 2 / 3


def test_case_makes_other_words():
    assert scores("One two three. one Two three", top=(), duplicated=(2,))["duplicate_2gram"] == 0


AWKWARD = [
    "",
    "\n",
    " ",
    "\x00" * 10,
    "\ud800\udfff lone",
    "\u200f\u202e مرحبا \u200b",
    "\u0e34\u0e34",  # vowel signs without a letter
    "...",
    "$",
    "\\",
    "$$$$",
    "\\(" * 50,
    "_",
    "A",
    "Ⓐ",  # has a lower case and is no letter
    "Ⅷ ⅷ ǅ İ ẞ K",
    "a" * 100_000,
    "a " * 20_000,
    "\n" * 20_000,
    "$x$" * 5_000,
    "😀" * 300,
    "word " * 9 + "end.",
]


def test_awkward_texts_have_scores_and_change_no_neighbour():
    heuristics = Heuristics(HeuristicsConfig())
    together, _ = heuristics.scores(TextBatch.of(AWKWARD), ["en"] * len(AWKWARD))
    for row, text in enumerate(AWKWARD):
        alone, _ = heuristics.scores(TextBatch.of([text]), ["en"])
        for name, values in alone.items():
            assert np.isfinite(values[0]), (name, text[:20])
            assert values[0] == together[name][row], (name, text[:20])
    assert set(LEXICON.lists) < {entry.list for entry in built_in()}


def test_no_documents_have_no_scores():
    found, spans = Heuristics(HeuristicsConfig()).scores(TextBatch.of([]), [])
    assert all(values.shape == (0,) for values in found.values())
    assert all(span.row.size == 0 for span in spans.values())
