"""Lines against a plain count of strings, in any split, order and chunking, and under both rules."""

import collections
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.curation import characters, hashing, lines
from llama3_jax.curation.lines import LineConfig, LineRule
from llama3_jax.curation.text_batch import TextBatch

CONFIG = LineConfig()
PIECES = ["Read more", "read MORE ", "\tread more", "page 12", "Page 37", "2३४", "ดี", "ดุ", "—", "“quoted”", "quoted"]
PIECES += ["\n", "\n\n", " ", "", "\r\n", "\x00", "x", "é", "\u3000é\u3000", "a b  c", "١", "٣"]
texts = st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), max_size=6)


def normalised(line):
    """ccNet's rule with our two differences, one character at a time."""
    letters = []
    for character in line.strip():
        low = chr(characters.lower_case()[ord(character)])
        digit = unicodedata.decimal(low, None)
        letters.append(chr(ord(low) - digit) if digit is not None else low)
    return re.sub(r"[\x00-\x1f\x7f-\x9f，。、„”“«»」「《》´∶：？！（）；–—．～’…━〈〉【】％►]", "", "".join(letters))


def plain_keys(documents):
    """(normalised, row, start, end) of each line that counts."""
    found = []
    for row, text in enumerate(documents):
        start = 0
        for line in text.split("\n"):
            end = min(start + len(line) + 1, len(text))
            if normalised(line):
                found.append((normalised(line), row, start, end))
            start = end
    return found


def hash_of(text):
    data = np.frombuffer(text.encode(), np.uint8)
    return int(hashing.hash_ranges(data, np.array([0]), np.array([len(data)]))[0])


@settings(deadline=None)
@given(texts, st.sampled_from([3, 1 << 20]))
@example(["a ", "b", " c", "", " ", "d \n", "\n e"], 1 << 20)
def test_keys_are_those_of_the_lines(documents, part_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "PART_BYTES", part_bytes)
        keys = lines.line_keys(TextBatch.of(documents), CONFIG)
    expected = plain_keys(documents)
    assert list(zip(*(column.tolist() for column in keys), strict=True)) == [
        (hash_of(text), *place) for text, *place in expected
    ]
    for _, row, start, end in zip(*(column.tolist() for column in keys), strict=True):
        assert documents[row][start:end].count("\n") <= 1


def test_what_is_one_line_and_what_is_not():
    same = [["Read more", "  read MORE\t"], ["page 12", "Page 37"], ["“quoted”", "quoted"], ["३ अ", "५ अ"]]
    other = [["ดี", "ดุ"], ["में", "मैं"], ["quoted", "quoted!"], ["a b", "ab"], ["page 1", "page 12"]]
    for pairs, equal in ((same, True), (other, False)):
        for pair in pairs:
            first, second = lines.line_keys(TextBatch.of(pair), CONFIG).hash
            assert (first == second) == equal, pair


def test_lines_of_nothing_are_not_counted():
    assert not len(lines.line_keys(TextBatch.of(["\n \n\t\r\n—\n\x00\n\u3000\n", ""]), CONFIG).hash)
    assert not len(lines.line_keys(TextBatch.of([]), CONFIG).hash)


def test_short_lines_may_be_spared():
    keys = lines.line_keys(TextBatch.of(["}\n  été \nlonger"]), LineConfig(min_chars=4))
    assert keys.start.tolist() == [9]
    assert len(lines.line_keys(TextBatch.of(["}\n  été \nlonger"]), LineConfig(min_chars=3)).hash) == 2


def test_lines_of_different_salts_do_not_meet():
    batch = TextBatch.of(["same", "same", "same"])
    keys = lines.line_keys(batch, CONFIG, salt=np.array([5, 5, 6], np.uint64)).hash
    assert keys[0] == keys[1] != keys[2]


def counted(hashes, cuts):
    """count and rank of sorted hashes, read in the chunks between the cuts."""
    edges = [0, *sorted(cuts), len(hashes)]
    chunks = [hashes[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    found = list(lines.count_and_rank(lambda: iter(chunks)))
    assert [len(count) for count, _ in found] == [len(chunk) for chunk in chunks]
    return tuple(np.concatenate(columns).tolist() for columns in zip(*found, strict=True))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 30), max_size=12))
def test_counts_and_ranks_do_not_depend_on_chunks(groups, cuts):
    groups.sort()
    hashes = np.array(groups, np.uint64) << np.uint64(61)
    sizes, seen = collections.Counter(groups), collections.Counter()
    ranks = []
    for group in groups:
        ranks.append(seen[group])
        seen[group] += 1
    assert counted(hashes, [min(cut, len(groups)) for cut in cuts]) == ([sizes[group] for group in groups], ranks)


def test_hashes_out_of_order_are_refused():
    for chunks in ([[2, 1]], [[1, 2], [1]]):
        with pytest.raises(ValueError, match="order"):
            list(lines.count_and_rank(lambda chunks=chunks: [np.array(chunk, np.uint64) for chunk in chunks]))


