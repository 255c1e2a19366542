"""From the chosen lines to text: what links and stock phrases give away goes, marks become characters."""

import re

from llama3_jax.curation.extract.blocks import Blocks
from llama3_jax.curation.extract.characters import (
    END_LINK,
    END_SCRIPT,
    HEADING,
    ITEM,
    LINK,
    SUBSCRIPT,
    SUPERSCRIPT,
    VERBATIM,
    clean,
)
from llama3_jax.curation.extract.phrases import LONGEST_PHRASE, ends_content, is_boilerplate, may_be_phrase

_LINK_LIST = 0.67  # share of a line in links from which on it is for finding one's way
_LINKING_SENTENCE = 120  # characters of a line that may be one long link and yet a sentence
_RUNNING = 60  # characters that make a line running text
_SENTENCE = 20  # or these, with a full stop
_ENDS = (".", "!", "?", "…", ":", "。", "！", "？", "।")
_CLOSING = f" {END_LINK}\"')”“»’"
_BEFORE_THE_END = 200  # characters of content before a heading can be the one over comments
_PERMALINK = re.compile(f"{LINK}\\s*[¶#§🔗⚓\u200b\uf0c1\uf127]?\\s*{END_LINK}")
_REFERENCE = re.compile(
    f"{SUPERSCRIPT}\\s*+(?:\\[?{LINK}[^{END_LINK}{END_SCRIPT}]*+{END_LINK}\\]?\\s*+|\\[\\d++\\])++{END_SCRIPT}"
)
_SCRIPTS = re.compile(f"([{SUPERSCRIPT}{SUBSCRIPT}])([^{SUPERSCRIPT}{SUBSCRIPT}{END_SCRIPT}]*+){END_SCRIPT}")
_ORDINAL = re.compile(r"(?i)(?:st|nd|rd|th|er|re|e|ers|ère|ème|ièm?e|nde?|o|a|os|as|º|ª|™|®|©|tm|sm|r|c|\*+|)$")
_EDIT = re.compile(
    f"\\s*\\[\\s*{LINK}[^{END_LINK}]{{1,40}}{END_LINK}(?:\\s*\\|\\s*{LINK}[^{END_LINK}]{{1,40}}{END_LINK})?\\s*\\]$"
)
_LONG_ROW = 320  # characters of two cells that are columns of a layout
_CODE = re.compile(f"{VERBATIM}(\\d+){VERBATIM}")


def lines_of(kept: list[bool], ranges: list[tuple[int, int]]) -> list[int]:
    """Numbers of the kept lines of some ranges."""
    return [line for start, end in ranges for line in range(start, end) if kept[line]]


