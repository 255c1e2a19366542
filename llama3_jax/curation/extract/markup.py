"""Taking from a page's source, before it is parsed, what needs no tree: verbatim blocks, inline tags, links, images.

Most tags of a page are inline ones, and a tree with a node for each costs more than all the rest of the extraction.
They are dropped here, or become marks inside the text (`characters.py`); the parser then sees blocks only. All patterns
are possessive and stop at the next "<", so that no input makes them slow.
"""

import html
import re
from typing import NamedTuple

from llama3_jax.curation.extract.characters import END_LINK, END_SCRIPT, LINK, SUBSCRIPT, SUPERSCRIPT, VERBATIM
from llama3_jax.curation.extract.code import is_gutter, verbatim_text
from llama3_jax.curation.extract.config import ExtractConfig
from llama3_jax.curation.extract.tex_sources import image_tex, wrap

_ATTRIBUTES = r"""(?:\s[^<>"']*+(?:"[^"]*+"[^<>"']*+|'[^']*+'[^<>"']*+)*+)?/?"""
INLINE = (
    "span b i em strong font u small big tt var cite kbd samp abbr acronym mark q s strike del ins time dfn bdi bdo "
    "label wbr nobr code blink rb rp"
).split()
_ANY_UPPERCASE = re.compile("<[A-Z]")
_UPPERCASE = re.compile(r"</?[A-Z][A-Za-z0-9]*+")
_CODE = re.compile(
    r"<(code|tt|samp|kbd)\b[^>]*+>((?:[^<\n]++|<(?!/?\1\b|br\b))*+(?:\n|<br\b)(?:[^<]++|<(?!/?\1\b))*+)</\1>"
)
_INDENTED = re.compile(r"(?:\n|<br\b[^>]*+>\n?)(?:[ \t]|&nbsp;|\xa0){2}")
_NAMED_ANCHOR = re.compile(r"<a\s++(?:name|id)=(?:\"[^\"<>]*+\"|'[^'<>]*+'|[^\s\"'<>]*+)\s*+/?>")
# Without the quotation marks a tag is found three times as fast; a ">" among its attributes nearly always has a space
# before it, and then the slower pattern takes the tag.
_FAST_ATTRIBUTES = r"""(?:\s[^<>]*+(?<=[\w"'/]))?"""
_ANCHOR = re.compile(r"<a\b" + _ATTRIBUTES + ">")
_FAST_ANCHOR = re.compile(r"<a" + _FAST_ATTRIBUTES + ">")
_BY_LETTER = {name[0]: [other[1:] for other in INLINE if other[0] == name[0]] for name in INLINE}
_NAMES = "|".join(f"{letter}(?:{'|'.join(rest)})" for letter, rest in _BY_LETTER.items())
_INLINE_TAG = re.compile(f"</?(?:{_NAMES})" + _ATTRIBUTES + ">")
_FAST_INLINE_TAG = re.compile(f"</?(?:{_NAMES})" + _FAST_ATTRIBUTES + ">")
_ANY_INLINE = re.compile("<(?:span|a|b|i|em|strong|font)\\s")
_SCRIPT_TAGS = (
    (re.compile(r"<sup\b" + _ATTRIBUTES + ">"), "</sup>", SUPERSCRIPT),
    (re.compile(r"<sub\b" + _ATTRIBUTES + ">"), "</sub>", SUBSCRIPT),
)
_RARE = re.compile("<(?:img|su[bp])[ >]")
_IMAGE = re.compile(r"<img\b(" + _ATTRIBUTES + ")>")
_ATTRIBUTE = re.compile(r"""([\w:-]++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++))""")
# "Source" beside a name in rustdoc. Permalinks are recognised by their sign, after the parse.
_TOOL_ANCHOR = re.compile(r'<a class="src\b[^<>]*+>(?:[^<]++|<(?!/?a\b))*+</a>')
_MEANINGLESS = re.compile(
    r"(?:\S*\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?)|(?:img|dsc[nf]?|p|image|photo|picture|bild|foto|pic|untitled|screenshot)?"
    r"[\s_-]*\d*|logo|avatar|gravatar|icon|thumbnail|banner|spacer|placeholder|\W|share|close|search|menu|alt|print|rss)$",
    re.I,
)
_CONTEXT = 200  # characters before an image that show whether it stands inside a sentence


