"""Words of a list: counted by words in any script, never inside others."""

import fsspec
import pytest

from llama3_jax.curation.word_lists import ADULT_SAMPLE, WordList


def count(entries: list[str], text: str) -> tuple[int, int]:
    return WordList.parse(entries).count(text)


@pytest.mark.parametrize(
    ("entries", "text", "found", "words"),
    [
        (["bad"], "Bad, bad-tempered (BAD) badly bad2 _bad_", 4, 7),
        (["bad"], "Übel bad, «bad» ¡bad! übelbad", 3, 5),
        (["so bad"], "so bad, so  BAD so-bad so badly so very bad", 3, 11),
        (["so bad", "so good"], "not so good; so bad", 2, 5),
        (["Größe"], "GRÖSSE größe Große GRÖßE", 2, 4),
        (["é"], "e\u0301 é E\u0301", 3, 3),
        (["में"], "में मैं म मे।में", 2, 5),
        (["क्\u200dष"], "क्\u200dष क्", 1, 2),
        (["ลามก"], "เรื่องลามกมาก ลามก", 2, 2),
        (["色情"], "这是色情内容", 1, 1),
        (["x"], "", 0, 0),
    ],
)
def test_counts(entries, text, found, words):
    assert count(entries, text) == (found, words)


def test_ascii_and_other_text_are_cut_alike():
    words = WordList.parse(["bad", "so bad"])
    text = "".join(f"bad{chr(code)}so bad " for code in range(128))
    (plain, size), (other, other_size) = words.count(text), words.count(text + " ü")
    assert (plain, size + 1) == (other, other_size) and plain > 100


def test_scores():
    words = WordList.parse(["bad  # why", "# no entry", "", "so bad"])
    scores = words.scores(["so bad it is", "good", "", "bad bad"], "adult")
    assert scores["adult_words"].tolist() == [2, 0, 0, 2]
    assert scores["adult_density"].tolist() == [0.5, 0, 0, 1]
    assert words.scores([], "adult")["adult_words"].tolist() == []


def test_urls():
    words = WordList.parse(["porn", "xxx"])
    urls = [
        "http://Porn-site.test/XXX/7xxx8?a=porn",
        "http://sport-news.test/popcorn",
        "http://xn--bcher-kva.example/",
        "",
    ]
    assert words.url_scores(urls, "adult")["adult_url_words"].tolist() == [4, 0, 0, 0]


def test_files(tmp_path):
    assert WordList.load(ADULT_SAMPLE).count("An NSFW, adults-only adult video: คลิปลามก कामुक xxx") == (6, 9)
    fsspec.filesystem("memory").pipe("/lists/words.txt", b"\xef\xbb\xbfbad\n")
    assert WordList.load("memory://lists/words.txt").words == {"bad"}
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="empty.txt: a list without words"):
        WordList.load(tmp_path / "empty.txt")
