"""Words are cut where tiktoken cuts them, whatever the versions of Unicode."""

import collections

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.data.tokenizer import MAX_RUN_CHARS, SPLIT_REGEX, replace_surrogates
from llama3_jax.data.words import contested_characters, count_words, split_words

BYTES = {bytes([byte]): byte for byte in range(256)}
CONTESTED = "".join(map(chr, sorted(contested_characters())))[::500]
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(), max_size=20),
        st.text("aZ '’sS.,1٣५𝟘ſ\n\r\t\u00a0\u3000\u200b\u0301漢é😀\0", max_size=20),
        st.sampled_from(["'s", "'LL", "'ſ", "  ", "\r\n", " \n ", "12345", "<|eot_id|>", "<|end_of_text|>"]),
        st.text(CONTESTED + "a1 !\n", max_size=8),
    )
).map("".join)


@pytest.fixture(scope="module")
def first_word():
    """The first word as tiktoken cuts it: its encoder drops what the pattern does not match."""
    encoding = tiktoken.Encoding("first", pat_str=rf"\A(?:{SPLIT_REGEX})", mergeable_ranks=BYTES, special_tokens={})
    return lambda text: encoding.decode(encoding.encode_ordinary(text))


def test_the_libraries_disagree_so_the_stand_ins_are_tested():
    assert len(CONTESTED) > 5
    assert set(contested_characters().values()) <= {"a", "0", "\ue000"}


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(f"abc{CONTESTED[0]}def 12{CONTESTED[0]}!! {CONTESTED[-1]}'s\n{CONTESTED[0]}")
def test_words_are_tiktokens(first_word, text):
    words, rest = split_words(text), replace_surrogates(text)
    for word in words:
        assert word == first_word(rest)
        rest = rest[len(word) :]
    assert rest == ""
    assert count_words([text, "x", text]) == collections.Counter([*words, "x", *words])


def test_every_character_is_cut_as_by_tiktoken(first_word):
    """Between a letter, a number and a sign, each code point shows what kind it is."""
    codes = np.r_[0:0xD800, 0xE000:0x110000]
    every = [*range(0, len(codes), 97), *np.flatnonzero(np.isin(codes, list(contested_characters())))[::37].tolist()]
    for index in every:
        text = f"a{chr(codes[index])}1{chr(codes[index])}!"
        words = split_words(text)
        assert words[0] == first_word(text) and words[-1] == first_word(text[len("".join(words[:-1])) :])
    assert len(every) > 10_000


def test_long_runs_are_bounded():
    assert max(map(len, split_words("x" * 1_000_000))) == MAX_RUN_CHARS
    assert max(map(len, split_words(" " * 1_000_000))) == MAX_RUN_CHARS
    assert split_words("") == []
    assert split_words("a\0b \ud800c \ud83d\ude00") == ["a", "\0b", " \ufffd", "c", " 😀"]
