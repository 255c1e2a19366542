"""What tells code from prose, and good code from dumps: symbols, names, line lengths, generated files, blobs."""

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.heuristics.character_kinds import CODE, DIGIT, LETTER
from llama3_jax.curation.heuristics.lists import GENERATED, KEYWORD
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.segments import segment_maxima, segment_sums, share

_BLOB_BYTES = 64
_HEADER_LINES = 10
_INDENT_BYTES = 2
_TAB, _UNDERSCORE = ord("\t"), ord("_")


def code_scores(reading: Reading) -> Scores:
    """Features of code [documents].

    alnum_chars           share of what is no white space that is a letter or digit
    code_symbols          share of what is no white space that is a symbol programs are full of
    mean_line_chars       characters of a line with text
    longest_line_chars    and of the longest one
    indented_lines        share of the lines with text that begin with a tab or two spaces
    identifiers_per_word  joints of snake_case and camelCase names by words
    keywords_per_word     words that programs use and prose does not, by words
    generated_markers     how often the first ten lines say that a program wrote this
    blob_chars            share of the bytes in base64 or hexadecimal strings of at least 64
    hex_words             share of the words that begin with 0x
    """
    batch, words = reading.batch, reading.batch.words.counts
    with_text = reading.lines_by_document(~reading.is_blank)
    return {
        "alnum_chars": share(reading.count(LETTER) + reading.count(DIGIT), reading.ink),
        "code_symbols": share(reading.count(CODE), reading.ink),
        "mean_line_chars": share(reading.lines_by_document(reading.line_chars), with_text),
        "longest_line_chars": segment_maxima(reading.line_chars, reading.lines.splits, 0).astype(np.float64),
        "indented_lines": share(reading.lines_by_document(_is_indented(reading)), with_text),
        "identifiers_per_word": share(reading.by_document(reading.once(identifier_joints)), words),
        "keywords_per_word": share(reading.by_document(reading.hit_bytes(KEYWORD)), words),
        "generated_markers": _generated_markers(reading),
        "blob_chars": share(_blob_bytes(reading), batch.num_bytes),
        "hex_words": share(segment_sums(_is_hexadecimal(reading), batch.words.splits), words),
    }


def identifier_joints(reading: Reading) -> np.ndarray:
    """Where a name goes on: a "_" between letters or digits, a capital after a small letter; bytes, ascending."""
    data = reading.batch.data
    capitals = reading.capitals
    small_before = data[capitals - 1] - np.uint8(ord("a")) < 26
    camel = capitals[(data[capitals] < 0x80) & small_before & (capitals > 0)]
    inner = reading.positions_of(_UNDERSCORE)
    inner = inner[(inner > 0) & (inner < data.size - 1)]
    around = reading.kinds[inner - 1], reading.kinds[inner + 1]
    alnum = (around[0] & (LETTER | DIGIT) != 0) & (around[1] & (LETTER | DIGIT) != 0)
    snake = inner[alnum & ~reading.begins_document[inner + 1]]
    found = np.sort(np.concatenate([camel, snake]))
    return found[~reading.begins_document[found]]


def _is_indented(reading: Reading) -> np.ndarray:
    starts = np.minimum(reading.lines.start, max(len(reading.batch.data) - 1, 0))
    deep = reading.first_byte - reading.lines.start >= _INDENT_BYTES
    tab = reading.batch.data[starts] == _TAB
    return (deep | tab) & ~reading.is_blank


def _generated_markers(reading: Reading) -> np.ndarray:
    """float64 [D]."""
    found = reading.hit_bytes(GENERATED)
    line = np.searchsorted(reading.lines.start, found, side="right") - 1
    row = np.searchsorted(reading.batch.offsets, found, side="right") - 1
    in_header = line - reading.lines.splits[row] < _HEADER_LINES
    return reading.by_document(found[in_header]).astype(np.float64)


def _blob_bytes(reading: Reading) -> np.ndarray:
    """Bytes of tokens of at least `_BLOB_BYTES` of [A-Za-z0-9+/=_-] with a digit, quotes and commas around them left

    out; int64 [D].
    """
    tokens = reading.batch.tokens
    size = tokens.end - tokens.start
    long = np.flatnonzero(size >= _BLOB_BYTES)
    begin = reading.batch.data[tokens.start[long][:, None] + np.arange(2 * _AROUND)]
    long = long[np.count_nonzero(~_BLOB[begin], axis=1) <= _AROUND]  # no text without spaces, such as Thai
    bounds = np.concatenate([[0], np.cumsum(size[long])])
    places = np.arange(bounds[-1]) + np.repeat(tokens.start[long] - bounds[:-1], size[long])
    held = reading.batch.data[places]
    of_blob = segment_sums(_BLOB[held], bounds)
    digits = segment_sums(_DIGITS[held], bounds)
    blob = (size[long] - of_blob <= _AROUND) & (digits > 0)
    return segment_sums(np.where(blob, of_blob, 0), np.searchsorted(long, tokens.splits))


_AROUND = 4  # bytes of quotes, commas, brackets that may stand around a blob
_BLOB = np.zeros(256, np.bool_)
_BLOB[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-")] = True
_DIGITS = np.zeros(256, np.bool_)
_DIGITS[list(b"0123456789")] = True


def _is_hexadecimal(reading: Reading) -> np.ndarray:
    """bool [words]."""
    words, data = reading.batch.words, reading.batch.lower_data
    second = np.minimum(words.start + 1, max(len(data) - 1, 0))
    return (words.end - words.start > 2) & (data[words.start] == ord("0")) & (data[second] == ord("x"))
