# ruff: noqa: E501, SIM905  (tables of names and patterns)
"""A parsed page as flat lists: its lines, and its containers as ranges of lines.

Only tags that may decide what is content (divisions, and whatever has a telling class somewhere on the page) are looked at
one by one; the others become line ends inside the text. Everything after this works on ranges, so that no page is slow
for being nested deeply.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from llama3_jax.curation.extract.characters import END_LINK, HEADING, ITEM, LINK, VERBATIM
from llama3_jax.curation.extract.verdicts import Judge, Verdict

_RAW_ELEMENTS = "script|style|noscript|svg|iframe|template|xmp|noembed|noframes|plaintext|head"
_UNREAD = re.compile(
    rf"<!(?:--(?:[^-]++|-(?!->))*+--|[^>]*+)>|<({_RAW_ELEMENTS})(?=[\s>])(?:[^<]++|<(?!/\1>))*+</\1>|<\?[^>]*+>"
)
_RAW_NAMES = ("xmp", "plaintext")  # elements whose text is not markup, and yet content
_TAG = re.compile("<([^>]*)>")
_LINKED = re.compile(f"{LINK}([^{END_LINK}]*)")
_CODE_NUMBER = re.compile(f"{VERBATIM}(\\d+){VERBATIM}")
_CONTAINERS = frozenset("div section article main".split())
_MOST_CELLS = 400  # of a table of a layout; with more of them on a page, cells are data
_NOTHING = frozenset(
    "area base basefont bgsound col colgroup embed frame img input keygen link meta param source track wbr".split()
)
_NEW_PARAGRAPHS = frozenset("p ul ol dl table blockquote pre section article figure hr header aside details".split())
_LINE_ENDS = frozenset(("br", "hr"))
_HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
_ITEMS = frozenset("li dt dd".split())
_TOKEN, _END_TOKEN = "\x10", "\x11"
_CELL, _ROW = "\t", "\x0b"
_LONG_CELL = 160  # characters from which on a cell is a column of a layout and has a line of its own
_LINE_KINDS = HEADING + ITEM
_TRIMMED = f" {HEADING}{ITEM}"
_WITHOUT_TEXT = f" \t{LINK}{END_LINK}"


class Blocks(NamedTuple):
    """The page. Lists over lines: `texts`, `plain` and `linked` (characters outside of links and inside), `kinds` (HEADING,
    ITEM or ""), `paragraphs` (numbers that lines of one paragraph share); `rows` are the lines that are cells and have
    another after them in their row. Lists over containers, in the order of their
    opening tags: `tags` (source of the opening tag), `verdicts`, `starts` and `ends` (their range of lines).
    """

    texts: list[str]
    plain: list[int]
    linked: list[int]
    kinds: list[str]
    paragraphs: list[int]
    rows: set[int]
    tags: list[str]
    verdicts: list[Verdict]
    starts: list[int]
    ends: list[int]
    all_tags: Collection[str]  # every different tag of the page
    all_verdicts: Collection[Verdict]  # on every different opening tag


def read_blocks(html: str, verbatim: list[str]) -> Blocks:
    """Takes the parser's serialisation of a page apart, given its verbatim blocks (for their lengths)."""
    raw_names = {name: "" for name in _RAW_NAMES if f"<{name}" in html}
    html = _UNREAD.sub("", html).replace("\n", " ").replace("\t", " ").replace("&nbsp;", " ")
    parts = _TAG.split(html)
    tags = parts[1::2]
    different = dict.fromkeys(tags)
    judge = Judge()
    verdicts = {tag: judge(tag) for tag in different if tag[:1] != "/"}
    names = _CONTAINERS | {tag.partition(" ")[0] for tag, verdict in verdicts.items() if verdict.kind}
    if tags.count("/td") <= _MOST_CELLS:
        names |= {"td"}
    opened: list[str] = []
    for tag in different:
        different[tag] = _replacement(tag, names, opened)
    parts[1::2] = map(different.__getitem__, tags)
    return _read_lines(_with_rows("".join(parts)), verbatim, opened, verdicts, raw_names | different)


