"""What stands for each tag in a page's text: nothing, a mark, the end of a line or a cell, the bound of a container.

Only tags that may decide what is content (divisions, and whatever has a telling class somewhere on the page) become
bounds of containers. A page has few different tags, and each is looked at once.
"""

import html
import re
from collections.abc import Collection
from typing import NamedTuple

from llama3_jax.curation.extract.characters import END_LINK, END_SCRIPT, HEADING, ITEM, LINK, SUBSCRIPT, SUPERSCRIPT
from llama3_jax.curation.extract.markup import INLINE, is_named_anchor
from llama3_jax.curation.extract.verdicts import Verdict, verdict_on

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
    verdicts, which their tokens number. `names` are those of blocks, `verdicts` those on every different opening tag of
    one.
    """

    replacements: dict[str, str]
    opened: list[tuple[str, str, Verdict]]
    names: frozenset[str]
    verdicts: Collection[Verdict]


def meaning_of(tags: list[str]) -> Meaning:
    """Looks at each different one of a page's tags, given without their angle brackets."""
    replacements: dict[str, str] = dict.fromkeys(tags, "")
    names: dict[str, str] = {}  # of blocks
    for tag in replacements:
        name = tag.partition(" ")[0]
        mark = _INLINE.get(name)
        if mark is None:
            names[tag] = name.removesuffix("/")
        else:
            replacements[tag] = "" if mark == LINK and is_named_anchor(tag) else mark
    verdicts = {tag: verdict_on(_normal(tag)) for tag in names if tag[:1] != "/"}
    containers = _CONTAINERS | {names[tag] for tag, verdict in verdicts.items() if verdict.kind}
    if "td" in names.values() and tags.count("/td") <= _MOST_CELLS:
        containers |= {"td"}
    opened: list[tuple[str, str, Verdict]] = []
    for tag, name in names.items():
        is_end = name[:1] == "/"
        separator = _CLOSING.get(name[1:], "\n") if is_end else _OPENING.get(name, "\n")
        if name.removeprefix("/") not in containers or name in _LINE_ENDS:
            replacements[tag] = separator
        elif is_end:
            replacements[tag] = f"{separator}{TOKEN}{name}{END_TOKEN}"
        else:
            replacements[tag] = f"{TOKEN}{len(opened)}{END_TOKEN}{separator}"
            opened.append((name, tag, verdicts[tag]))
    return Meaning(replacements, opened, frozenset(names.values()), verdicts.values())


def _normal(tag: str) -> str:
    """A tag as the parser writes it: attributes in double quotes, one space before each."""
    if _NORMAL.fullmatch(tag):
        return tag
    name, _, rest = tag.partition(" ")
    found = ((each[0].lower(), html.unescape(each[1] or each[2] or each[3])) for each in _ATTRIBUTE.findall(rest))
    return name + "".join(f' {attribute}="{value}"' for attribute, value in found)
