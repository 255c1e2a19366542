"""A page as flat lists: its lines, and its containers as ranges of lines.

Everything after this works on ranges, so that no page is slow for being nested deeply.
"""

import html
import re
import sys
from typing import NamedTuple

from llama3_jax.curation.extract.characters import END_LINK, HEADING, ITEM, LINK, VERBATIM
from llama3_jax.curation.extract.cutting import NotPlain
from llama3_jax.curation.extract.tags import CELL, END_TOKEN, ROW, TOKEN, Meaning, meaning_of
from llama3_jax.curation.extract.verdicts import Verdict

_CODE_NUMBER = re.compile(f"{VERBATIM}(\\d+){VERBATIM}")
_REFERENCE = re.compile("&(?!amp;|lt;|gt;)(?:#[0-9a-zA-Z]+|[a-zA-Z][a-zA-Z0-9]*);?")
_MANY_REFERENCES = 64  # different ones from which on all are replaced in one go
_LONG_CELL = 160  # characters from which on a cell is a column of a layout and has a line of its own
_LINE_KINDS = HEADING + ITEM
_TRIMMED = f" {HEADING}{ITEM}"
_WITHOUT_TEXT = f" \t{LINK}{END_LINK}"
# Elements whose end may be left out: what follows closes them.
_CLOSED_BY_OTHERS = frozenset("p li dt dd td th tr tbody thead tfoot option optgroup rt rp caption colgroup".split())


