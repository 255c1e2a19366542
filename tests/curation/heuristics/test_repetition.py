"""Vectorised repetition against the definitions, the example on which four programs differ, and planted documents."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.heuristics import repetition
from llama3_jax.curation.heuristics.rae_variants import VARIANTS
from llama3_jax.curation.heuristics.repetition import Pieces, RepetitionConfig, duplicate_shares, ngram_shares
from tests.curation.heuristics import repetition_reference as reference

variants = pytest.mark.parametrize("variant", VARIANTS)
# Few different words, so that n-grams repeat, overlap themselves and tie.
documents_of_words = st.lists(st.lists(st.sampled_from(["a", "b", "ab", "ccc", "ดี", "में"]), max_size=40), max_size=6)


def pieces(documents: list[list[str]]) -> Pieces:
    flat = [piece for document in documents for piece in document]
    hashes = np.array([zlib.crc32(piece.encode()) for piece in flat], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bounds = np.cumsum([0, *map(len, documents)])
    return Pieces(hashes, np.array([len(piece) for piece in flat], np.int64), bounds)


def text_chars(documents: list[list[str]]) -> np.ndarray:
    return np.array([len(" ".join(words)) for words in documents], np.int64)


def shares(documents: list[list[str]], variant: str, **config) -> dict[str, np.ndarray]:
    config = RepetitionConfig(variant=variant, **config)
    return dict(ngram_shares(pieces(documents), text_chars(documents), config))


@variants
@given(documents=documents_of_words)
def test_ngram_shares_are_the_definition(variant, documents):
    found = shares(documents, variant, top=(2, 3, 4), duplicated=(2, 3, 5, 7, 10))
    for row, words in enumerate(documents):
        chars = len(" ".join(words))
        for n in (2, 3, 4):
            assert found[f"top_{n}gram"][row] == reference.TOP[variant](words, n, chars)
        for n in (2, 3, 5, 7, 10):
            assert found[f"duplicate_{n}gram"][row] == reference.DUPLICATED[variant](words, n, chars)


@variants
@given(documents=documents_of_words)
def test_duplicate_lines_are_the_definition(variant, documents):
    found = duplicate_shares(
        "line", pieces(documents), text_chars(documents), text_chars(documents), RepetitionConfig(variant=variant)
    )
    for row, lines in enumerate(documents):
        share, chars = reference.duplicate_segments(lines, all_copies=VARIANTS[variant].all_copies)
        whole = sum(map(len, lines)) if VARIANTS[variant].segments_of == "segments" else len(" ".join(lines))
        assert found["duplicate_lines"][row] == share
        assert found["duplicate_line_chars"][row] == (chars / whole if whole else 0)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("rae_datatrove", 10 / 29), ("rae_dolma", 1.0), ("rae_curator", 19 / 29), ("rae_dclm", 1.0)],
)
def test_four_programs_on_one_sentence(variant, expected):
    found = shares([list("abcde") * 3], variant)["duplicate_5gram"]
    assert found.tolist() == [expected]


def test_overlaps_are_counted_once_by_default():
    """Twenty words of which the 5-grams at 0 and 1 come again: words 0-5 and 10-15 are covered, of equal lengths."""
    words = [*"abcdef", *"ghij", *"abcdef", *"klmn"]
    assert shares([words], "rae_dclm")["duplicate_5gram"].tolist() == [12 / 20]
    assert shares([words], "rae_dclm")["duplicate_6gram"].tolist() == [12 / 20]
    assert shares([words], "rae_dclm")["duplicate_7gram"].tolist() == [0.0]


@variants
def test_nothing_repeats_across_documents(variant):
    words = [f"word{i}" for i in range(10)]
    assert all(
        shares([words, words], variant, top=(), duplicated=(2, 5))[f"duplicate_{n}gram"].sum() == 0 for n in (2, 5)
    )


def test_words_are_not_glued():
    """A program that joins words without anything between takes "ab c" for "a bc"."""
    documents = [["ab", "c", "x", "a", "bc"]]
    assert shares(documents, "rae_dclm", top=(), duplicated=(2,))["duplicate_2gram"].tolist() == [0.0]


def test_thai_and_hindi_vowel_signs_make_other_words():
    """A program that deletes combining marks takes these for repetitions."""
    documents = [["ดี", "มา", "ดุ", "มา"], ["में", "है", "मैं", "है"]]
    assert shares(documents, "rae_dclm", top=(), duplicated=(2,))["duplicate_2gram"].tolist() == [0.0, 0.0]


@variants
@given(documents=documents_of_words, size=st.sampled_from([1, 7, 30]))
def test_chunks_do_not_matter(variant, documents, size):
    whole = shares(documents, variant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repetition, "_WORDS_AT_ONCE", size)
        parts = shares(documents, variant)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(("field", "value"), [("variant", "rae"), ("top", (1,)), ("duplicated", (0, 5))])
def test_config_names_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        RepetitionConfig(**{field: value})
