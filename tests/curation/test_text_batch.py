"""Tables of a batch against one document, one character at a time."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.curation import characters
from llama3_jax.curation.text_batch import TextBatch

# Texts over everything that has a rule: cases, digits, marks, joiners, scripts without spaces, breaks, four sizes.
ALPHABET = list("aBz09 _-\n\t\r.É߀ßİKΣς中文かガﾞ゙ไทยดีุ\u0301हिन्दी\u200d\u200c\u00ad❤\ufe0f😀𝒜𠀀\ud800\u3000\u2028\x00")
texts = st.lists(st.one_of(st.text(st.sampled_from(ALPHABET), max_size=30), st.text(max_size=20)), max_size=6)


def words_of(text):
    """The rule for words, one character at a time."""
    words, base = [], None  # the class of the character that marks would go with
    for character in text:
        kind = characters.word_classes()[ord(character)]
        if kind == characters.EXTEND:
            if base is not None and base != characters.SEPARATOR:
                words[-1] += character
            continue
        if kind == characters.UNSPACED or (kind == characters.WORD and base != characters.WORD):
            words.append(character)
        elif kind == characters.WORD:
            words[-1] += character
        base = kind
    return words


def slices(batch, ranges):
    """For each document, the texts of its ranges."""
    pieces = [
        batch.data[start:end].tobytes().decode("utf-8", "surrogatepass")
        for start, end in zip(ranges.start, ranges.end, strict=True)
    ]
    return [pieces[first:last] for first, last in zip(ranges.splits[:-1], ranges.splits[1:], strict=True)]


@settings(deadline=None)  # tables of characters are made on first use
@given(texts)
@example(["", "a", "", "\n", "b\n", "\n\n", ""])
def test_tables_are_those_of_each_document_alone(documents):
    batch = TextBatch.of(documents)
    assert [batch.text(row) for row in range(len(batch))] == documents
    assert batch.num_chars.tolist() == [len(text) for text in documents]
    assert slices(batch, batch.words) == [words_of(text) for text in documents]
    assert slices(batch, batch.tokens) == [text.split() for text in documents]
    expected = [text.removesuffix("\n").split("\n") if text else [] for text in documents]
    assert slices(batch, batch.lines) == expected


@settings(deadline=None)
@given(texts)
def test_offsets_in_characters_cut_the_same_words(documents):
    batch = TextBatch.of(documents)
    words = batch.words
    starts, ends = (batch.char_offsets(edge, words.row) for edge in (words.start, words.end))
    cut = [documents[row][start:end] for row, start, end in zip(words.row, starts, ends, strict=True)]
    assert cut == [word for text in documents for word in words_of(text)]


@settings(deadline=None)
@given(texts)
def test_lower_case_keeps_every_offset(documents):
    batch = TextBatch.of(documents)
    lower = TextBatch(batch.lower_data, batch.offsets)
    for row, text in enumerate(documents):
        assert lower.text(row) == "".join(chr(characters.lower_case()[ord(character)]) for character in text)
    assert lower.words.start.tolist() == batch.words.start.tolist()


@settings(deadline=None)
@given(texts, st.integers(1, 40))
def test_parts_hold_every_document_once_within_the_limit(documents, max_bytes):
    batch = TextBatch.of(documents)
    seen = []
    for first, part in batch.parts(max_bytes):
        assert first == len(seen)
        assert len(part) == 1 or len(part.data) <= max_bytes
        assert slices(part, part.words) == slices(batch, batch.words)[first : first + len(part)]
        seen += [part.text(row) for row in range(len(part))]
    assert seen == documents


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_an_arrow_column_is_read_in_place(kind):
    column = pa.array(["x", "né", None, "", "中文 z"], kind)
    batch = TextBatch.from_arrow(column.slice(1))
    assert [batch.text(row) for row in range(len(batch))] == ["né", "", "", "中文 z"]
    whole = pa.array(["x", "né"], kind)
    data = whole.buffers()[2]
    assert TextBatch.from_arrow(whole).data.__array_interface__["data"][0] == data.address
    chunked = TextBatch.from_arrow(pa.chunked_array([column, whole]))
    assert [chunked.text(row) for row in range(len(chunked))][-2:] == ["x", "né"]
    assert len(TextBatch.from_arrow(pa.chunked_array([], kind))) == 0


def test_what_is_not_a_batch_of_text_is_refused():
    with pytest.raises(ValueError, match="string"):
        TextBatch.from_arrow(pa.array([1, 2]))
    with pytest.raises(ValueError, match="offsets"):
        TextBatch(np.zeros(3, np.uint8), np.array([0, 2], np.int64))
    with pytest.raises(ValueError, match="uint8"):
        TextBatch(np.zeros(3, np.int8), np.array([0, 3], np.int64))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5))
@example([b"\xf0"])
@example([b"\xf0\x9f", b"\x98\x80"])
@example([b"\x80\xe0a", b"", b"\xff\xc2"])
def test_bytes_that_are_not_text_break_nothing(documents):
    offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    batch = TextBatch(np.frombuffer(b"".join(documents), np.uint8), offsets)
    for ranges in (batch.words, batch.tokens, batch.lines):
        assert (ranges.start <= ranges.end).all()
        assert (ranges.start >= offsets[ranges.row]).all() and (ranges.end <= offsets[ranges.row + 1]).all()
    assert len(batch.lower_data) == len(batch.data) and len(batch.num_chars) == len(documents)


def test_lower_case_is_pythons_where_the_length_allows():
    assert TextBatch.of(["AZ ÉΣЖ Ａ𐐀"]).lower_data.tobytes().decode() == "az éσж ａ𐐨"
    assert TextBatch.of(["İẞ\u212a"]).lower_data.tobytes().decode() == "İẞ\u212a"
    letters = np.flatnonzero(characters.word_classes() != characters.SEPARATOR).tolist()
    assert 0 < sum(chr(characters.lower_case()[point]) != chr(point).lower() for point in letters) < 40
    digits = characters.ccnet_letters()
    assert all(digits[point] > 0 and unicodedata.decimal(chr(digits[point]), 0) == 0 for point in letters)
    assert chr(digits[ord("७")]) == "०" and chr(digits[ord("7")]) == "0"


def test_characters_are_those_of_unicode_14_in_every_python():
    """The table is what this Python has, but for what became a letter after Unicode 14.0."""
    kinds = {"L": "L", "N": "L", "M": "M"}
    newer = 0
    for point, kind in enumerate(characters.word_classes().tolist()):
        category = kinds.get(unicodedata.category(chr(point))[0])
        if kind == characters.SEPARATOR:
            newer += category is not None
        elif point not in characters._JOINERS:
            assert category == ("M" if kind == characters.EXTEND else "L"), hex(point)
    assert newer == 0 or unicodedata.unidata_version != "14.0.0"
    assert (characters.word_classes() != characters.SEPARATOR).sum() == 135_955 + len(characters._JOINERS)


def test_vowel_signs_are_part_of_words():
    """Removing marks makes these the same word, which merged documents in other tools."""
    batch = TextBatch.of(["ดี ดุ", "में मैं", "l'été Straße x² naïve_2", "東京タワー is 大きい", "❤\ufe0f a\u200db"])
    assert slices(batch, batch.words) == [
        ["ดี", "ดุ"],
        ["में", "मैं"],
        ["l", "été", "Straße", "x²", "naïve", "2"],
        ["東", "京", "タ", "ワ", "ー", "is", "大", "き", "い"],
        ["a\u200db"],
    ]


def test_scripts_without_spaces_are_what_their_names_say():
    """Each range holds letters of the scripts it is declared for: guards against a mistyped bound."""
    unspaced = np.flatnonzero(characters.word_classes() == characters.UNSPACED)
    unnamed = "TANGUT"  # Python has no names for its ideographs
    names = {unicodedata.name(chr(point), unnamed).split()[0].split("-")[0] for point in unspaced}
    assert names == {
        *("THAI", "LAO", "MYANMAR", "KHMER", "TAI", "NEW", "BALINESE", "JAVANESE", "IDEOGRAPHIC", "HANGZHOU"),
        *("VERTICAL", "HIRAGANA", "KATAKANA", "BOPOMOFO", "CJK", "MASU", "HALFWIDTH", "TANGUT", "KHITAN", "NUSHU"),
        *("HENTAIGANA", "OLD"),
    }
