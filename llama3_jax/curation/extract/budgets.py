"""What a page may cost: bytes, tags and levels, never time, so that its text does not depend on a machine's load."""

import re

from llama3_jax.curation.extract.characters import CONTROLS
from llama3_jax.curation.extract.config import ExtractConfig
from llama3_jax.curation.extract.encoding import decode_html

# Tags that may nest: all but those without an end, those that close their like, and those whose text is not markup.
_NESTED = re.compile(
    r"<(/?)(?!(?:p|li|td|th|tr|dt|dd|tbody|thead|tfoot|option|br|hr|img|input|meta|link|area|base|col|wbr|source|param|embed"
    r"|track|script|style|noscript|title|textarea|html|head|body)[\s/>])[a-z][^\s/>]*+",
    re.I,
)
_LONG_TAG = re.compile(r"<([a-zA-Z][\w-]*+)([^<>]{8000,}+)>?")
_MOST_ATTRIBUTES = 500  # of one tag: the parser's time grows with their square


def within_budget(page: bytes | str, config: ExtractConfig) -> tuple[str, str]:
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
    source = content.translate(None, CONTROLS).decode("utf-8", "replace").removeprefix("\ufeff")
    return source.replace("\r\n", "\n").replace("\r", "\n") if "\r" in source else source, reason


def with_few_attributes(source: str) -> str:
    """The source, with the attributes gone of tags that have very many."""
    return _LONG_TAG.sub(_without_attributes, source)


def _without_attributes(tag: re.Match[str]) -> str:
    name, attributes = tag.groups()
    return tag.group() if len(attributes.split(None, _MOST_ATTRIBUTES)) <= _MOST_ATTRIBUTES else f"<{name}>"


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


def is_too_deep(source: str, max_depth: int) -> bool:
    """Whether blocks may be nested deeper than this. A tag that the page does not close counts until the end."""
    if source.count("<") <= 2 * max_depth and source.count("<") - source.count("</") <= max_depth:
        return False
    depth = deepest = 0
    for closing in _NESTED.findall(source):
        depth += -1 if closing else 1
        deepest = max(deepest, depth)
    return deepest > max_depth


def without_structure(source: str) -> str:
    """The source with a line end in the place of every tag that may nest."""
    return _NESTED.sub("<br ", source)
