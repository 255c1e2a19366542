"""The words of a batch of texts as fastText sees them, each distinct word once, with its n-grams' hashes.

Texts are cut at ASCII white space and NUL only. Hashes are FNV-1a over bytes that fastText sign-extends first, so bytes
from 0x80 on flip the upper 24 bits: models depend on it. Everything is computed for the whole batch at once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.hashing import hash_ranges

END_OF_LINE = b"</s>"  # fastText appends it to every text, and stops at it within one
FNV_BASIS, FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
SIGN_EXTENDED = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int32).view(np.uint32)
WORD_NGRAM_FACTOR = np.uint64(116049371)

_IS_SPACE = np.zeros(256, bool)
_IS_SPACE[list(b" \n\r\t\v\f\0")] = True
_LONG_WORD = 512  # bytes; longer ones, which are few, are hashed one at a time


class Words(NamedTuple):
    """The words of a batch: T of them in order, U distinct ones."""

    document_starts: np.ndarray  # int64 [documents + 1], into the T words
    distinct: np.ndarray  # int64 [T], which of the U
    keys: np.ndarray  # uint64 [U], a hash that tells words apart
    starts: np.ndarray  # int64 [U], bytes of `data`
    stops: np.ndarray  # int64 [U]
    data: np.ndarray  # uint8


def split_words(texts: Sequence[str]) -> Words:
    """Cuts texts into words. White space includes line ends: all lines of a text are one line to the model."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    data = np.frombuffer(b"\n".join([b"", *encoded, b""]), np.uint8)
    space = _IS_SPACE[data]
    edges = np.flatnonzero(space[1:] != space[:-1]) + 1
    starts, stops = edges[0::2], edges[1::2]
    text_stops = np.cumsum([len(text) + 1 for text in encoded], dtype=np.int64)
    document_starts = np.searchsorted(starts, np.concatenate([[0], text_stops]))
    keys = hash_ranges(data, starts, stops)
    order = np.argsort(keys)  # in no stable order, which is faster: words of one key are the same
    new = np.ones(keys.size, bool)
    new[1:] = keys[order[1:]] != keys[order[:-1]]
    distinct = np.empty(keys.size, np.int64)
    distinct[order] = np.cumsum(new) - 1
    first = order[new]
    return Words(document_starts, distinct, keys[first], starts[first], stops[first], data)


def char_ngrams(words: Words, min_chars: int, max_chars: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each length: uint32 hashes of the n-grams of `<word>` for the U words in turn, and int64 [U + 1] where each
    word's begin. A character is a byte and the UTF-8 continuation bytes after it; `<` and `>` alone are left out.
    """
    wrapped, edges = _wrap(words)
    char_starts = np.flatnonzero((wrapped & 0xC0) != 0x80)
    num_bytes = np.diff(char_starts, append=wrapped.size)
    word_chars = np.searchsorted(char_starts, edges)
    num_chars = np.diff(word_chars)
    left = np.repeat(word_chars[1:], num_chars) - np.arange(char_starts.size)  # characters until the word's end
    longer = [
        (index, SIGN_EXTENDED[wrapped[char_starts[index] + byte]])
        for byte in range(1, int(num_bytes.max(initial=1)))
        for index in [np.flatnonzero(num_bytes > byte)]
    ]
    first_bytes = SIGN_EXTENDED[wrapped[char_starts]]
    hashes = np.full(char_starts.size, FNV_BASIS)
    for size in range(1, min(max_chars, int(num_chars.max(initial=0))) + 1):
        last = size - 1  # the character each n-gram now grows by, counted from its start
        hashes = hashes[: max(char_starts.size - last, 0)]
        hashes = (hashes ^ first_bytes[last:]) * FNV_PRIME
        for index, extended in longer:
            skipped = np.searchsorted(index, last)
            grown = index[skipped:] - last
            hashes[grown] = (hashes[grown] ^ extended[skipped:]) * FNV_PRIME
        if size >= min_chars:
            counts = np.maximum(num_chars - last, 0)
            inside = left[: hashes.size] >= size
            if size == 1:
                inside[word_chars[:-1]] = inside[word_chars[1:] - 1] = False
                counts = num_chars - 2
            yield hashes[inside], np.concatenate([[0], np.cumsum(counts)])


def _wrap(words: Words) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of `<word>` for all words in a row, and int64 [U + 1] where each begins."""
    edges = np.concatenate([[0], np.cumsum(words.stops - words.starts + 2)])
    source = np.arange(edges[-1]) + np.repeat(words.starts - 1 - edges[:-1], np.diff(edges))
    wrapped = words.data[source]
    wrapped[edges[:-1]], wrapped[edges[1:] - 1] = ord("<"), ord(">")
    return wrapped, edges


def word_hashes(words: Words) -> np.ndarray:
    """uint32 [U]: fastText's hashes of whole words."""
    lengths = words.stops - words.starts
    hashes = np.full(lengths.size, FNV_BASIS)
    active = np.arange(lengths.size)
    for offset in range(min(int(lengths.max(initial=0)), _LONG_WORD)):
        active = active[lengths[active] > offset]
        extended = SIGN_EXTENDED[words.data[words.starts[active] + offset]]
        hashes[active] = (hashes[active] ^ extended) * FNV_PRIME
    for word in np.flatnonzero(lengths > _LONG_WORD).tolist():
        hashes[word] = fnv(words.data[words.starts[word] : words.stops[word]].tobytes())
    return hashes


def fnv(word: bytes) -> int:
    """fastText's hash of one word."""
    value = int(FNV_BASIS)
    for extended in SIGN_EXTENDED[np.frombuffer(word, np.uint8)].tolist():
        value = (value ^ extended) * int(FNV_PRIME) & 0xFFFFFFFF
    return value


def word_ngrams(hashes: np.ndarray, starts: np.ndarray, longest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each length from 2 words on: uint64 hashes of the n-grams of a row of words, and int64 [documents + 1] where
    each document's begin.

    Args:
        hashes: uint32 [T] of the words in order.
        starts: int64 [documents + 1] where each document's words begin.
        longest: in words.
    """
    signed = hashes.view(np.int32).astype(np.int64).view(np.uint64)
    num_words = np.diff(starts)
    left = np.repeat(starts[1:], num_words) - np.arange(hashes.size)
    rolling = signed
    for size in range(2, min(longest, int(num_words.max(initial=0))) + 1):
        rolling = rolling[: max(hashes.size - size + 1, 0)] * WORD_NGRAM_FACTOR + signed[size - 1 :]
        counts = np.maximum(num_words - size + 1, 0)
        yield rolling[left[: rolling.size] >= size], np.concatenate([[0], np.cumsum(counts)])
