"""Lists of words: files, folders by language, comments, and those that are not there."""

import fsspec
import pytest

from llama3_jax.curation.lexicon import ANY_LANGUAGE, Entry
from llama3_jax.curation.word_lists import read_entries


def test_a_folder_has_a_list_for_each_language(tmp_path):
    (tmp_path / "en.txt").write_text("# comment\n\n  two words \nheck # why\nf#ck\n", encoding="utf-8")
    (tmp_path / "th.txt").write_text("\ufeffบ้า\r\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("not a list")
    assert read_entries(tmp_path, "dirty") == [
        Entry("two words", "dirty", "en"),
        Entry("heck", "dirty", "en"),
        Entry("f#ck", "dirty", "en"),
        Entry("บ้า", "dirty", "th"),
    ]


def test_a_lone_file_is_for_every_language():
    fsspec.filesystem("memory").pipe("/lists/words", b"\xef\xbb\xbfbad\n")
    assert read_entries("memory://lists/words", "adult") == [Entry("bad", "adult", ANY_LANGUAGE)]


def test_lists_that_are_not_there_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="<language>.txt"):
        read_entries(tmp_path, "dirty")
    with pytest.raises(FileNotFoundError):
        read_entries(tmp_path / "none.txt", "dirty")
    (tmp_path / "en.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="en.txt: the list is empty"):
        read_entries(tmp_path, "dirty")