def dropped(documents, ids, rule, parts):
    """(id, line's text) of each line that goes, when batches hold the documents `parts` and are reduced together."""
    keys, owners = [], []
    for part in parts:
        some = lines.line_keys(TextBatch.of([documents[number] for number in part]), CONFIG)
        owners.append(ids[np.array(part, np.int64)][some.row])
        keys.append(some)
    every = lines.LineKeys(*map(np.concatenate, zip(*keys, strict=True)))._replace(row=np.concatenate(owners))
    order = np.lexsort((every.start, every.row, every.hash))
    every = lines.LineKeys(*(column[order] for column in every))
    count, rank = next(lines.count_and_rank(lambda: [every.hash]))
    goes = rule.drops(count, rank)
    number_of = {identity: number for number, identity in enumerate(ids.tolist())}
    found = sorted(zip(*(column[goes].tolist() for column in (every.row, every.start, every.end)), strict=True))
    return [(row, documents[number_of[row]][start:end]) for row, start, end in found]


@pytest.fixture
def corpus():
    """Ten documents: "menu" in 7 of them, "seen 1".."seen 6" 6 times together, and "twice" over and over in one."""
    documents = [f"own {'x' * number}\nMenu\ntext" if number < 7 else f"text{'y' * number}" for number in range(10)]
    documents[8] += "\n" + "\n".join(f"seen {number}" for number in range(6))
    documents[9] += "\ntwice" * 8
    return documents, np.array([50, 10, 40, 20, 60, 30, 0, 90, 80, 70])


def test_more_than_six_times_means_seven(corpus):
    documents, ids = corpus
    everything = [list(range(10))]
    menu = [(identity, "Menu\n") for identity in sorted(ids[:7].tolist())]
    text = [(identity, "text") for identity in sorted(ids[:7].tolist())]
    last = [(70, "twice\n")] * 1 + [(70, "twice")]
    by_place = lambda found: sorted(found, key=lambda line: line[0])
    first_kept = dropped(documents, ids, LineRule(), everything)
    assert by_place(first_kept) == by_place([menu[-1], text[-1], *last])
    none_kept = dropped(documents, ids, LineRule(keep="none"), everything)
    assert by_place(none_kept) == by_place([*menu, *text, *[(70, "twice\n")] * 7, (70, "twice")])
    assert not any("seen" in line for _, line in none_kept)
    assert any("seen" in line for _, line in dropped(documents, ids, LineRule(max_count=5), everything))


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(10)), st.sets(st.integers(1, 9)))
def test_the_same_lines_go_in_any_order_and_split(order, cuts):
    documents = [f"a{number % 3}\nb\nc{number}\nb" for number in range(10)]
    ids = np.arange(10) * 7 % 11
    edges = [0, *sorted(cuts), 10]
    parts = [order[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    rule = LineRule(max_count=3)
    expected = dropped(documents, ids, rule, [range(10)])
    assert len(expected) == (10 - 3) + (20 - 3) + (10 - 3)  # "a0", "b" and "c0": digits are one
    assert dropped(documents, ids, rule, parts) == expected


def test_a_document_of_more_lines_than_16_bits_number():
    """Another tool numbers lines with 16 bits and fails on pages of more."""
    others = [f"{chr(0x4E00 + number % 20_000)}{number // 20_000 * 'x'}" for number in range(70_000)]
    text = "\n".join(["again", *others, "Again"])
    keys = lines.line_keys(TextBatch.of([text]), CONFIG)
    assert len(keys.hash) == 70_002 and len(np.unique(keys.hash)) == 70_001
    assert (np.diff(keys.start) > 0).all() and keys.hash[0] == keys.hash[-1]
    assert text[keys.start[-1] : keys.end[-1]] == "Again"


def test_only_the_occurrence_that_goes_is_cut():
    """Removing a line by its text would remove every copy; spans say which."""
    text = "keep\n" + "again\n" * 8
    keys = lines.line_keys(TextBatch.of([text]), CONFIG)
    order = np.argsort(keys.hash, kind="stable")
    count, rank = next(lines.count_and_rank(lambda: [keys.hash[order]]))
    goes = order[LineRule().drops(count, rank)]
    for start, end in sorted(zip(keys.start[goes].tolist(), keys.end[goes].tolist(), strict=True), reverse=True):
        text = text[:start] + text[end:]
    assert text == "keep\n" + "again\n" * 6


@pytest.mark.parametrize("make", [lambda: LineConfig(min_chars=0), lambda: LineRule(max_count=0)])
def test_settings_without_meaning_are_refused(make):
    with pytest.raises(ValueError, match="must be positive"):
        make()
    with pytest.raises(ValueError, match="keep"):
        LineRule(keep="last")
