"""The table of compression: its numbers, its totals, what it says of vocabularies and of text that is lost."""

import json

import numpy as np
import pytest

from llama3_jax.data.compression import compare_tokenizers, format_comparison
from llama3_jax.data.compression_plot import save_plot
from llama3_jax.data.tokenizer import Tokenizer, single_bytes
from llama3_jax.data.tokenizer_training import bytes_only


def tokenizer_of(*tokens: bytes) -> Tokenizer:
    return Tokenizer({token: rank for rank, token in enumerate([*single_bytes(), *tokens])})


@pytest.fixture
def comparison():
    old = tokenizer_of(b"ab", b"qq")
    new = tokenizer_of(b"ab", "é".encode(), b"abab", b"zz")
    documents = [("en", "abab"), ("fr", "éé"), ("en", "ab"), ("fr", "")]
    return compare_tokenizers(documents, old, new)


def test_numbers(comparison):
    english, french = comparison.sources
    assert (english.source, english.documents, english.characters, english.bytes) == ("en", 2, 6, 6)
    assert (english.old.tokens, english.new.tokens) == (3, 2)
    assert (french.source, french.documents, french.characters, french.bytes) == ("fr", 2, 2, 4)
    assert (french.old.tokens, french.new.tokens) == (4, 2)
    assert (english.change_percent, french.change_percent) == (pytest.approx(50), pytest.approx(100))
    total = comparison.total
    assert (total.source, total.documents, total.characters, total.bytes) == ("all", 4, 8, 10)
    assert (total.old.tokens, total.new.tokens, total.old.broken, total.new.broken) == (7, 4, 0, 0)


def test_vocabularies(comparison):
    words = comparison.vocabularies
    assert (words.old, words.new, words.shared, words.same_id) == (258, 260, 257, 257)
    # Old uses ab and the two bytes of é; new uses ab, é and abab.
    assert (words.old_unused, words.new_unused, words.added_unused) == (255, 257, 1)
    swapped = compare_tokenizers([("x", "a")], tokenizer_of(b"ab", b"cd"), tokenizer_of(b"cd", b"ab")).vocabularies
    assert (swapped.shared, swapped.same_id) == (258, 256)


def test_json_and_table_say_the_same(comparison):
    content = json.loads(json.dumps(comparison.to_json()))
    english = content["sources"][0]
    assert english["old"] == {"tokens": 3, "broken": 0, "characters_per_token": 2.0, "bytes_per_token": 2.0}
    assert english["new"]["characters_per_token"] == 3.0 and english["change_percent"] == 50.0
    assert content["total"]["new"]["bytes_per_token"] == 2.5 and content["vocabularies"]["shared"] == 257
    table = format_comparison(comparison)
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line}
    assert rows["en"][2:] == ["2.000", "3.000", "2.000", "3.000", "+50.0%", "whole"]
    assert rows["fr"][2:] == ["0.500", "1.000", "1.000", "2.000", "+100.0%", "whole"]
    assert "in both 257, with the same id 257" in table and "only in new 1" in table


def test_text_that_does_not_come_back_is_counted(monkeypatch):
    tokenizer = bytes_only()
    whole = tokenizer.decode_bytes
    monkeypatch.setattr(tokenizer, "decode_bytes", lambda ids: whole(ids).replace(b"\0", b""))
    found = compare_tokenizers([("x", "a\0b"), ("x", "ab"), ("y", "\0")], bytes_only(), tokenizer)
    assert [(row.old.broken, row.new.broken) for row in [*found.sources, found.total]] == [(0, 1), (0, 1), (0, 2)]
    assert "1 broken" in format_comparison(found)


def test_hostile_text_comes_back():
    texts = ["\ud800", "\0" * 1000, "x" * 100_000, "\ud83d\ude00", "<|eot_id|>", "\u202e\u200b"]
    found = compare_tokenizers([("x", text) for text in texts], bytes_only(), tokenizer_of(b"xx"))
    assert found.total.new.broken == 0 and found.total.documents == len(texts)


@pytest.mark.parametrize("documents", [[], [("x", "")]])
def test_no_text_is_refused(documents):
    with pytest.raises(ValueError, match="no text"):
        compare_tokenizers(documents, bytes_only(), bytes_only())


def test_plot(comparison, tmp_path):
    comparison.sources[0].source = "a $ name_with^marks"
    save_plot(comparison, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_threads_do_not_matter():
    documents = [("x", "some text " * index) for index in range(1, 50)]
    one, three = (
        compare_tokenizers(documents, bytes_only(), tokenizer_of(b"xt"), num_threads=number) for number in (1, 3)
    )
    assert one == three and one.total.characters == np.sum(np.arange(1, 50)) * 10
