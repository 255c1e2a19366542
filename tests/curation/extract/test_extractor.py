# ruff: noqa: E501  (markup)
"""Bad input gives a text or a reason; the result depends on the page alone."""

import contextlib
import pickle
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama3_jax.curation.extract import ExtractConfig, extract, extractor
from llama3_jax.curation.extract.cutting import NotPlain, cut
from tests.curation.extract.forms import FORMULAS, PROGRAMS
from tests.curation.pages import load_pages

SENTENCE = "The river had risen again during the night, and by morning the lower path was gone beneath brown water."
MORE = "What was left of the mill could be seen from the road for weeks, until the trees grew back over it."


@pytest.mark.parametrize(
    "page", ["", b"", " \n\t", b"\x00\x00", "\ufeff", "<html></html>", "<!-- nothing -->", "<script>x=1</script>"]
)
def test_pages_without_text_have_a_reason(page):
    result = extract(page)
    assert result.text == ""
    assert result.reason in ("empty", "no_text")


@pytest.mark.parametrize(
    "tag",
    [
        "div",
        "ul><li",
        "table><tr><td",
        "span",
        "b",
        "x-y",
        "x-y><div",
        "math><mrow",
        "svg><g",
        "blockquote",
        "form><div",
        "a",
        "pre",
    ],
)
def test_nesting(tag):
    opening = "".join(f"<{name}>" for name in tag.split("><"))
    for page in (opening * 100_000 + SENTENCE, f"<p>{SENTENCE}</p>" + opening * 50_000 + "x" + "</div>" * 50_000):
        result = extract(page)
        assert SENTENCE in result.text or result.reason, result
    assert extract(page) == extract(page)


def test_a_page_of_100_megabytes_is_cut():
    result = extract(b"<html><body>" + b"<p>" + SENTENCE.encode() + b"</p>\n" + b"x" * 100_000_000)
    assert SENTENCE in result.text
    assert result.reason == "bytes"


def test_a_tag_of_a_hundred_thousand_attributes():
    attributes = " ".join(f"a{number}=1" for number in range(100_000))
    assert SENTENCE in extract(f"<div {attributes}><p>{SENTENCE}</p></div>").text


@pytest.mark.parametrize(
    "page",
    [
        f"<html><head><title>T</title><body><header><p>{SENTENCE}</p></header><p>{MORE}</p>",
        f"<p>{SENTENCE} <!-- one > two <p> three --></p><p>{MORE}</p>",
        f"<p>{SENTENCE}<p>{MORE}",
        f"<P CLASS=x>{SENTENCE}</P><P>{MORE}</P>",
        f"<p>{SENTENCE}</p></div></td><p>{MORE}</p>",
        f"<ul><li>{SENTENCE}<li>{MORE}</ul>",
        f"<table><tr><td class=x>{SENTENCE}<tr><td>{MORE}</table>",
        f"<p>{SENTENCE}</p><script>if (a < b) {{ write('<p>no') }}</script><p>{MORE}</p>",
        f"<div class='post'><p title='1 > 0'>{SENTENCE}</p><p>{MORE}</p></div>",
        f"<p>{SENTENCE}</p><svg><svg><text>no</text></svg></svg><p>{MORE}</p>",
        f"<p>{SENTENCE}</p><prefix>{MORE}</prefix>",
    ],
)
def test_what_authors_leave_out_or_in(page):
    """Ends that may be missing, ends too many, signs that are no tags: read as a browser does."""
    text = extract(page).text
    assert SENTENCE in text and MORE in text
    assert "no" not in text.split() and "three" not in text


def test_a_parser_reads_plain_pages_as_we_do(monkeypatch):
    pages = [page.html for page in load_pages()]
    cut_at_tags = [extract(page).text for page in pages]
    plain = []

    def needs_a_parser(source, config):
        with contextlib.suppress(NotPlain):
            plain.append(cut(source, config))
        raise NotPlain

    monkeypatch.setattr(extractor, "cut", needs_a_parser)
    assert [extract(page).text for page in pages] == cut_at_tags
    assert len(plain) >= 50


@pytest.mark.parametrize(
    "line",
    [
        "1" * 60 + " z",
        "share " + ", | " * 20 + "z",
        "- menu - " * 10 + "z",
        "<sup>" + "<a href='x'>1</a>" * 200 + " z</sup>",
        "<sup>" + " " * 20_000 + "z",
    ],
    ids=["digits", "separators", "words", "references", "spaces"],
)
def test_no_line_takes_longer_than_its_length(line):
    """Patterns that try every way to divide a line would take years for these."""
    began = time.process_time()
    assert SENTENCE in extract(f"<p>{line}</p><p>{SENTENCE}</p>").text
    assert time.process_time() - began < 5


