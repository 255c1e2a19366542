"""Personally identifiable information in text: spans by kind, masks in their place, density (Llama 3, 3.1).

One vectorised pass over a batch finds the few places where an identifier can be: an `@`, four hexadecimal digits before
a colon, capitals around four digits, enough digits close to each other. Only there the patterns of `pii_kinds` are
tried, so that text without such places costs no more than the pass.
"""

import bisect
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.annotations import Scores, Spans
from llama3_jax.curation.pii_kinds import AT, CODICE, COLON, KINDS, NAMES, NUMBER, PAN, TABLE
from llama3_jax.curation.text_batch import TextBatch

PLACEHOLDERS = {name: f"<{name.upper()}>" for name in NAMES}
"""What is written for each kind. Only in angle brackets is a placeholder sure to make no new span beside it."""

_BORDER = b"\n\0\n"  # between the texts of a batch; no pattern matches across it
_SAME_LENGTH = {"\u00a0": " ", "\u2009": " ", "\u202f": " "} | dict.fromkeys("\u2010\u2011\u2012\u2013", "-")
_REACH = ((50, 50), (68, 640))  # characters around digits, and around an `@`, that may belong to the identifier
_MAX_DIGITS = 40  # more with single separators between them are a table, in which only IPv4 addresses are looked for
_CONTEXT = 40  # characters before an identifier in which its name may stand
_SEPARATOR = np.zeros(256, bool)
_SEPARATOR[list(b" -./()")] = True
_UPPER = np.zeros(256, bool)
_UPPER[ord("A") : ord("Z") + 1] = True
_LETTER = _UPPER | np.roll(_UPPER, 32)
_ALPHANUMERIC = _LETTER.copy()
_ALPHANUMERIC[list(b"0123456789")] = True
_LOCAL = _ALPHANUMERIC.copy()
_LOCAL[list(b"_%+-")] = True
_HEX = np.zeros(256, bool)
_HEX[list(b"0123456789abcdefABCDEF")] = True
_CONTEXT_CUT = re.compile(r"[\n\0<>]")


class _Found(NamedTuple):
    kind: int  # its place in KINDS
    start: int  # in the joined batch
    end: int


def find_pii(texts: Sequence[str] | TextBatch) -> dict[str, Spans]:
    """Spans of every kind of `pii_kinds.NAMES`; their score is 1 where check digits agree and .5 otherwise.

    No two spans of a text overlap, of whatever kind. A text in which they are masked has no more: what only shows once
    its neighbour is gone is found as well.
    """
    found: list[list[tuple[int, int, int]]] = [[] for _ in KINDS]
    batch = _batch(texts)
    rows = np.arange(len(batch))
    while len(batch):
        joined, starts = _join(batch)
        spans = _without_overlaps(_search(joined, batch, starts))
        covered: dict[int, list[tuple[int, int]]] = {}
        for kind, start, end in spans:
            place = int(np.searchsorted(starts, start, side="right")) - 1
            first, last = start - int(starts[place]), end - int(starts[place])
            found[kind].append((int(rows[place]), first, last))
            covered.setdefault(place, []).append((first, last))
        rows = rows[list(covered)] if covered else rows[:0]
        batch = TextBatch.of([_blank(batch.text(place), parts) for place, parts in covered.items()])
    return {name: _spans(name, found) for name in NAMES}


def pii_scores(texts: Sequence[str] | TextBatch, found: Mapping[str, Spans]) -> Scores:
    """`pii_density`, spans per 1,000 characters of each text (0 for an empty one), and `pii_<kind>`, their number."""
    lengths = _batch(texts).num_chars
    counts = {name: np.bincount(spans.row, minlength=len(texts)) for name, spans in found.items()}
    total = np.sum(list(counts.values()), axis=0) if counts else np.zeros(len(texts), np.int64)
    return {"pii_density": 1000 * total / np.maximum(lengths, 1)} | {f"pii_{name}": counts[name] for name in counts}


def _spans(name: str, found: list[list[tuple[int, int, int]]]) -> Spans:
    entries = sorted(
        (*place, kind.score) for kind, places in zip(KINDS, found, strict=True) if kind.name == name for place in places
    )
    places = np.array([entry[:3] for entry in entries], np.int64).reshape(-1, 3)
    return Spans(places[:, 0], places[:, 1], places[:, 2], np.array([entry[3] for entry in entries], np.float64))