def without_boilerplate(blocks: Blocks, lines: list[int], is_discussion: bool) -> list[int]:
    """Drops link lists, stock phrases, what follows an article, and headings with nothing left under them."""
    texts, plain, linked, kinds, rows = blocks.texts, blocks.plain, blocks.linked, blocks.kinds, blocks.rows
    total = sum([plain[line] for line in lines])
    before = 0
    kept: list[int] = []
    for line in lines:
        size, in_links = plain[line], linked[line]
        before += size
        is_heading = kinds[line] == HEADING
        if size + in_links < LONGEST_PHRASE and may_be_phrase(texts[line]):
            phrase = bare(texts[line]) if in_links else texts[line]
            is_late = is_heading and not is_discussion and before > max(_BEFORE_THE_END, total // 2)
            if is_late and ends_content(phrase):
                break
            if VERBATIM not in phrase and line not in rows and line - 1 not in rows and is_boilerplate(phrase):
                kept.append(_DROPPED)
                continue
        if in_links and not is_heading and _is_link_list(texts[line], size, in_links):
            kept.append(_DROPPED)
            continue
        kept.append(line)
    return _trimmed(blocks, _without_bare_headings(blocks, kept))


_DROPPED = -1


def _is_link_list(text: str, plain: int, linked: int) -> bool:
    """Whether a line is for finding one's way: mostly links, and not a sentence with one long link."""
    size = plain + linked
    if linked <= _LINK_LIST * size or VERBATIM in text:
        return False
    return size <= _LINKING_SENTENCE or not text.rstrip(_CLOSING).endswith(_ENDS)


def _without_bare_headings(blocks: Blocks, lines: list[int]) -> list[int]:
    """Drops headings whose whole section was dropped."""
    found: list[int] = []
    dropped = has_text = False
    for line in reversed(lines):
        if line == _DROPPED:
            dropped = True
            continue
        if blocks.kinds[line] == HEADING:
            if dropped and not has_text:
                continue
            dropped = has_text = False
        else:
            has_text = True
        found.append(line)
    found.reverse()
    return found


def _trimmed(blocks: Blocks, lines: list[int]) -> list[int]:
    """Drops what stands before the first line of running text, headings aside, and after the last: dates, names."""
    first = next((k for k, line in enumerate(lines) if _is_running(blocks, line)), None)
    if first is None:
        return lines
    last = next(k for k in range(len(lines) - 1, -1, -1) if _is_running(blocks, lines[k]))
    return [line for line in lines[:first] if blocks.kinds[line] == HEADING] + lines[first : last + 1]


def _is_running(blocks: Blocks, line: int) -> bool:
    """Whether a line says something: long enough, of a long paragraph, a sentence, an item, a row, code."""
    text, plain = blocks.texts[line], blocks.plain[line]
    if VERBATIM in text or "\t" in text:
        return True
    if blocks.linked[line] > plain or blocks.kinds[line] == HEADING:
        return False
    if plain >= _RUNNING or blocks.kinds[line] == ITEM:
        return True
    if plain >= _SENTENCE and text.rstrip(_CLOSING).endswith(_ENDS):
        return True
    paragraph, near = blocks.paragraphs[line], range(max(0, line - 8), min(len(blocks.texts), line + 9))
    return sum(blocks.plain[other] for other in near if blocks.paragraphs[other] == paragraph) >= 2 * _RUNNING


def bare(text: str) -> str:
    """Text without marks of links."""
    return text.replace(LINK, "").replace(END_LINK, "").strip()


def render(blocks: Blocks, lines: list[int], verbatim: list[str]) -> str:
    """Text of lines: an empty line before each paragraph, heading, list, table and verbatim block."""
    texts, paragraphs, kinds, rows = blocks.texts, blocks.paragraphs, blocks.kinds, blocks.rows
    parts: list[str] = []
    paragraph, text_before, line_before = -1, "", -1
    for line in lines:
        text = texts[line]
        if text == text_before:
            continue  # an image's description that repeats its caption
        if line_before in rows and line - 1 == line_before and len(text) + len(text_before) < _LONG_ROW:
            parts.append("\t")
        else:
            parts.append("\n" if paragraphs[line] == paragraph else "\n\n")
        if kinds[line] == HEADING:
            text = _EDIT.sub("", text)
        parts.append(text)
        line_before = line
        paragraph, text_before = paragraphs[line], text
    text = plain_text("".join(parts)).strip("\n")
    if VERBATIM in text:
        text = _CODE.sub(lambda found: _block(found, verbatim), text)
    return clean(text).strip("\n").rstrip()


def plain_text(text: str) -> str:
    """Text without marks of links, with sub- and superscripts as TeX has them, "&", "<" and ">" unescaped."""
    if LINK in text:
        text = _PERMALINK.sub("", _REFERENCE.sub("", text) if SUPERSCRIPT in text else text).replace(LINK, "")
    text = text.replace(END_LINK, "")
    if SUPERSCRIPT in text or SUBSCRIPT in text:
        text = _SCRIPTS.sub(_script, _SCRIPTS.sub(_script, text))
    while "  " in text:
        text = text.replace("  ", " ")
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") if "&" in text else text


def _script(found: re.Match) -> str:
    mark, inside = found.group(1), found.group(2).strip()
    if _ORDINAL.match(inside):
        return inside
    return f"{'^' if mark == SUPERSCRIPT else '_'}{{{inside}}}"


def _block(found: re.Match, verbatim: list[str]) -> str:
    number = int(found.group(1))
    return verbatim[number] if number < len(verbatim) else ""
