"""Cutting lines and masking: offsets hold, lines take their break with them, nothing else changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.annotations import Spans
from llama3_jax.curation.cuts import by_row, cut_text, of_row

NONE = []


def spans(*pairs):
    return list(pairs)


@pytest.mark.parametrize(
    "text,drop,mask,want",
    [
        ("one\ntwo\nthree", spans((4, 8)), {}, "one\nthree"),  # a line with its break
        ("one\ntwo\nthree", spans((4, 7)), {}, "one\nthree"),  # a whole line without it
        ("one\ntwo\n\nthree", spans((4, 8)), {}, "one\n\nthree"),  # not the break after it as well
        ("one\ntwo", spans((4, 7)), {}, "one\n"),
        ("one two\nthree", spans((4, 7)), {}, "one \nthree"),  # part of a line
        ("one\ntwo\nthree", spans((0, 4), (4, 8)), {}, "three"),
        ("call 123 or 456", NONE, {"<PHONE>": spans((5, 8), (12, 15))}, "call <PHONE> or <PHONE>"),
        ("ห้า 123 ดี", NONE, {"<ID>": spans((4, 7))}, "ห้า <ID> ดี"),
        ("a\n123\nb", spans((2, 6)), {"<ID>": spans((2, 5))}, "a\nb"),  # masked within what is dropped
        ("", NONE, {}, ""),
    ],
)
def test_cuts(text, drop, mask, want):
    assert cut_text(text, {"": drop, **mask}) == want


@given(st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=8), st.data())
def test_dropping_lines_leaves_the_others(lines, data):
    keep = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    drop = spans(*((starts[i], starts[i + 1]) for i, stays in enumerate(keep) if not stays))
    text = "".join(f"{line}\n" for line in lines)
    assert cut_text(text, {"": drop}) == "".join(f"{line}\n" for line, stays in zip(lines, keep, strict=True) if stays)


def test_the_spans_of_a_row():
    found = Spans(np.array([0, 2, 2]), np.array([1, 5, 9]), np.array([3, 7, 10]), np.ones(3))
    assert of_row(found, 2).tolist() == [[5, 7], [9, 10]]
    assert of_row(found, 1).tolist() == []


def test_the_spans_of_every_row_that_has_some():
    found = Spans(np.array([0, 2, 2]), np.array([1, 5, 9]), np.array([3, 7, 10]), np.ones(3))
    none = Spans(*(column[:0] for column in found))
    other = Spans(*(column[2:] for column in found))
    named, all_rows = {"": found, "<ID>": other, "<IBAN>": none}, np.ones(3, bool)
    of_two = {2: {"": [(5, 7), (9, 10)], "<ID>": [(9, 10)]}}
    assert by_row(named, all_rows) == {0: {"": [(1, 3)]}} | of_two
    assert by_row(named, np.array([False, True, True])) == of_two
