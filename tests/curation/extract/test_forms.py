# ruff: noqa: E501  (markup)
"""Formulas come out as their TeX, once, and programs verbatim, once, from every form of them."""

import pytest

from llama3_jax.curation.extract import ExtractConfig, extract
from tests.curation.extract.forms import FORMULAS, PROGRAM, PROGRAMS, TEX

BEFORE = (
    "This is a paragraph of prose that stands before the sample, long enough to be the content of a page by itself."
)
AFTER = "And another paragraph of prose follows it, so that the sample sits in the middle of an article, as it would."


def page(sample: str) -> str:
    """A sample in an article with a menu and a footer."""
    menu = '<nav><a href="/">Home</a> <a href="/b">Blog</a></nav>'
    article = f"<article><h1>Title</h1><p>{BEFORE}</p>{sample}<p>{AFTER}</p></article>"
    return f"<html><head><title>Title</title></head><body>{menu}{article}<footer>Copyright</footer></body></html>"


def lines_between(text: str) -> list[str]:
    """What stands between the two paragraphs."""
    assert BEFORE in text
    assert AFTER in text
    return [line for line in text.partition(BEFORE)[2].partition(AFTER)[0].split("\n") if line.strip()]


@pytest.mark.parametrize("form", FORMULAS)
def test_formula(form):
    lines = lines_between(extract(page(FORMULAS[form])).text)
    joined = " ".join(lines)
    assert joined.count(TEX) == 1, lines
    rest = joined.replace(TEX, "")
    assert not {"a", "b", "ab", "a/b", "mfrac"} & set(rest.replace("$", " ").split()), (
        f"the formula is there twice: {lines}"
    )


@pytest.mark.parametrize("form", PROGRAMS)
def test_program(form):
    text = extract(page(PROGRAMS[form])).text
    assert text.count(PROGRAM) == 1
    assert lines_between(text) == [line for line in PROGRAM.split("\n") if line]


def test_delimiters_are_a_setting():
    config = ExtractConfig(inline_math=("\\(", "\\)"), display_math=("\\[", "\\]"))
    inline, display = FORMULAS["annotation"], FORMULAS["mj2display"]
    assert f"See \\({TEX}\\) here." in extract(page(inline), config).text
    assert f"\\[{TEX}\\]" in extract(page(display), config).text


def test_displayed_formulas_have_their_own_line():
    assert f"$${TEX}$$" in lines_between(extract(page(FORMULAS["mj2display"])).text)


def test_scripts_are_tex_and_references_are_gone():
    sample = (
        "<p>Energy E = mc<sup>2</sup>, water H<sub>2</sub>O, the 1<sup>st</sup>, "
        'and a claim.<sup class="reference"><a href="#n">[1]</a></sup></p>'
    )
    assert lines_between(extract(page(sample)).text) == ["Energy E = mc^{2}, water H_{2}O, the 1st, and a claim."]


@pytest.mark.parametrize(
    ("mathml", "tex"),
    [
        ("<msqrt><mi>x</mi></msqrt>", "\\sqrt{x}"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", "\\sqrt[3]{x}"),
        ("<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>", "\\sum_{i=1}^{n}"),
        ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "x_{i}^{2}"),
        ("<mi>sin</mi><mi>α</mi>", "\\sin\\alpha"),
        ("<mover><mi>x</mi><mo>¯</mo></mover>", "\\bar{x}"),
        (
            "<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr></mtable>",
            "\\begin{matrix} 1 & 2 \\end{matrix}",
        ),
        ("<mi>a</mi><mo>≤</mo><mi>b</mi>", "a\\leq b"),
    ],
)
def test_mathml(mathml, tex):
    assert f"${tex}$" in extract(page(f"<p>It is <math>{mathml}</math> here.</p>")).text


def test_images_say_what_they_show():
    text = extract(
        page('<figure><img src="a.jpg" alt="A brass plate by a door"></figure><img alt="IMG_2041.jpg">')
    ).text
    assert lines_between(text) == ["A brass plate by a door"]
    assert lines_between(extract(page('<img alt="A plate">'), ExtractConfig(image_alts=False)).text) == []


def test_rows_of_a_table_are_lines():
    rows = "<tr><th>Year</th><th>Cars</th></tr><tr><td><p>1950</p></td><td><p>four hundred</p></td></tr>"
    assert lines_between(extract(page(f"<table>{rows}</table>")).text) == ["Year\tCars", "1950\tfour hundred"]


def test_no_markdown_markers():
    sample = "<h2>Heading</h2><ul><li>one item of a list</li></ul><p><b>bold</b>, <i>slanted</i>, <code>f(x)</code>, it ends.</p>"
    assert lines_between(extract(page(sample)).text) == [
        "Heading",
        "one item of a list",
        "bold, slanted, f(x), it ends.",
    ]
