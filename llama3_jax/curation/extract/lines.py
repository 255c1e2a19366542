"""From the chosen texts to lines: rows of tables, headings, what links and stock phrases give away as boilerplate."""

import html
import re

from llama3_jax.curation.extract.blocks import CELL, HARD, NEW_PARAGRAPH, SOFT, Blocks
from llama3_jax.curation.extract.characters import END_LINK, END_SCRIPT, LINK, SUBSCRIPT, SUPERSCRIPT, VERBATIM, clean
from llama3_jax.curation.extract.phrases import ends_content, is_boilerplate

_LONG_CELL = 160  # characters from which on a cell is a column of a layout and has a line of its own
_LINK_LIST = 0.67  # share of a line in links from which on it is for finding one's way
_RUNNING = 60  # characters that make a line running text
_SENTENCE = 20  # or these, with a full stop
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_PERMALINK = re.compile(f"{LINK}\\s*[¶#§🔗⚓\uf0c1\uf127]?\\s*{END_LINK}")
_REFERENCE = re.compile(f"{SUPERSCRIPT}\\s*(?:\\[?{LINK}[^{END_SCRIPT}]*{END_LINK}\\]?\\s*|\\[\\d+\\])+{END_SCRIPT}")
_SCRIPTS = re.compile(f"([{SUPERSCRIPT}{SUBSCRIPT}])\\s*([^{SUPERSCRIPT}{SUBSCRIPT}{END_SCRIPT}]*?)\\s*{END_SCRIPT}")
_ORDINAL = re.compile(r"(?i)(?:st|nd|rd|th|er|re|e|ers|ère|ème|ièm?e|nde?|o|a|os|as|º|ª|™|®|©|tm|sm|r|c|\*+|)$")
_CODE = re.compile(f"{VERBATIM}(\\d+){VERBATIM}")


class Line:
    """One line: its text with marks, its characters outside of links and inside, what it is."""

    __slots__ = ("text", "plain", "linked", "is_heading", "is_item", "starts_paragraph", "owner")

    def __init__(self, text: str, plain: int, linked: int, tag: str, starts_paragraph: bool, owner: int):
        self.text = text
        self.plain = plain
        self.linked = linked
        self.is_heading = tag in _HEADINGS
        self.is_item = tag in ("li", "dd", "dt")
        self.starts_paragraph = starts_paragraph
        self.owner = owner


def lines_of(blocks: Blocks, kept: list[bool], ranges: list[tuple[int, int]]) -> list[Line]:
    """The kept texts of some ranges, joined where they share a line or a row of a table."""
    lines: list[Line] = []
    names: dict[int, str] = {}
    for start, end in ranges:
        pending = HARD
        for k in range(start, end):
            pending |= blocks.breaks[k]
            if not kept[k]:
                continue
            text, plain, linked, owner = blocks.texts[k], blocks.plain[k], blocks.linked[k], blocks.owners[k]
            joint = _joint(pending, lines[-1] if lines else None, text)
            if joint == "\n":
                tag = names.get(owner)
                if tag is None:
                    tag = names[owner] = _line_tag(blocks, owner)
                lines.append(Line(text, plain, linked, tag, bool(pending & NEW_PARAGRAPH), owner))
            else:
                line = lines[-1]
                line.text += joint + text
                line.plain += plain
                line.linked += linked
            pending = 0
    return lines


def _joint(separation: int, before: Line | None, text: str) -> str:
    """What stands between a text and the one before it."""
    if before is None or separation & HARD:
        return "\n"
    if separation & CELL:
        is_row = len(text) < _LONG_CELL and len(before.text) < 4 * _LONG_CELL and VERBATIM not in text
        return "\t" if is_row and VERBATIM not in before.text else "\n"
    return "\n" if separation & SOFT else " "


def _line_tag(blocks: Blocks, owner: int) -> str:
    """The name of the nearest block around a text that makes it a heading or an item, or else of its own block."""
    own = blocks.tags[owner].partition(" ")[0]
    block, name = owner, own
    for _ in range(3):
        if name in _HEADINGS or name in ("li", "dd", "dt", "td", "body"):
            return name
        block = blocks.parents[block]
        name = blocks.tags[block].partition(" ")[0]
    return own