def test_budgets():
    page = f"<p>{SENTENCE}</p>" * 50
    whole = extract(page)
    assert whole.reason == ""
    assert whole.text.count(SENTENCE) == 1  # a line that repeats the one before it is one line
    numbered = "".join(f"<p>{number}. {SENTENCE}</p>" for number in range(50))
    cut = extract(numbered, ExtractConfig(max_tags=20))
    assert cut.reason == "tags"
    assert cut.text.count(SENTENCE) == 10
    assert extract(numbered, ExtractConfig(max_bytes=1000)).reason == "bytes"
    assert extract("<div>" * 30 + SENTENCE, ExtractConfig(max_depth=20)).reason == "nesting"
    assert extract(f"<p>{SENTENCE}</p>", ExtractConfig(min_characters=1000)).reason == "no_text"


@pytest.mark.parametrize("field", ["max_bytes", "max_tags", "max_depth", "min_characters"])
def test_budgets_are_positive(field):
    with pytest.raises(ValueError, match=field):
        ExtractConfig(**{field: 0})  # pyright: ignore[reportArgumentType]


def test_controls_and_invalid_bytes():
    result = extract(b"<p>A\x00B\x01 \x7f" + SENTENCE.encode() + b" caf\xe9</p>")
    assert result.text == f"AB {SENTENCE} café"
    assert extract(f"<p>{SENTENCE} \ud800</p>").text.startswith(SENTENCE)
    assert extract(f"<p>{SENTENCE}&#0;&#1;&#6;0&#6;</p>").text.startswith(SENTENCE)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("zero\u200bwidth soft\u00adhyphen \ufeffmark", "zerowidth softhyphen mark"),
        ("\u202dשלום\u202c עולם\u200f", "שלום עולם"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # a Persian non-joiner means something
        ("क्\u200dष", "क्\u200dष"),
        ("👩\u200d💻 and 👍🏽", "👩\u200d💻 and 👍🏽"),
        ("plain\u200d joiner\u200c", "plain joiner"),
        ("non\u00a0breaking\u2003spaces", "non breaking spaces"),
    ],
)
def test_invisible_characters(source, text):
    assert extract(f"<p>{source}: {SENTENCE}</p>").text == f"{text}: {SENTENCE}"


def test_attributes_may_hold_signs():
    page = f"""<p><a title="a > b" href='x'>Link</a> {SENTENCE} <span data-x="1 > 0">It</span> <b title='"'>ends</b>.</p>"""
    assert extract(page).text == f"Link {SENTENCE} It ends."


def test_the_result_is_the_same_in_other_processes_and_for_other_hash_seeds():
    pages = load_pages()[::5]
    expected = [extract(page.html) for page in pages]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(extract, [page.html for page in reversed(pages)]))[::-1] == expected
    assert pickle.loads(pickle.dumps(expected)) == expected
    script = "import sys; from llama3_jax.curation.extract import extract; print(ascii(extract(sys.stdin.read()).text))"
    page = pages[0].html
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], input=page, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, encoding="utf-8", check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }  # fmt: skip
    assert outputs == {ascii(expected[0].text) + "\n"}


_FRAGMENTS = [
    *FORMULAS.values(), *PROGRAMS.values(),
    "<div>", "</div>", "<p>", "</p>", "<table>", "<tr>", "<td>", "</table>", "<ul><li>", "<a href='x'>", "</a>", "<pre>",
    "</pre>", "<code>", "<br>", "<sup>", "</sup>", "<sub>", "<h1>", "</h1>", "<article>", "<div class='comments'>",
    "<nav>", "</nav>", "<script>", "</script>", "<!--", "-->", "<textarea>", "<svg>", "<math>", "</math>", "<template>",
    "<title>", "</title>", "<body>", "</html>", "<![CDATA[", "&lt;", "&#0;", "&nbsp;", "<", ">", '"', "'", "=", "\x06", "\x10",
    "<frameset>", "<select><option>", "<noscript>", "<plaintext>", "<xmp>", "<img alt='x y' src=", "<mroot>", "<msup>",
]  # fmt: skip


def assert_survives(page: bytes | str) -> None:
    """A page gives a text of plain characters, or a reason."""
    result = extract(page)
    assert result.text or result.reason
    assert not set(result.text) & set(map(chr, range(9))), "marks are left"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.text(max_size=20)), max_size=30))
def test_any_markup(parts):
    assert_survives("".join(parts))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(content):
    assert_survives(content)


@pytest.mark.slow
def test_a_hundred_thousand_pages():
    """Mutated labelled pages and random markup, from one seed."""
    chosen = random.Random(0)
    pages = [page.html for page in load_pages()]
    for _ in range(100_000):
        if chosen.random() < 0.1:
            content = _mutated(chosen, chosen.choice(pages).encode())
        else:
            content = "".join(chosen.choices(_FRAGMENTS, k=chosen.randrange(1, 20))).encode("utf-8", "replace")
            content = _mutated(chosen, content) if chosen.random() < 0.5 else content
        assert_survives(content)


def _mutated(chosen: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chosen.randrange(1, 8)):
        place = chosen.randrange(len(changed) + 1)
        size = chosen.choice((0, 1, 1, 5, 100))
        changed[place : place + size] = chosen.randbytes(chosen.choice((0, 0, 1, 4)))
    return bytes(changed)
