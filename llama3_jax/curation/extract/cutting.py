"""Cutting a page's source at its tags without a parser: text and tags in turns.

Most pages are written plainly enough for that. What is not (a ">" inside an attribute, a script that does not end) is
left to the parser: nothing is guessed here.
"""

import re
from typing import NamedTuple

from llama3_jax.curation.extract.config import ExtractConfig
from llama3_jax.curation.extract.hints import is_formula
from llama3_jax.curation.extract.markup import alternative, take_verbatim, without_code

_UNSEEN = "script style noscript svg iframe template noembed noframes head".split()
_CLOSED = (*_UNSEEN, "title", "textarea")
_SPECIAL = re.compile(rf'<(?:(!--)|[!?]|({"|".join(_CLOSED)}|pre|img)(?=[\s/>])|(a) class="src)')
_BOUNDS = {name: re.compile(rf"<(/?){name}[\s/>]") for name in (*_CLOSED, "pre", "a")}
_TAG = re.compile("<([^<>]*)>")
_NO_TAG = re.compile("<(?![a-zA-Z/!?])")
_PLAIN_TAGS = re.compile(
    r"""(?:/?[a-z][a-z0-9:_-]*+(?:[ /][^"'\n]*+(?:"[^"\n]*+"[^"'\n]*+|'[^'\n]*+'[^"'\n]*+)*+)?\n)*+"""
)
RAW = ("xmp", "plaintext")  # elements whose text is not markup, and yet content
_UNREAD = re.compile(
    r"<!(?:--(?:[^-]++|-(?!->))*+--|[^>]*+)>"
    rf"|<({'|'.join((*_UNSEEN, *RAW))})(?=[\s>])(?:[^<]++|<(?!/\1>))*+</\1>|<\?[^>]*+>"
)
_PARSED_TAG = re.compile("<([^>]*)>")


class Cut(NamedTuple):
    """A page as `parts` (text at even places, tags without angle brackets at odd ones), its different `tags`, each on a
    line, and its verbatim blocks.
    """

    parts: list[str]
    tags: str
    verbatim: list[str]


class NotPlain(Exception):
    """A page that only a parser can take apart."""


def cut(source: str, config: ExtractConfig) -> Cut:
    """Cuts a page's source; scripts, comments and the like are gone, images have become what they say.

    Raises NotPlain for a page that needs a parser.
    """
    verbatim: list[str] = []
    source = without_code(_without_special(source, verbatim, config), verbatim)
    source = source.replace("\n", " ").replace("\t", " ")
    parts = _TAG.split(source)
    if source.count("<") != len(parts) // 2:
        source = _NO_TAG.sub("&lt;", source)
        parts = _TAG.split(source)
    tags = "\n".join([*dict.fromkeys(parts[1::2]), ""])
    if source.count("<") != len(parts) // 2 or not _PLAIN_TAGS.fullmatch(tags):
        raise NotPlain
    return Cut(parts, tags, verbatim)


def cut_parsed(source: str) -> list[str]:
    """Cuts what a parser has written at its tags; in what is text there is no "<" any more."""
    return _PARSED_TAG.split(_UNREAD.sub("", source).replace("\n", " ").replace("\t", " "))


def _without_special(source: str, verbatim: list[str], config: ExtractConfig) -> str:
    """The source without what is no text, with marks for `<pre>`, and with descriptions for images."""
    parts, done = [], 0
    found = _SPECIAL.search(source)
    while found is not None:
        start = found.start()
        comment, name, tool = found.groups()
        parts.append(source[done:start])
        if name is None and tool is None:
            done = _after(source, "-->" if comment else ">", start)
        elif name == "img":
            done = _after(source, ">", start)
            parts.append(alternative(source, start, _whole(source[start:done]), config))
        else:
            done, text = _element(source, name or tool, start, verbatim)
            parts.append(text)
        found = _SPECIAL.search(source, done)
    parts.append(source[done:])
    return "".join(parts)


def _element(source: str, name: str, start: int, verbatim: list[str]) -> tuple[int, str]:
    """(Where an element ends whose content is no markup, what stands for it)."""
    inside = _after(source, ">", start)
    tag = _whole(source[start:inside])
    bound = _BOUNDS[name].search(source, inside)
    if bound is None or not bound.group(1) or is_formula(tag):  # not closed, or one inside another
        raise NotPlain
    content = source[inside : bound.start()]
    if name == "textarea" and content.strip():
        raise NotPlain
    return _after(source, ">", bound.start()), take_verbatim(content, verbatim) if name == "pre" else ""


def _after(source: str, sign: str, start: int) -> int:
    """The place after the next such sign."""
    found = source.find(sign, start)
    if found < 0:
        raise NotPlain
    return found + len(sign)


def _whole(tag: str) -> str:
    """A tag that does not end inside of an attribute."""
    if tag.count('"') & 1:
        raise NotPlain
    return tag