def without_boilerplate(lines: list[Line], is_discussion: bool = False) -> list[Line]:
    """Drops link lists, stock phrases, what follows the content, and headings with nothing left under them."""
    total = sum(line.plain for line in lines)
    before = 0
    kept: list[Line | None] = []
    for line in lines:
        before += line.plain
        if VERBATIM in line.text:
            kept.append(line)
            continue
        if line.is_heading or len(line.text) < 80:
            phrase = _bare(line.text)
            if before > 0.5 * total and before > 200 and ends_content(phrase, line.is_heading):
                break
            if is_boilerplate(phrase):
                kept.append(None)
                continue
        if line.linked and not line.is_heading and _is_link_list(line):
            kept.append(None)
            continue
        kept.append(line)
    return _trimmed(_without_bare_headings(kept))


def _trimmed(lines: list[Line]) -> list[Line]:
    """Drops what stands before the first line of running text, headings aside, and after the last: dates, names, labels."""
    paragraphs: dict[int, int] = {}
    for line in lines:
        paragraphs[line.owner] = paragraphs.get(line.owner, 0) + line.plain
    running = [k for k, line in enumerate(lines) if _is_running(line, paragraphs[line.owner])]
    if not running:
        return lines
    first, last = running[0], running[-1]
    found = [line for line in lines[:first] if line.is_heading] + lines[first : last + 1]
    return [line for line, before in zip(found, [None, *found], strict=False) if before is None or line.text != before.text]


def _is_running(line: Line, paragraph: int) -> bool:
    """Whether a line says something: long enough, a sentence, an item or a row of several cells, code."""
    if VERBATIM in line.text or "\t" in line.text:
        return True
    if line.linked > line.plain:
        return False
    if line.plain >= _RUNNING or paragraph >= 2 * _RUNNING or (line.is_item and line.plain > 2):
        return True
    return line.plain >= _SENTENCE and line.text.rstrip(f" {END_LINK}\"')”“»").endswith((".", "!", "?", "…", ":", "。"))


def _is_link_list(line: Line) -> bool:
    """Whether a line is for finding one's way: mostly links, and not a sentence with one long link."""
    size = line.plain + line.linked
    if VERBATIM in line.text or line.linked <= _LINK_LIST * size:
        return False
    return not (size > 120 and line.text.rstrip(f" {END_LINK}").endswith((".", "!", "?", "…", ":")))


def _without_bare_headings(lines: list[Line | None]) -> list[Line]:
    """Drops headings whose whole section was dropped (None marks a dropped line)."""
    found: list[Line] = []
    dropped = False
    has_text = False
    for line in reversed(lines):
        if line is None:
            dropped = True
            continue
        if line.is_heading:
            if dropped and not has_text:
                continue
            dropped = has_text = False
        else:
            has_text = True
        found.append(line)
    return found[::-1]


def _bare(text: str) -> str:
    return html.unescape(text.replace(LINK, "").replace(END_LINK, "")).strip()


def render(lines: list[Line], verbatim: list[str]) -> str:
    """Text of lines: an empty line before each paragraph, heading, list, table and verbatim block."""
    parts: list[str] = []
    for line in lines:
        parts.append("\n\n" if line.starts_paragraph or line.is_heading else "\n")
        parts.append(line.text)
    text = plain_text("".join(parts)).strip("\n")
    if VERBATIM in text:
        text = _CODE.sub(lambda found: _block(found, verbatim), text)
    return clean(text).strip("\n").rstrip()


def plain_text(text: str) -> str:
    """Text without marks of links, with sub- and superscripts as TeX has them, character references resolved."""
    if SUPERSCRIPT in text or SUBSCRIPT in text:
        text = _REFERENCE.sub("", text)
    text = _PERMALINK.sub("", text).replace(LINK, "").replace(END_LINK, "")
    if SUPERSCRIPT in text or SUBSCRIPT in text:
        text = _SCRIPTS.sub(_script, _SCRIPTS.sub(_script, text))
    while "  " in text:
        text = text.replace("  ", " ")
    return html.unescape(text) if "&" in text else text


def _script(found: re.Match) -> str:
    mark, inside = found.groups()
    if _ORDINAL.match(inside):
        return inside
    return f"{'^' if mark == SUPERSCRIPT else '_'}{{{inside}}}"


def _block(found: re.Match, verbatim: list[str]) -> str:
    number = int(found.group(1))
    return verbatim[number] if number < len(verbatim) else ""