class Source(NamedTuple):
    """A page's source without inline markup, and the verbatim blocks that were taken out of it, in order."""

    html: str
    verbatim: list[str]


def simplify(source: str, config: ExtractConfig) -> Source:
    """Takes verbatim blocks, images, sub- and superscripts, inline tags and links out of a page's source."""
    if _ANY_UPPERCASE.search(source):
        source = _UPPERCASE.sub(lambda tag: tag.group().lower(), source)
    verbatim: list[str] = []
    if "<pre" in source:
        source = _without_pre(source, verbatim)
    source = without_code(source, verbatim)
    source = _TOOL_ANCHOR.sub("", source)
    source = _FAST_INLINE_TAG.sub("", source)
    source = _FAST_ANCHOR.sub(LINK, _NAMED_ANCHOR.sub("", source)).replace("</a>", END_LINK)
    if _ANY_INLINE.search(source):
        source = _ANCHOR.sub(LINK, _INLINE_TAG.sub("", source))
    if _RARE.search(source):
        source = _IMAGE.sub(lambda found: alternative(found.string, found.start(), found.group(1), config), source)
        for tag, end_tag, mark in _SCRIPT_TAGS:
            source = tag.sub(mark, source).replace(end_tag, END_SCRIPT)
    return Source(source, verbatim)


def attributes(tag: str) -> dict[str, str]:
    """Attributes of one tag's source, first ones first, character references resolved."""
    found: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTE.findall(tag):
        found.setdefault(name.lower(), html.unescape(double or single or bare))
    return found


def without_code(source: str, verbatim: list[str]) -> str:
    """The source with marks in the place of `<code>` of several lines outside of `<pre>`."""
    return _CODE.sub(lambda found: _take_code(found, verbatim), source)


def is_named_anchor(tag: str) -> bool:
    """Whether a tag, given without angle brackets, is an anchor that is a place and no link."""
    return tag.startswith(("a name", "a id")) and _NAMED_ANCHOR.fullmatch(f"<{tag}>") is not None


def _without_pre(source: str, verbatim: list[str]) -> str:
    """The source with marks in the place of its `<pre>` elements."""
    parts, done = [], 0
    while True:
        start = source.find("<pre", done)
        inside = source.find(">", start) + 1
        end = source.find("</pre", inside)
        if start < 0 or not inside or end < 0:
            break
        after = source.find(">", end) + 1 or len(source)
        parts.append(source[done:start])
        inner = source[inside:end]
        # One that began inside a script or a comment, or another element whose name begins so, is none.
        is_pre = source[start + 4] in "> \t\n/" and "</script" not in inner and "-->" not in inner
        parts.append(take_verbatim(inner, verbatim) if is_pre else source[start:after])
        done = after
    parts.append(source[done:])
    return "".join(parts)


def take_verbatim(inner: str, verbatim: list[str]) -> str:
    """The mark of a verbatim block, whose text is put aside."""
    text = verbatim_text(inner)
    if not text or is_gutter(text):
        return ""
    verbatim.append(text)
    return f"<pre>{VERBATIM}{len(verbatim) - 1}{VERBATIM}</pre>"


def _take_code(found: re.Match, verbatim: list[str]) -> str:
    """A `<code>` of several lines outside of `<pre>` is verbatim where it breaks lines itself or indents them."""
    inner = found.group(2)
    if "<br" in inner or (inner.count("\n") > 1 and _INDENTED.search(inner)):
        return take_verbatim(inner, verbatim)
    return found.group()


def alternative(source: str, start: int, tag: str, config: ExtractConfig) -> str:
    """What stands for an image: its formula, or its description, on a line of its own unless text is before it."""
    if "=" not in tag:
        return ""
    of_tag = attributes(tag)
    tex = image_tex(of_tag)
    if tex is not None:
        return html.escape(wrap(*tex, config), quote=False)
    alt = " ".join(of_tag.get("alt", "").split())
    if not alt or not config.image_alts or _MEANINGLESS.match(alt):
        return ""
    alt = html.escape(alt, quote=False)
    before = _FAST_INLINE_TAG.sub("", _FAST_ANCHOR.sub(LINK, source[max(0, start - _CONTEXT) : start])).rstrip()
    if before and not before.endswith(">"):
        return f" {alt} "
    is_sign = len(alt) <= 4 and not alt.isalnum()  # an emoji, an operator: part of what follows
    return alt if is_sign else f"<p>{alt}</p>"
