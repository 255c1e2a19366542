"""Cuts text into the words that BPE works on, exactly where tiktoken's encoder cuts it.

tiktoken does not hand its words out, so they are found with `regex` and the same pattern. The two libraries follow
different versions of Unicode: a letter that was added lately is a letter to one and still nothing to the other. Such
characters are found by asking both; where one occurs, the text is cut with a stand-in that both take for the same.
"""

import collections
import functools
import itertools
from collections.abc import Iterable

import numpy as np
import regex
import tiktoken

from llama3_jax.data.tokenizer import SPLIT_REGEX, cut_text, replace_surrogates

_WORD = regex.compile(SPLIT_REGEX)
_LETTER, _NUMBER, _OTHER = "a", "0", "\ue000"  # stand-ins; no contraction is spelled with an a


def split_words(text: str) -> list[str]:
    """The words of `text`, which they make up in order. Surrogates and long runs are treated as `Tokenizer` does."""
    return [word for piece in cut_text(replace_surrogates(text)) for word in _split_exactly(piece)]


def count_words(texts: Iterable[str]) -> collections.Counter[str]:
    """How often each word of `split_words` occurs in all `texts`."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        for piece in cut_text(replace_surrogates(text)):
            counts.update(_split_exactly(piece))
    return counts


def _split_exactly(piece: str) -> list[str]:
    if not _is_contested(piece):
        return _WORD.findall(piece)
    lengths = map(len, _WORD.findall(piece.translate(contested_characters())))
    return [piece[begin:end] for begin, end in itertools.pairwise(itertools.accumulate(lengths, initial=0))]


def _is_contested(text: str) -> bool:
    return not text.isascii() and not _contested().isdisjoint(text)


@functools.cache
def _contested() -> frozenset[str]:
    return frozenset(map(chr, contested_characters()))


@functools.cache
def contested_characters() -> dict[int, str]:
    """Code points that tiktoken and `regex` take for different things, with a character of tiktoken's kind."""
    code_points = np.r_[0:0xD800, 0xE000:0x110000].astype("<u4")
    every = code_points.tobytes().decode("utf-32-le")
    table = {}
    for kind in (r"\p{L}", r"\p{N}"):
        ours = "".join(regex.findall(f"{kind}+", every))
        table |= dict.fromkeys(map(ord, _matched_by_tiktoken(kind.upper() + "+", ours)), _OTHER)
    for kind, stand_in in ((r"\p{L}", _LETTER), (r"\p{N}", _NUMBER)):
        not_ours = "".join(regex.findall(f"{kind.upper()}+", every))
        table |= dict.fromkeys(map(ord, _matched_by_tiktoken(kind + "+", not_ours)), stand_in)
    return table


def _matched_by_tiktoken(pattern: str, text: str) -> str:
    """What `pattern` matches in `text`, joined: the encoder drops what its split regex does not match."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("bytes", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return encoding.decode(encoding.encode_ordinary(text))
