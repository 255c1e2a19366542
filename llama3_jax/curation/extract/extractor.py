"""The text of a web page: its content without boilerplate, formulas as TeX, code verbatim (Llama 3, 3.1.1).

In order: formulas and code that only the tree shows become plain markup (`structured`); inline tags go and verbatim
blocks are set aside (`markup`); the parser makes a tree of the rest; its blocks are read as flat lists (`blocks`), the
content is chosen (`choice`), and written as lines (`lines`).
"""

import html
import re

from selectolax.lexbor import LexborHTMLParser

from llama3_jax.curation.extract.blocks import Blocks, read_blocks
from llama3_jax.curation.extract.characters import CONTROLS, clean
from llama3_jax.curation.extract.choice import choose
from llama3_jax.curation.extract.config import ExtractConfig, Extracted
from llama3_jax.curation.extract.encoding import decode_html
from llama3_jax.curation.extract.lines import Line, lines_of, plain_text, render, without_boilerplate
from llama3_jax.curation.extract.markup import simplify
from llama3_jax.curation.extract.structured import plain_markup

_WITHOUT_EVENTS = 1  # lexbor's own side effects on the tree, which nothing here needs
_TITLE = re.compile(r"<title\b[^>]*+>([^<]*+)</title", re.I)
_NESTED = re.compile(r"<(/?)(?:div|section|article|main|ul|ol|dl|li|dd|dt|form|blockquote|center|fieldset|details|aside|nav|header|footer|figure|menu|dir|address|hgroup|summary|p|h[1-6]|table|tr|td|th|tbody|pre|button)\b")
_HEADING_TAGS = ("h1", "h2")


def extract(page: bytes | str, config: ExtractConfig = ExtractConfig()) -> Extracted:
    """The text and title of an HTML page, given as characters or as bytes in any encoding (see `decode_html`).

    The result depends on the page and the budgets only. Never raises: a page without text has a `reason` instead.
    """
    source, reason = _within_budget(page, config)
    counters = {"characters": len(source)}
    if not source.strip():
        return Extracted(text="", title="", reason="empty", counters=counters)
    title = _title_of(source)
    source, replaced = plain_markup(source, config)
    counters.update(replaced)
    source, verbatim = simplify(source, config)
    if _is_too_deep(source, config.max_depth):
        source, reason = _NESTED.sub("<br ", source), reason or "nesting"
    tree = LexborHTMLParser(source, options=_WITHOUT_EVENTS, scripting=True)
    blocks = read_blocks(tree.html or "", verbatim)
    text = _content(blocks, verbatim, title)
    counters.update(blocks=len(blocks.tags), verbatim=len(verbatim), text_characters=len(text))
    if len(text) < config.min_characters:
        return Extracted(text="", title=title, reason=reason or "no_text", counters=counters)
    return Extracted(text=text, title=title, reason=reason, counters=counters)


def _within_budget(page: bytes | str, config: ExtractConfig) -> tuple[str, str]:
    """(Characters without controls, "" or the budget that cut them)."""
    reason = ""
    if len(page) > config.max_bytes:
        page, reason = page[: config.max_bytes], "bytes"
    if isinstance(page, bytes):
        page = decode_html(page)
    content = page.encode("utf-8", "replace").translate(None, CONTROLS)
    if len(content) > config.max_bytes:
        content, reason = content[: config.max_bytes], "bytes"
    if content.count(b"<") > config.max_tags:
        content, reason = _first_tags(content, config.max_tags), "tags"
    return content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n"), reason


def _first_tags(content: bytes, count: int) -> bytes:
    """Content up to its tag number `count`."""
    end = 0
    for found in re.finditer(b"<", content):
        count -= 1
        end = found.start()
        if count < 0:
            break
    return content[:end]


def _is_too_deep(source: str, max_depth: int) -> bool:
    """Whether blocks may be nested deeper than this. A tag that the page does not close counts until the end."""
    if source.count("<") <= max_depth:
        return False
    depth = deepest = 0
    for closing in _NESTED.findall(source):
        depth += -1 if closing else 1
        deepest = max(deepest, depth)
    return deepest > max_depth


def _title_of(source: str) -> str:
    found = _TITLE.search(source)
    return " ".join(clean(html.unescape(found.group(1))).split()) if found else ""


def _content(blocks: Blocks, verbatim: list[str], title: str) -> str:
    """The text of the chosen content; where that says next to nothing, of more and more of the page."""
    choice = choose(blocks)
    chosen = lines_of(blocks, choice.kept, choice.ranges)
    lines = without_boilerplate(chosen)
    if _plain(lines) < _LITTLE:
        everything = [(0, len(blocks.texts))]
        kept = lines_of(blocks, choice.kept, everything)
        tries = (without_boilerplate(kept), chosen, kept, lines_of(blocks, [True] * len(blocks.texts), everything))
        lines = next((found for found in tries if _plain(found) >= _LITTLE), max((lines, *tries), key=_plain))
    heading = _heading(blocks, choice.kept, choice.ranges, lines, title)
    return render(heading + lines, verbatim)


def _plain(lines: list[Line]) -> int:
    return sum(line.plain for line in lines)


def _heading(
    blocks: Blocks, kept: list[bool], ranges: list[tuple[int, int]], lines: list[Line], title: str
) -> list[Line]:
    """The page's heading where it stands before the chosen content: the one the title repeats, or the only h1 there is."""
    first = ranges[0][0] if ranges else 0
    found: list[tuple[int, int, int]] = []
    only: list[int] = []
    for block, tag in enumerate(blocks.tags):
        if blocks.starts[block] >= blocks.ends[block] or tag[:2] not in _HEADING_TAGS:
            continue
        size = _size_in(blocks.texts[blocks.starts[block]], title)
        found.append((size, -block, block))
        if tag[:2] == "h1" and kept[blocks.starts[block]]:
            only.append(block)
    size, _, block = max(found, default=(0, 0, 0))
    if 3 * size < len(title) or not size:
        if len(only) != 1:
            return []
        block = only[0]
    start = blocks.starts[block]
    if start >= first or not lines:
        return []
    heading = lines_of(blocks, [True] * len(blocks.texts), [(start, blocks.ends[block])])[:1]
    if any(_words(line.text) == _words(heading[0].text) for line in lines[:5]):
        return []
    heading[0].is_heading = True
    return heading


def _words(text: str) -> str:
    return " ".join(clean(plain_text(text)).split()).lower()


def _size_in(heading: str, title: str) -> int:
    """Characters of a heading if the page's title has it."""
    words = _words(heading)
    return len(words) if len(words) > 3 and words in title.lower() else 0


_LITTLE = 100  # characters outside of links