def _replacement(tag: str, names: Collection[str], opened: list[str]) -> str:
    """What stands for a tag in the text: a line end, the end of a cell, a token for a container's tag."""
    name = tag.partition(" ")[0]
    is_end = name[:1] == "/"
    name = name[1:] if is_end else name
    if name in _NOTHING:
        return ""
    if name in ("td", "th"):
        separator = _CELL if is_end else ""
    elif name == "tr":
        separator = _ROW
    elif name in _HEADINGS:
        separator = "\n\n" if is_end else f"\n\n{HEADING}"
    elif name in _ITEMS:
        separator = "\n" if is_end else f"\n{ITEM}"
    else:
        separator = "\n\n" if name in _NEW_PARAGRAPHS else "\n"
    if name not in names or name in _LINE_ENDS:
        return separator
    if is_end:
        return f"{separator}{_TOKEN}{_END_TOKEN}"
    opened.append(tag)
    return f"{_TOKEN}{len(opened) - 1}{_END_TOKEN}{separator}"


def _with_rows(text: str) -> str:
    """Text in which a row of a table is a line: the ends of lines at the ends of its cells are gone."""
    if _CELL in text:
        text = _CELL.join([cell.strip("\n ") for cell in text.split(_CELL)])
    return text.replace(_ROW, f"\n{_ROW}\n")


def _read_lines(
    text: str, verbatim: list[str], opened: list[str], verdicts: dict[str, Verdict], all_tags: Collection[str]
) -> Blocks:
    found: list[tuple[str, int, int, str, int]] = []
    add = found.append
    rows: set[int] = set()
    tags, of_tags, starts, ends = ["body"], [Verdict(0)], [0], [0]
    stack: list[int] = [0]
    paragraph, kind, in_link = 0, "", False
    for piece in text.split(_TOKEN):
        token, is_token, body = piece.partition(_END_TOKEN)
        if not is_token:
            body = piece
        elif token:
            tag = opened[int(token)]
            stack.append(len(tags))
            tags.append(tag)
            of_tags.append(verdicts[tag])
            starts.append(len(found))
            ends.append(-1)
        elif len(stack) > 1:
            ends[stack.pop()] = len(found)
        if not body or body.isspace():
            paragraph += 1
            _mark_row(rows, body, len(found) - 1)
            continue
        for line in body.split("\n"):
            ends_cell = line.endswith(_CELL)
            line = line.strip(" \t")
            if not line:
                paragraph += 1
                continue
            if line == _ROW:
                rows.discard(len(found) - 1)
                continue
            if line[0] in _LINE_KINDS:
                kind = line[0]
                line = line.lstrip(_TRIMMED)
                if not line:
                    continue
            if in_link or LINK in line or END_LINK in line:
                inside, in_link = _link_characters(line, in_link)
                if not line.strip(_WITHOUT_TEXT):
                    continue
                add((line, len(line) - inside, inside, kind, paragraph))
            elif VERBATIM in line:
                add((line, _size_of_code(line, verbatim), 0, kind, paragraph))
            elif _CELL in line and len(line) > _LONG_CELL:
                found += [(cell, len(cell), 0, kind, paragraph) for cell in _columns(line)]
            else:
                add((line, len(line), 0, kind, paragraph))
            kind = ""
            if ends_cell:
                rows.add(len(found) - 1)
    ends = [len(found) if end < 0 else end for end in ends]
    ends[0] = len(found)
    texts, plain, linked, kinds, paragraphs = map(list, zip(*found, strict=True)) if found else ([], [], [], [], [])
    return Blocks(
        texts, plain, linked, kinds, paragraphs, rows, tags, of_tags, starts, ends, all_tags, verdicts.values()
    )


def _mark_row(rows: set[int], gap: str, line: int) -> None:
    """Whether the gap after a line is the end of its row, or of a cell before another."""
    if _ROW in gap:
        rows.discard(line)
    elif _CELL in gap:
        rows.add(line)


def _size_of_code(line: str, verbatim: list[str]) -> int:
    numbers = map(int, _CODE_NUMBER.findall(line))
    return sum(len(verbatim[number]) for number in numbers if number < len(verbatim))


def _columns(row: str) -> list[str]:
    """A row's cells as lines of their own where one of them is long, or else the row."""
    cells = [cell.strip() for cell in row.split(_CELL)]
    return [cell for cell in cells if cell] if max(map(len, cells)) > _LONG_CELL else [row]


def _link_characters(text: str, in_link: bool) -> tuple[int, bool]:
    """(Characters inside links with their marks, whether the text ends inside one)."""
    whole = LINK + text if in_link else text
    inside = sum(map(len, _LINKED.findall(whole)))
    return inside + text.count(LINK) + text.count(END_LINK), whole.rfind(LINK) > whole.rfind(END_LINK)