class Blocks(NamedTuple):
    """The page.

    Lists over lines: `texts`, `plain` and `linked` (characters outside of links and inside), `kinds` (HEADING, ITEM or
    ""), `paragraphs` (numbers that lines of one paragraph share); `rows` are lines that are cells with another after
    them in their row. Lists over containers, in the order of their opening tags: `tags` (source of the opening tag),
    `verdicts`, `starts` and `ends` (their range of lines).
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
    meaning: Meaning  # of the page's tags


def blocks_of(parts: list[str], verbatim: list[str], max_depth: int | None = None) -> Blocks:
    """Blocks of a page cut into text and tags in turns, given its verbatim blocks for their lengths.

    Changes `parts`.

    With a `max_depth`, raises NotPlain where containers are nested deeper, or where only a parser knows which tag
    closes which. Without one, the page must come from a parser.
    """
    tags = parts[1::2]
    meaning = meaning_of(tags)
    parts[1::2] = map(meaning.replacements.__getitem__, tags)
    text = _with_lines(_without_references("".join(parts)))
    return _read_lines(text, verbatim, meaning, _Containers(meaning, max_depth))


def _without_references(text: str) -> str:
    """Text with its character references resolved, but for those of "&", "<" and ">"."""
    text = text.replace("&nbsp;", " ").replace("\xa0", " ")
    if "&" not in text:
        return text
    resolved = {each: _escaped(html.unescape(each)) for each in set(_REFERENCE.findall(text))}
    if len(resolved) > _MANY_REFERENCES:
        return _REFERENCE.sub(lambda found: resolved[found.group()], text)
    for each in sorted(resolved, key=len, reverse=True):  # "&notin;" before "&not"
        text = text.replace(each, resolved[each])
    return text


def _escaped(sign: str) -> str:
    return html.escape(" " if sign.isspace() else sign, quote=False)


def _with_lines(text: str) -> str:
    """Text in which tokens are lines, and a row of a table is one: line ends at the ends of its cells are gone."""
    if CELL in text:
        text = CELL.join([cell.strip("\n ") for cell in text.split(CELL)])
    return text.replace(ROW, f"\n{ROW}\n").replace(TOKEN, f"\n{TOKEN}").replace(END_TOKEN, "\n")


def _read_lines(text: str, verbatim: list[str], meaning: Meaning, containers: "_Containers") -> Blocks:
    found: list[tuple[str, int, int, str, int]] = []
    add = found.append
    rows: set[int] = set()
    paragraph, kind, in_link, after_container = 0, "", False, False
    for line in text.split("\n"):
        if not line or not (line := line.strip(" ")):
            paragraph += 1
            continue
        if line[0] == TOKEN:
            containers.add(line, len(found))
            after_container = True
            continue
        ends_cell = line[-1] == CELL
        if ends_cell or line[0] == CELL or (line[0] > "\x7f" and line.isspace()):
            if line.isspace():
                paragraph += 1
                if after_container and CELL in line:
                    rows.add(len(found) - 1)
                continue
            line = line.strip(" \t")
        if line[0] < " ":  # a mark
            if line[0] == ROW:
                rows.discard(len(found) - 1)
                continue
            if line[0] in _LINE_KINDS:
                kind = line[0]
                line = line.lstrip(_TRIMMED)
                if not line:
                    continue
        after_container = False
        if in_link or LINK in line or END_LINK in line:
            inside, in_link = _link_characters(line, in_link)
            if not line.strip(_WITHOUT_TEXT):
                continue
            add((line, len(line) - inside, inside, kind, paragraph))
        elif VERBATIM in line:
            add((line, _size_of_code(line, verbatim), 0, kind, paragraph))
        elif CELL in line and len(line) > _LONG_CELL:
            found += [(cell, len(cell), 0, kind, paragraph) for cell in _columns(line)]
        else:
            add((line, len(line), 0, kind, paragraph))
        kind = ""
        if ends_cell:
            rows.add(len(found) - 1)
    texts, plain, linked, kinds, paragraphs = map(list, zip(*found, strict=True)) if found else ([], [], [], [], [])
    tags, verdicts, starts, ends = containers.end(len(found))
    return Blocks(texts, plain, linked, kinds, paragraphs, rows, tags, verdicts, starts, ends, meaning)


class _Containers:
    """The containers seen so far, as lists of tag, verdict, first line and end, and which of them are open."""

    def __init__(self, meaning: Meaning, max_depth: int | None):
        self._max_depth = sys.maxsize if max_depth is None else max_depth
        self._may_stay_open = frozenset() if max_depth is None else _CLOSED_BY_OTHERS
        self.found: list[list] = [["body", Verdict(0), 0, -1]]
        self._opened = {f"{TOKEN}{number}": each for number, each in enumerate(meaning.opened)}
        self._open: list[tuple[str, list]] = []
        self._names = dict.fromkeys([name for name, _, _ in meaning.opened], 0)  # how many are open

    def add(self, token: str, line: int) -> None:
        """A container begins or ends before a line."""
        opened = self._opened.get(token)
        if opened is None:
            self._close(token[2:], line)  # after the mark and a slash
            return
        if len(self._open) >= self._max_depth:
            raise NotPlain
        name, tag, verdict = opened
        container = [tag, verdict, line, -1]
        self.found.append(container)
        self._open.append((name, container))
        self._names[name] += 1

    def _close(self, name: str, line: int) -> None:
        """The innermost open container of a name ends, and those inside; an end without a beginning is nothing."""
        if not self._names.get(name):
            if name in self._may_stay_open:
                raise NotPlain
            return
        inner = ""
        while inner != name:
            inner, container = self._open.pop()
            if inner != name and inner in self._may_stay_open:
                raise NotPlain
            self._names[inner] -= 1
            container[3] = line

    def end(self, line: int) -> list[list]:
        """The page ends, and with it what is still open. Returns tags, verdicts, first lines and ends."""
        if any(name in self._may_stay_open for name, _ in self._open):
            raise NotPlain
        for container in (self.found[0], *(container for _, container in self._open)):
            container[3] = line
        return [list(column) for column in zip(*self.found, strict=True)]


def _size_of_code(line: str, verbatim: list[str]) -> int:
    numbers = map(int, _CODE_NUMBER.findall(line))
    return sum(len(verbatim[number]) for number in numbers if number < len(verbatim))


def _columns(row: str) -> list[str]:
    """A row's cells as lines of their own where one of them is long, or else the row."""
    cells = [cell.strip() for cell in row.split(CELL)]
    return [cell for cell in cells if cell] if max(map(len, cells)) > _LONG_CELL else [row]


def _link_characters(text: str, in_link: bool) -> tuple[int, bool]:
    """(Characters inside links with their marks, whether the text ends inside one)."""
    if text[0] == LINK and text.find(END_LINK) == len(text) - 1:
        return len(text), False
    first, *links = (LINK + text if in_link else text).split(LINK)
    inside = len(links) + first.count(END_LINK) - in_link
    for link in links:
        end = link.find(END_LINK)
        inside += len(link) if end < 0 else end + link.count(END_LINK)
    return inside, bool(links) and END_LINK not in links[-1]
