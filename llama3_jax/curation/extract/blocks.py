"""A parsed page as flat lists: the texts between block tags in order, and the blocks as ranges of them.

Everything after this works on ranges, so that no page is slow for being nested deeply.
"""

import re
from typing import NamedTuple

from llama3_jax.curation.extract.characters import END_LINK, LINK, VERBATIM
from llama3_jax.curation.extract.verdicts import judge

# How a tag separates the text before it from the text after it: bits, so that several tags can be added up.
SOFT, CELL, HARD, NEW_PARAGRAPH = 1, 2, 4, 8

_RAW_ELEMENTS = "script|style|noscript|svg|iframe|template|xmp|noembed|noframes|plaintext|head"
_UNREAD = re.compile(
    rf"<!--(?:[^-]++|-(?!->))*+-->|<({_RAW_ELEMENTS})(?=[\s>])(?:[^<]++|<(?!/\1>))*+</\1>|<![^>]*+>|<\?[^>]*+>"
)
_TAG = re.compile("<([^>]*)>")
_LINKED = re.compile(f"{LINK}([^{END_LINK}]*)")
_CODE_NUMBER = re.compile(f"{VERBATIM}(\\d+){VERBATIM}")
_VOID = frozenset("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr".split())
_SOFT_TAGS = frozenset("p div br section article span center font img input wbr figure picture main".split())
_NEW_PARAGRAPHS = frozenset(
    "p h1 h2 h3 h4 h5 h6 ul ol dl table blockquote pre section article figure hr header aside details".split()
)
_OPEN, _CLOSE, _ALONE = range(3)


class Blocks(NamedTuple):
    """The page. Lists over texts: `texts`, `breaks` (bits of what separates one from the text before), `owners` (the
    innermost block), `plain` and `linked` (characters outside of links and inside). Lists over blocks, in the order of
    their opening tags: `tags` (source of the opening tag), `starts` and `ends` (their range of texts), `parents`.
    """

    texts: list[str]
    breaks: list[int]
    owners: list[int]
    plain: list[int]
    linked: list[int]
    tags: list[str]
    starts: list[int]
    ends: list[int]
    parents: list[int]


class _Tags(dict):
    """What to do at a tag, by its source: (operation, separation)."""

    def __missing__(self, tag: str) -> tuple[int, int]:
        name = tag.partition(" ")[0].strip("/")
        separation = SOFT if name in _SOFT_TAGS else HARD
        if name in ("td", "th"):
            separation = CELL if tag.startswith("/") else 0
        if name in _NEW_PARAGRAPHS:
            separation |= NEW_PARAGRAPH
        operation = _CLOSE if tag.startswith("/") else _ALONE if name in _VOID else _OPEN
        self[tag] = operation, separation
        return operation, separation


def read_blocks(html: str, verbatim: list[str]) -> Blocks:
    """Takes the parser's serialisation of a page apart, given its verbatim blocks (for their lengths)."""
    html = _UNREAD.sub("", html).replace("\n", " ").replace("\t", " ")
    parts = _TAG.split(html)
    known = _Tags()
    texts, breaks, owners, plain, linked = [], [], [], [], []
    tags, starts, ends, parents = ["body"], [0], [0], [0]
    current, separation, in_link = 0, HARD, False
    for tag, text in zip(parts[1::2], parts[2::2], strict=True):
        operation, bits = known[tag]
        separation |= bits
        if operation == _OPEN:
            tags.append(tag)
            starts.append(len(texts))
            ends.append(-1)
            parents.append(current)
            current = len(tags) - 1
        elif operation == _CLOSE and current:
            ends[current] = len(texts)
            current = parents[current]
        text = text.strip()
        if not text:
            continue
        size = len(text)
        in_links = 0
        if in_link or LINK in text or END_LINK in text:
            in_links, in_link = _link_characters(text, in_link)
            if not text.strip(_MARKS):
                continue
        elif VERBATIM in text:
            size = sum(len(verbatim[int(number)]) for number in _CODE_NUMBER.findall(text) if int(number) < len(verbatim))
        texts.append(text)
        breaks.append(separation)
        owners.append(current)
        plain.append(size - in_links)
        linked.append(in_links)
        separation = 0
    ends = [len(texts) if end < 0 else end for end in ends]
    ends[0] = len(texts)
    return Blocks(texts, breaks, owners, plain, linked, tags, starts, ends, parents)


_MARKS = f" {LINK}{END_LINK}"


def _link_characters(text: str, in_link: bool) -> tuple[int, bool]:
    """(Characters inside links with their marks, whether the text ends inside one)."""
    whole = (LINK if in_link else "") + text
    inside = sum(map(len, _LINKED.findall(whole)))
    marks = text.count(LINK) + text.count(END_LINK)
    return inside + marks, whole.rfind(LINK) > whole.rfind(END_LINK)


def kinds_of(blocks: Blocks) -> tuple[list[int], bool]:
    """(The verdict's kind on each block, whether the page is a discussion)."""
    known = {tag: judge(tag) for tag in set(blocks.tags)}
    return [known[tag].kind for tag in blocks.tags], any(verdict.discussion for verdict in known.values())
