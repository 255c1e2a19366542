"""Words and phrases in running text, in scripts with spaces and without."""

import unicodedata

import pytest

from llama3_jax.curation.heuristics import lists
from llama3_jax.curation.lexicon import Entry, Lexicon
from llama3_jax.curation.text_batch import TextBatch


def found(entries: list[Entry], texts: list[str], languages: list[str]) -> list[tuple[int, str, str]]:
    """(document, the word where it begins, entry) of each hit."""
    lexicon, batch = Lexicon(entries), TextBatch.of(texts)
    hits = lexicon.find(batch, languages)
    words, data = batch.words, batch.data.tobytes()
    return [
        (int(words.row[word]), data[words.start[word] : words.end[word]].decode(), lexicon.entries[entry].phrase)
        for word, entry in zip(hits.word.tolist(), hits.entry.tolist(), strict=True)
    ]


def test_whole_words_and_phrases_in_any_case():
    entries = [Entry("bad word", "x"), Entry("heck", "x")]
    texts = ["A Bad\n WORD, bad-word; badword bad. Heck! Hecker check", "word bad", ""]
    assert found(entries, texts, ["en"] * 3) == [(0, "Bad", "bad word"), (0, "bad", "bad word"), (0, "Heck", "heck")]


def test_a_phrase_ends_with_its_document():
    assert found([Entry("bad word", "x")], ["so bad", "word"], ["en", "en"]) == []


def test_the_longest_counts_once():
    entries = [Entry("what", "x"), Entry("what the heck", "x"), Entry("heck", "x"), Entry("heck", "y")]
    assert found(entries, ["What the heck is what"], ["en"]) == [
        (0, "What", "what the heck"),
        (0, "what", "what"),
        (0, "heck", "heck"),  # of the other list
    ]


def test_entries_count_in_their_language():
    entries = [Entry("mist", "x", "de"), Entry("mist", "y"), Entry("fog", "x", "en")]
    texts = ["mist", "mist", "fog"]
    assert found(entries, texts, ["de", "en", "de"]) == [(0, "mist", "mist"), (0, "mist", "mist"), (1, "mist", "mist")]


def test_thai_is_found_inside_running_text_and_not_inside_other_letters():
    entries = [Entry("ดี", "x", "th")]
    assert len(found(entries, ["วันนี้อากาศดีมากดีใจ"], ["th"])) == 2
    assert found(entries, ["ดุ ด ดิน"], ["th"]) == []  # other vowels


def test_what_touches_in_the_list_touches_in_the_text():
    assert found([Entry("ให้ตาย", "x")], ["ให้ ตาย", "ให้ตาย"], ["th"] * 2) == [(1, "ใ", "ให้ตาย")]


def test_hindi_vowel_signs_make_other_words():
    assert found([Entry("में", "x")], ["मैं मे में"], ["hi"]) == [(0, "में", "में")]


def test_composed_and_decomposed_accents_are_the_same():
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "une flûte à bec")
        assert len(found([Entry("flûte", "x")], [text], ["fr"])) == 1


def test_an_entry_needs_a_letter():
    with pytest.raises(ValueError, match="'!!'"):
        Lexicon([Entry("ok", "x"), Entry("!!", "x")])


def test_an_empty_lexicon_finds_nothing():
    assert found([], ["some words"], ["en"]) == []


def test_every_language_has_a_sample_and_stop_words():
    languages = {"en", "de", "fr", "it", "pt", "hi", "es", "th"}
    assert {entry.language for entry in lists.dirty_words()} == languages
    assert {entry.language for entry in lists.built_in() if entry.list == lists.STOP} == languages
