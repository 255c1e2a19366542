"""The text of a web page: its content without boilerplate, formulas as TeX, code verbatim (Llama 3, 3.1.1).

In order: formulas and code that only the tree shows become plain markup (`structured`); inline tags go and verbatim
blocks are set aside (`markup`); the parser makes a tree of the rest; its blocks are read as flat lists (`blocks`), the
content is chosen (`choice`), and written as lines (`lines`).
"""

import html
import re

from selectolax.lexbor import LexborHTMLParser

from llama3_jax.curation.extract.blocks import Blocks, read_blocks
from llama3_jax.curation.extract.characters import CONTROLS, HEADING, VERBATIM, clean
from llama3_jax.curation.extract.choice import Choice, choose
from llama3_jax.curation.extract.config import ExtractConfig, Extracted
from llama3_jax.curation.extract.encoding import decode_html
from llama3_jax.curation.extract.lines import lines_of, plain_text, render, without_boilerplate
from llama3_jax.curation.extract.markup import simplify
from llama3_jax.curation.extract.structured import has_structure, plain_markup

_WITHOUT_EVENTS = 1  # lexbor's own side effects on the tree, which nothing here needs
_TITLE = re.compile(r"<title\b[^>]*+>([^<]*+)</title", re.I)
# Tags that may nest: all but those without an end, those that close their like, and those whose text is not markup.
_NESTED = re.compile(
    r"<(/?)(?!(?:p|li|td|th|tr|dt|dd|tbody|thead|tfoot|option|br|hr|img|input|meta|link|area|base|col|wbr|source|param|embed"
    r"|track|script|style|noscript|title|textarea|html|head|body)[\s/>])[a-z][^\s/>]*+",
    re.I,
)


def extract(page: bytes | str, config: ExtractConfig = ExtractConfig()) -> Extracted:
    """The text and title of an HTML page, given as characters or as bytes in any encoding (see `decode_html`).

    The result depends on the page and the budgets only. Never raises: a page without text has a `reason` instead.
    """
    source, reason = _within_budget(page, config)
    counters = {"characters": len(source)}
    if not source.strip():
        return Extracted(text="", title="", reason="empty", counters=counters)
    title = _title_of(source)
    blocks, verbatim, is_deep = _parsed(source, config)
    if not is_deep and has_structure(source, blocks) and not _is_too_deep(source, config.max_depth):
        source, replaced = plain_markup(source, config)
        counters.update(replaced)
        blocks, verbatim, is_deep = _parsed(source, config)
    reason = reason or ("nesting" if is_deep else "")
    text = _content(blocks, verbatim, title)
    counters.update(lines=len(blocks.texts), verbatim=len(verbatim), text_characters=len(text))
    if len(text) < config.min_characters:
        return Extracted(text="", title=title, reason=reason or "no_text", counters=counters)
    return Extracted(text=text, title=title, reason=reason, counters=counters)


def _parsed(source: str, config: ExtractConfig) -> tuple[Blocks, list[str], bool]:
    """(Lines and containers, verbatim blocks, whether the page was too deep and was read without its structure)."""
    source, verbatim = simplify(source, config)
    is_deep = _is_too_deep(source, config.max_depth)
    if is_deep:
        source = _NESTED.sub("<br ", source)
    tree = LexborHTMLParser(source, options=_WITHOUT_EVENTS, scripting=True)
    return read_blocks(tree.html or "", verbatim), verbatim, is_deep


def _within_budget(page: bytes | str, config: ExtractConfig) -> tuple[str, str]:
    """(Characters without controls, "" or the budget that cut them)."""
    reason = ""
    if len(page) > config.max_bytes:
        page, reason = page[: config.max_bytes], "bytes"
    content = page if isinstance(page, bytes) else page.encode("utf-8", "replace")
    if isinstance(page, bytes) and not _is_utf8(page):
        content = decode_html(page).encode("utf-8", "replace")
    if len(content) > config.max_bytes:
        content, reason = content[: config.max_bytes], "bytes"
    if content.count(b"<") > config.max_tags:
        content, reason = _first_tags(content, config.max_tags), "tags"
    if len(content) > _LONG_TAG and max(map(len, content.split(b"<"))) > _LONG_TAG:
        content = _ANY_LONG_TAG.sub(_with_few_attributes, content)
    source = content.translate(None, CONTROLS).decode("utf-8", "replace").removeprefix("\ufeff")
    return source.replace("\r\n", "\n").replace("\r", "\n") if "\r" in source else source, reason


_LONG_TAG = 8_000  # bytes from which on a tag's attributes are counted
_ANY_LONG_TAG = re.compile(rb"<([a-zA-Z][\w-]*+)([^<>]{8000,}+)>?")
_MOST_ATTRIBUTES = 500  # of one tag: the parser's time grows with their square


def _with_few_attributes(tag: re.Match[bytes]) -> bytes:
    name, attributes = tag.groups()
    return tag.group() if len(attributes.split(None, _MOST_ATTRIBUTES)) <= _MOST_ATTRIBUTES else b"<" + name + b">"


def _is_utf8(page: bytes) -> bool:
    if b"\0" in page[:64] or page[:1] in (b"\xff", b"\xfe") or b"\x1b$" in page:
        return False
    try:
        page.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


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
    if source.count("<") <= 2 * max_depth and source.count("<") - source.count("</") <= max_depth:
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
    of_lines = [_words(blocks.texts[line]) for line in lines[:5]]
    return [line for line in found if _words(blocks.texts[line]) not in of_lines]


_FEW_HEADINGS = 3


def _words(text: str) -> str:
    return " ".join(clean(plain_text(text)).split()).lower()


def _size_in(heading: str, title: str) -> int:
    """Characters of a heading if the page's title has it."""
    words = _words(heading)
    return len(words) if len(words) > 3 and words in title.lower() else 0


_LITTLE = 100  # characters outside of links