def _batch(texts: Sequence[str] | TextBatch) -> TextBatch:
    return texts if isinstance(texts, TextBatch) else TextBatch.of(texts)


def _join(batch: TextBatch) -> tuple[bytes, np.ndarray]:
    """A batch as one byte for each character, `?` for those beyond Latin-1, and where each text begins in it."""
    data = batch.data
    if not batch.is_ascii:
        data = data.copy()
        for _, first, points in batch.wide_characters:
            data[first] = np.take(_latin(), points, mode="clip")
        data = data[(batch.data & 0xC0) != 0x80]  # of each character the first byte
    joined, lengths = data.tobytes(), batch.num_chars
    ends = np.cumsum(lengths)
    parts = [joined[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    starts = ends - lengths + len(_BORDER) * np.arange(1, len(batch) + 1)
    return _BORDER + _BORDER.join(parts) + _BORDER, starts


@functools.cache
def _latin() -> np.ndarray:
    """The byte that stands for each code point, uint8 [1114112]."""
    codes = np.full(sys.maxunicode + 1, ord("?"), np.uint8)
    codes[:256] = np.arange(256)
    for character, plain in _SAME_LENGTH.items():
        codes[ord(character)] = ord(plain)
    return codes


def _blank(text: str, parts: list[tuple[int, int]]) -> str:
    """`text` with something of the same length in place of each span that its neighbours take for a placeholder."""
    pieces, position = [], 0
    for start, end in sorted(parts):
        pieces += [text[position:start], "<", "X" * (end - start - 2), ">"]
        position = end
    return "".join([*pieces, text[position:]])


# Where to look


class _Seeds(NamedTuple):
    """Places of one sort, ordered and disjoint."""

    place: int  # NUMBER, TABLE, ...
    start: np.ndarray
    end: np.ndarray
    digits: np.ndarray  # in each


def _seeds(codes: np.ndarray) -> list[_Seeds]:
    """Where identifiers can be."""
    edges = _edges((codes - ord("0")).view(np.uint8) < 10)
    starts, ends = edges[0::2], edges[1::2]
    chains = _chains(codes, starts, ends)
    num_runs = np.diff(np.append(chains, starts.size))
    first, last = starts[chains], ends[chains + num_runs - 1]
    digits = np.add.reduceat(ends - starts, chains) if chains.size else chains
    is_table = digits > _MAX_DIGITS
    is_number = ((digits >= 7) | ((num_runs >= 4) & (digits >= 4))) & ~is_table
    is_pan = (ends - starts == 4) & _UPPER[codes[starts - 1]] & _UPPER[codes[ends]]
    is_codice = _codici(codes, starts, ends)
    colons, ats = _colons(codes), np.flatnonzero(codes == ord("@"))
    ats = ats[_LOCAL[codes[ats - 1]] & _ALPHANUMERIC[codes[ats + 1]]]
    return [
        _Seeds(AT, ats, ats + 1, np.zeros_like(ats)),
        _Seeds(COLON, colons, colons + 1, np.zeros_like(colons)),
        _Seeds(PAN, starts[is_pan], ends[is_pan], (ends - starts)[is_pan]),
        _Seeds(CODICE, starts[is_codice], ends[is_codice], (ends - starts)[is_codice]),
        _Seeds(TABLE, first[is_table], last[is_table], digits[is_table]),
        _Seeds(NUMBER, first[is_number], last[is_number], digits[is_number]),
    ]


def _edges(flags: np.ndarray) -> np.ndarray:
    """Where runs of True begin and end, alternately; the first and the last flag are False."""
    return np.flatnonzero(flags[1:] != flags[:-1]) + 1


def _colons(codes: np.ndarray) -> np.ndarray:
    """Colons behind four hexadecimal digits, the first of them a 2 or a 3: so begin IPv6 addresses in use."""
    colons = np.flatnonzero(codes == ord(":"))
    colons = colons[np.isin(codes[np.maximum(colons - 4, 0)], list(b"23"))]
    for step in (3, 2, 1):
        colons = colons[_HEX[codes[colons - step]]]
    return colons


def _chains(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Index of the first run of each chain: runs of digits with a separator, or up to three, between them."""
    gap = starts[1:] - ends[:-1]
    after, before = codes[ends[:-1]], codes[starts[1:] - 1]
    is_wide = (gap <= 3) & (
        np.isin(after, list(b")")) | np.isin(before, list(b"(")) | np.isin(codes[starts[1:] - 2], list(b"-/"))
    )
    joined = _SEPARATOR[after] & _SEPARATOR[before] & ((gap == 1) | is_wide)
    return np.flatnonzero(np.append(True, ~joined)[: starts.size])


def _codici(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which runs begin the digits of an Italian tax code: two, a letter, two, a letter, three, a letter."""
    found = np.zeros(starts.size, bool)
    if starts.size >= 3:
        lengths = ends - starts
        fits = (lengths[:-2] == 2) & (lengths[1:-1] == 2) & (lengths[2:] == 3)
        fits &= (starts[1:-1] - ends[:-2] == 1) & (starts[2:] - ends[1:-1] == 1)
        found[:-2] = fits & _LETTER[codes[ends[:-2]]] & _LETTER[codes[ends[1:-1]]] & _LETTER[codes[ends[2:]]]
    return found


def _windows(seeds: _Seeds, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, most digits of a seed) of the neighbourhoods of seeds, those that touch as one."""
    if seeds.start.size:
        before, behind = _REACH[seeds.place == AT]
        start, end = np.maximum(seeds.start - before, 0), np.minimum(seeds.end + behind, size)
        heads = np.flatnonzero(np.append(True, start[1:] > end[:-1]))
        ends, digits = np.maximum.reduceat(end, heads), np.maximum.reduceat(seeds.digits, heads)
        yield from zip(start[heads].tolist(), ends.tolist(), digits.tolist(), strict=True)


# What is there


def _search(joined: bytes, batch: TextBatch, starts: np.ndarray) -> list[_Found]:
    found: list[_Found] = []
    text_of = functools.cache(batch.text)
    for seeds in _seeds(np.frombuffer(joined, np.uint8)):
        kinds = [(number, kind) for number, kind in enumerate(KINDS) if kind.place & seeds.place]
        for begin, end, digits in _windows(seeds, len(joined)):
            for number, kind in kinds:
                if kind.min_digits > digits:
                    continue
                for match in kind.pattern.finditer(joined, begin, end):
                    if _holds_seed(match, seeds, kind.min_digits):
                        length = _length(number, match, text_of, starts)
                        found += [_Found(number, match.start(), match.start() + length)] * (length > 0)
    return found


def _holds_seed(match: re.Match[bytes], seeds: _Seeds, min_digits: int) -> bool:
    """Whether a match overlaps a seed of its own, so that what is found does not depend on what else is near."""
    first = int(np.searchsorted(seeds.end, match.start(), side="right"))
    last = int(np.searchsorted(seeds.start, match.end(), side="left"))
    return first < last and int(seeds.digits[first:last].max()) >= min_digits


def _length(kind: int, match: re.Match[bytes], text_of: Callable[[int], str], starts: np.ndarray) -> int:
    """How many characters of a match count."""
    row = int(np.searchsorted(starts, match.start(), side="right")) - 1
    offset = match.start() - int(starts[row])
    before = _CONTEXT_CUT.split(text_of(row)[max(0, offset - _CONTEXT) : offset])[-1]
    context = KINDS[kind].context
    if context is not None and not context.search(before):
        return 0
    return KINDS[kind].check(match[0].decode("latin-1"), before)


def _without_overlaps(found: list[_Found]) -> list[_Found]:
    """Of spans that overlap the one whose kind comes first, and of one kind the first."""
    kept: list[_Found] = []
    places: list[tuple[int, int]] = []
    for span in sorted(set(found)):
        index = bisect.bisect_left(places, (span.start, span.end))
        clear_before = index == 0 or places[index - 1][1] <= span.start
        if clear_before and (index == len(places) or span.end <= places[index][0]):
            places.insert(index, (span.start, span.end))
            kept.append(span)
    return kept
