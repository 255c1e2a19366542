"""Vectorised features against the slow ones on texts of awkward pieces, and for any cut of a batch."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.curation.heuristics.c4 import C4Config, c4_scores
from llama3_jax.curation.heuristics.code import code_scores
from llama3_jax.curation.heuristics.formulas import formula_ranges, formula_scores
from llama3_jax.curation.heuristics.gopher import gopher_scores
from llama3_jax.curation.heuristics.lists import built_in, dirty_words
from llama3_jax.curation.heuristics.page_kinds import page_kind_scores
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.score import Heuristics, HeuristicsConfig
from llama3_jax.curation.lexicon import Lexicon
from llama3_jax.curation.text_batch import TextBatch
from tests.curation.heuristics import features_reference as reference

LEXICON = Lexicon(built_in())
PIECES = (
    *" .!?{};=_#()x\t\r\x00", *[" "] * 6, *["\n"] * 3, "\n\n", "...", "..", "…", '"', "”", "।", "$", "$$", "\\",
    "\\(", "\\)", "\\[", "\\]", "\\frac", "\\alpha", "* ", "- ", "• ", "5", "0x1f", "42", "∑", "≤", "é", "the", "The",
    "and", "of", "und", "that", "lorem ipsum", "JavaScript", "privacy policy", "terms of use", "use cookies",
    "do not edit", "therefore", "it follows", "snake_case", "camelCase", "HTML", "return", "const", "mathjax", "mrow",
    "ที่", "และ", "ดี", "ดุ", "में", "मैं", "है", "मान लीजिए", "दीनानाथ", "\u200d", "\u0301", "😀", "a" * 30,
    "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3ODk=",
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=40)
documents = st.lists(st.tuples(texts, st.sampled_from(["en", "de", "hi", "th", "xx"])), max_size=5)


def reading_of(documents: list[tuple[str, str]]) -> Reading:
    return Reading(TextBatch.of([text for text, _ in documents]), [language for _, language in documents], LEXICON)


CORPUS = Heuristics(HeuristicsConfig()).count(TextBatch.of(["the text of a corpus"]), ["en"])
HEURISTICS = {
    size: Heuristics(HeuristicsConfig(part_bytes=size), dirty_words=[*dirty_words()], corpus=CORPUS)
    for size in (1, 100, 1000, 1 << 20)
}
FEATURES = {
    "gopher": (gopher_scores, reference.gopher),
    "code": (code_scores, reference.code),
    "formulas": (formula_scores, reference.formulas),
    "page_kinds": (page_kind_scores, reference.page_kinds),
}


@pytest.mark.parametrize("name", FEATURES)
@settings(deadline=None, max_examples=60)
@given(documents=documents)
@example(documents=[("{{\n\\frac lorem ipsum\\frac é", "en")])  # a line of both after one of code
def test_features_are_the_slow_ones(name, documents):
    fast, slow = FEATURES[name]
    scores = fast(reading_of(documents))
    for row, document in enumerate(documents):
        assert {score: values[row] for score, values in scores.items()} == pytest.approx(slow(*document), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(documents=documents)
def test_c4_is_the_slow_one(documents):
    scores, spans = c4_scores(reading_of(documents), C4Config())
    for row, document in enumerate(documents):
        expected, dropped = reference.c4(*document)
        assert {score: values[row] for score, values in scores.items()} == pytest.approx(expected, abs=1e-12)
        for reason, found in spans.items():
            mine = found.row == row
            assert list(zip(found.start[mine].tolist(), found.end[mine].tolist(), strict=True)) == dropped[reason]


@settings(deadline=None, max_examples=60)
@given(text=texts)
def test_formulas_are_between_their_delimiters(text):
    starts, ends = formula_ranges(reading_of([(text, "en")]))
    data = text.encode()
    found = [
        (len(data[:s].decode()), len(data[:e].decode())) for s, e in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    assert found == reference.formula_ranges(text)


@settings(deadline=None, max_examples=30)
@given(documents=documents, part_bytes=st.sampled_from([1, 100, 1000]), cut=st.integers(0, 5))
def test_any_cut_of_a_batch_gives_the_same(documents, part_bytes, cut):
    whole = TextBatch.of([text for text, _ in documents])
    languages = [language for _, language in documents]
    one, many = HEURISTICS[1 << 20], HEURISTICS[part_bytes]
    scores, spans = one.scores(whole, languages)
    in_parts, spans_in_parts = many.scores(whole, languages)
    first = one.scores(TextBatch.of([text for text, _ in documents[:cut]]), languages[:cut])[0]
    rest = one.scores(TextBatch.of([text for text, _ in documents[cut:]]), languages[cut:])[0]
    for name, values in scores.items():
        np.testing.assert_array_equal(values, in_parts[name], err_msg=name)
        np.testing.assert_array_equal(values, np.concatenate([first[name], rest[name]]), err_msg=name)
    for reason, found in spans.items():
        for mine, other in zip(found, spans_in_parts[reason], strict=True):
            np.testing.assert_array_equal(mine, other)
