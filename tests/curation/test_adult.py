"""Adult words: counted by words in any script, never inside others, in texts and in URLs."""

import numpy as np
import pytest

from llama3_jax.curation.adult import ADULT, SAMPLE, AdultWords
from llama3_jax.curation.lexicon import ANY_LANGUAGE, Entry
from llama3_jax.curation.text_batch import TextBatch


def words_of(entries, language=ANY_LANGUAGE):
    return AdultWords([Entry(entry, ADULT, language) for entry in entries])


def scores(words, texts, languages=None):
    return words.scores(TextBatch.of(texts), languages or ["en"] * len(texts))


@pytest.mark.parametrize(
    ("entries", "text", "found", "covered", "words"),
    [
        (["bad"], "Bad, bad-tempered (BAD) badly bad2 _bad_", 4, 4, 7),
        (["bad"], "Übel bad, «bad» ¡bad! übelbad", 3, 3, 5),
        (["so bad"], "so bad, so  BAD so-bad so badly so very bad", 3, 6, 11),
        (["so bad", "so good"], "not so good; so bad", 2, 4, 5),
        (["so bad", "bad"], "so bad it is", 1, 2, 4),  # the longest counts
        (["Größe"], "GRÖSSE größe Große GRÖßE", 2, 2, 4),
        (["é"], "e\u0301 é E\u0301", 3, 3, 3),
        (["में"], "में मैं म मे।में", 2, 2, 5),
        (["क्\u200dष"], "क्\u200dष क्", 1, 1, 2),
        (["ลามก"], "ลามกมาก ลามก", 2, 8, 11),  # a word is a letter with its marks
        (["色情"], "这是色情内容", 1, 2, 6),
        (["x"], "", 0, 0, 1),
    ],
)
def test_counts(entries, text, found, covered, words):
    said = scores(words_of(entries), ["bad", text, "so"])
    assert said["adult_words"][1] == found and said["adult_density"][1] == covered / words


def test_parts_of_a_batch_do_not_matter(monkeypatch):
    texts = ["so bad it is", "good", "", "bad bad"] * 5
    whole = scores(words_of(["bad"]), texts)
    monkeypatch.setattr("llama3_jax.curation.adult.PART_BYTES", 3)
    parts = scores(words_of(["bad"]), texts)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert whole["adult_words"].tolist() == [1, 0, 0, 2] * 5
    assert whole["adult_density"].tolist() == [0.25, 0, 0, 1] * 5
    assert scores(words_of(["bad"]), [])["adult_words"].tolist() == []


def test_a_list_of_a_language_counts_in_its_documents():
    said = scores(words_of(["gift"], "de"), ["Gift", "gift"], ["de", "en"])
    assert said["adult_words"].tolist() == [1, 0]


def test_urls():
    urls = [
        "http://Porn-site.test/XXX/7xxx8?a=porn_site",
        "http://sport-news.test/popcorn",
        "http://xn--bcher-kva.example/",
        "http://a.test/adult-video",
        "",
    ]
    words = words_of(["porn", "xxx", "adult video"])
    assert words.url_scores(urls, [""] * len(urls))["adult_url_words"].tolist() == [4, 0, 0, 1, 0]


def test_the_sample_shows_the_format():
    said = scores(AdultWords.load(SAMPLE), ["An NSFW, adults-only adult video: คลิปลามก कामुक xxx"])
    assert said["adult_words"].tolist() == [6]
