"""The text of a web page: its content without boilerplate, formulas as TeX, code verbatim (Llama 3, 3.1.1).

In order: the page is cut at its tags (`cutting`) and read as flat lists of lines and containers (`tags`, `blocks`); the
content is chosen (`choice`) and written as lines (`lines`). Where formulas and code show in the tree only, they become
plain markup first (`structured`). A page that is not written plainly goes through a parser, without its inline tags
(`markup`).
"""

import html
import re
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser

from llama3_jax.curation.extract.blocks import Blocks, blocks_of
from llama3_jax.curation.extract.budgets import is_too_deep, with_few_attributes, within_budget, without_structure
from llama3_jax.curation.extract.characters import HEADING, VERBATIM, clean
from llama3_jax.curation.extract.choice import Choice, choose
from llama3_jax.curation.extract.config import ExtractConfig, Extracted
from llama3_jax.curation.extract.cutting import RAW, NotPlain, cut, cut_parsed
from llama3_jax.curation.extract.hints import has_structure
from llama3_jax.curation.extract.lines import lines_of, plain_text, render, without_boilerplate
from llama3_jax.curation.extract.markup import simplify
from llama3_jax.curation.extract.structured import plain_markup

_WITHOUT_EVENTS = 1  # lexbor's own side effects on the tree, which nothing here needs
_TITLE = re.compile(r"<title\b[^>]*+>([^<]*+)</title", re.I)


def extract(page: bytes | str, config: ExtractConfig = ExtractConfig()) -> Extracted:
    """The text and title of an HTML page, given as characters or as bytes in any encoding (see `decode_html`).

    The result depends on the page and the budgets only. Never raises: a page without text has a `reason` instead.
    """
    source, reason = within_budget(page, config)
    counters = {"characters": len(source)}
    if not source.strip():
        return Extracted(text="", title="", reason="empty", counters=counters)
    title = _title_of(source)
    found = _read(source, config)
    if found.has_structure and not found.is_deep and not is_too_deep(source, config.max_depth):
        markup, replaced = plain_markup(source, config)
        counters.update(replaced)
        found = found if markup == source else _read(markup, config)
    reason = reason or ("nesting" if found.is_deep else "")
    text = _content(found.blocks, found.verbatim, title)
    counters.update(lines=len(found.blocks.texts), verbatim=len(found.verbatim), text_characters=len(text))
    if len(text) < config.min_characters:
        return Extracted(text="", title=title, reason=reason or "no_text", counters=counters)
    return Extracted(text=text, title=title, reason=reason, counters=counters)


class _Page(NamedTuple):
    """A page's blocks and verbatim blocks; whether it was too deep and was read without its structure."""

    blocks: Blocks
    verbatim: list[str]
    has_structure: bool
    is_deep: bool = False


def _read(source: str, config: ExtractConfig) -> _Page:
    """A page as blocks: cut at its tags if it is written plainly, by the parser otherwise."""
    try:
        parts, tags, verbatim = cut(source, config)
        blocks = blocks_of(parts, verbatim, config.max_depth)
    except NotPlain:
        return _parsed(source, config)
    return _Page(blocks, verbatim, has_structure(tags, blocks.meaning.names, blocks.meaning.verdicts))


def _parsed(source: str, config: ExtractConfig) -> _Page:
    simple, verbatim = simplify(with_few_attributes(source), config)
    is_deep = is_too_deep(simple, config.max_depth)
    if is_deep:
        simple = without_structure(simple)
    tree = LexborHTMLParser(simple, options=_WITHOUT_EVENTS, scripting=True)
    written = tree.html or ""
    blocks = blocks_of(cut_parsed(written), verbatim)
    names = blocks.meaning.names | {name for name in RAW if f"<{name}" in written}
    return _Page(blocks, verbatim, has_structure(source, names, blocks.meaning.verdicts), is_deep)


def _title_of(source: str) -> str:
    found = _TITLE.search(source)
    return " ".join(clean(html.unescape(found.group(1))).split()) if found else ""


def _content(blocks: Blocks, verbatim: list[str], title: str) -> str:
    """The text of the chosen content; where that says next to nothing, of more and more of the page."""
    choice = choose(blocks)
    chosen = lines_of(choice.kept, choice.ranges)
    lines = without_boilerplate(blocks, chosen, choice.is_discussion)
    if _plain(blocks, lines) < _LITTLE:
        kept = [line for line, keep in enumerate(choice.kept) if keep]
        everything = list(range(len(blocks.texts)))
        tries = (without_boilerplate(blocks, kept, choice.is_discussion), chosen, kept, everything)
        enough = (found for found in tries if _plain(blocks, found) >= _LITTLE)
        lines = next(enough, None) or max((lines, *tries), key=lambda found: _plain(blocks, found))
    return render(blocks, _heading(blocks, choice, lines, title) + lines, verbatim)


def _plain(blocks: Blocks, lines: list[int]) -> int:
    """Characters outside of links; any code is enough."""
    has_code = any(VERBATIM in blocks.texts[line] for line in lines)
    return sum(blocks.plain[line] for line in lines) + _LITTLE * has_code


def _heading(blocks: Blocks, choice: Choice, lines: list[int], title: str) -> list[int]:
    """The page's heading where it stands before the chosen content: the one its title repeats, or the only one kept."""
    if not lines:
        return []
    before = [line for line in range(lines[0]) if blocks.kinds[line] == HEADING]
    sizes = {line: _size_in(blocks.texts[line], title) for line in before}
    kept = [line for line in before if choice.kept[line]]
    found: list[int] = []
    if any(sizes[line] for line in kept) or 0 < len(kept) <= _FEW_HEADINGS:
        best = max(kept, key=lambda line: (sizes[line], -line))
        found = [line for line in kept if line >= best][:2]  # with the one under it
    elif before:
        best = max(before, key=lambda line: (sizes[line], -line))
        found = [best] if 3 * sizes[best] >= len(title) and sizes[best] else []
    of_lines = [_words(blocks.texts[line]) for line in lines[:5]] if found else []
    return [line for line in found if _words(blocks.texts[line]) not in of_lines]


_FEW_HEADINGS = 3


def _words(text: str) -> str:
    return " ".join(clean(plain_text(text)).split()).lower()


def _size_in(heading: str, title: str) -> int:
    """Characters of a heading if the page's title has it."""
    words = _words(heading)
    return len(words) if len(words) > 3 and words in title.lower() else 0


_LITTLE = 100  # characters outside of links
