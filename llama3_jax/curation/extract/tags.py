"""What stands for each tag in a page's text: nothing, a mark, the end of a line or a cell, the bound of a container.

Only tags that may decide what is content (divisions, and whatever has a telling class somewhere on the page) become
bounds of containers. A page has few different tags, and each is looked at once.
"""

import functools
import html
import re
from collections.abc import Collection
from typing import NamedTuple

from llama3_jax.curation.extract.characters import END_LINK, END_SCRIPT, HEADING, ITEM, LINK, SUBSCRIPT, SUPERSCRIPT
from llama3_jax.curation.extract.config import REMEMBERED
from llama3_jax.curation.extract.markup import INLINE, is_named_anchor
from llama3_jax.curation.extract.verdicts import NEUTRAL, Verdict, verdict_on

TOKEN, END_TOKEN = "\x10", "\x11"  # around the number of a container that opens, or the name of one that ends
CELL, ROW = "\t", "\x0b"

_CONTAINERS = frozenset("div section article main".split())
_LINE_ENDS = frozenset(("br", "hr"))
_MOST_CELLS = 400  # of a table of a layout; with more of them on a page, cells are data
_NOTHING = (
    "area base basefont bgsound col colgroup embed frame img input keygen link meta param source track wbr"
).split()
_PARAGRAPHS = "p ul ol dl table blockquote pre section article figure hr header aside details".split()
_HEADINGS = "h1 h2 h3 h4 h5 h6".split()
_ITEMS = "li dt dd".split()
_OPENING = {
    **dict.fromkeys([*_NOTHING, "td", "th"], ""),
    **dict.fromkeys(_PARAGRAPHS, "\n\n"),
    **dict.fromkeys(_HEADINGS, f"\n\n{HEADING}"),
    **dict.fromkeys(_ITEMS, f"\n{ITEM}"),
    "tr": ROW,
}
_CLOSING = {
    **_OPENING,
    **dict.fromkeys(("td", "th"), CELL),
    **dict.fromkeys(_HEADINGS, "\n\n"),
    **dict.fromkeys(_ITEMS, "\n"),
}
_INLINE = {
    **dict.fromkeys([*INLINE, *(f"/{name}" for name in INLINE)], ""),
    "a": LINK, "sup": SUPERSCRIPT, "sub": SUBSCRIPT, "/a": END_LINK, "/sup": END_SCRIPT, "/sub": END_SCRIPT,
}  # fmt: skip
_NORMAL = re.compile(r'/?[a-z][\w:-]*+(?: [\w:@.-]++="[^"]*+")*+ ?/?')
_ATTRIBUTE = re.compile(r"""([\w:@.-]++)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++)))?""")


class Meaning(NamedTuple):
    """What the tags of a page mean.

    `replacements` stand for each different tag in the text. `opened` are the containers' names, opening tags and
    verdicts, which their tokens number. `names` and `verdicts` are those of the tags of blocks.
    """

    replacements: dict[str, str]
    opened: list[tuple[str, str, Verdict]]
    names: frozenset[str]
    verdicts: Collection[Verdict]


def meaning_of(tags: list[str]) -> Meaning:
    """Looks at each different one of a page's tags, given without their angle brackets."""
    replacements: dict[str, str] = dict.fromkeys(tags, LINK)
    blocks: dict[str, _Block] = {}
    for tag in replacements:
        if tag[:2] != "a ":
            mark, block = _looked_up(tag)
            replacements[tag] = mark
            if block is not None:
                blocks[tag] = block
        elif is_named_anchor(tag):
            replacements[tag] = ""
    names = frozenset([block.name for block in blocks.values()])
    containers = _CONTAINERS.union([block.name for block in blocks.values() if block.verdict.kind])
    if "td" in names and tags.count("/td") <= _MOST_CELLS:
        containers |= {"td"}
    opened: list[tuple[str, str, Verdict]] = []
    for tag, block in blocks.items():
        if block.name not in containers or block.name in _LINE_ENDS:
            continue
        if block.is_end:
            replacements[tag] += f"{TOKEN}/{block.name}{END_TOKEN}"
        else:
            replacements[tag] = f"{TOKEN}{len(opened)}{END_TOKEN}{replacements[tag]}"
            opened.append((block.name, tag, block.verdict))
    return Meaning(replacements, opened, names, [block.verdict for block in blocks.values()])


class _Block(NamedTuple):
    """A tag of a block, and the verdict on it, which is neutral where it is an end."""

    name: str
    is_end: bool
    verdict: Verdict


@functools.lru_cache(REMEMBERED)
def _looked_up(tag: str) -> tuple[str, _Block | None]:
    """(What stands for a tag that is no container's, the block)."""
    name = tag.partition(" ")[0]
    mark = _INLINE.get(name)
    if mark is not None:
        return mark, None
    is_end = name[:1] == "/"
    name = name.strip("/")
    verdict = Verdict(NEUTRAL) if is_end else verdict_on(_normal(tag))
    return (_CLOSING if is_end else _OPENING).get(name, "\n"), _Block(name, is_end, verdict)


def _normal(tag: str) -> str:
    """A tag as the parser writes it: attributes in double quotes, one space before each."""
    if _NORMAL.fullmatch(tag):
        return tag
    name, _, rest = tag.partition(" ")
    found = ((each[0].lower(), html.unescape(each[1] or each[2] or each[3])) for each in _ATTRIBUTE.findall(rest))
    return name + "".join(f' {attribute}="{value}"' for attribute, value in found)
