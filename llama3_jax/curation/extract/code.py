"""Program text from markup: one line for each line that the page shows, its own spaces, no line numbers."""

import html
import re

GUTTER = (
    r"gutters?|linenos?|line-?num(?:ber)?s?|lnt?|blob-num|lines-num|crayon-nums?|hljs-ln-numbers|rouge-gutter|linenr"
    r"|linenumbers?|line-numbers?-rows|CodeMirror-(?:linenumber|gutter\S*)|diff-line-num|react-line-number|nums"
    r"|code-line-number|line_numbers?|lineno-\S+|ec-line-num|copy(?:-?(?:btn|button|code|to-clipboard))?|clipboard\S*"
)
_CLASS = rf"""class="?(?:[^">]*?[\s_])??(?:{GUTTER})(?=[\s">])"""
_GUTTER_ELEMENT = re.compile(
    rf"<(span|a|em|b|i|small|div|button|label)\b[^>]*?\b(?:{_CLASS}|data-nosnippet|data-linenos?\b)[^>]*+>"
    r"(?:[^<]++|<(?!/\1\b|\1\b))*+</\1>"
)
_GUTTER_CELL = re.compile(
    rf"<(t[dh])\b[^>]*?\b(?:{_CLASS}[^>]*+>(?:[^<]++|<(?!/\1\b|\1\b))*+|data-line-num[^>]*+>(?:[\d\s]++|<(?!/\1\b)[^>]*+>)*+)"
    r"</\1>"
)
_NUMBER_CELL = re.compile(
    r"(<tr\b[^>]*+>\s*+)<t[dh]\b[^>]*+>(?:\s*+<[^/>][^>]*+>)*+\s*+(\d{1,9})\s*+(?:</(?!t[dh])[^>]*+>\s*+)*+</t[dh]>"
)
_CLASSES = re.compile(r'class="?([^">]*+)')
_GUTTER_CLASS = re.compile(rf"(?:^|[\s_])(?:{GUTTER})(?:$|\s)")
_BUTTON = re.compile(r"<button\b(?:[^<]++|<(?!/button))*+</button>")
_NUMBERS = re.compile(r"\s*+\d+(?:\s++\d+)*+\s*+")
_BREAK = re.compile(r"<br\b[^>]*+>[\r\n]*+")
_LINE = r"(?:div|p|li|tr|dd)"
_LINE_BLOCK = re.compile(rf"</{_LINE}>")
_STRUCTURE = r"(?:table|tbody|thead|tfoot|ol|ul|colgroup|col|td|th|div|p|li|tr|dl|dd|code|pre)"
_INDENT_BEFORE = re.compile(rf"[ \t]*[\r\n]\s*+(?=</?{_STRUCTURE}\b)")
_INDENT_AFTER = re.compile(rf"(?<=>)[ \t]*[\r\n]\s*+(?=<{_STRUCTURE}\b)")
_BREAK_AT_END = re.compile(rf"<br\b[^>]*+>\s*+(?=</{_LINE}>)")
_OPENINGS = re.compile(
    rf"(?:<{_LINE}\b[^>]*+>(?:\s*+</?(?:td|th|table|tbody|thead|ol|ul|dl|code|pre|span)\b[^>]*+>)*+)+"
)
_CLOSINGS = re.compile(rf"(?:</{_LINE}>)++(?=[^<\s])")
_LINE_SPAN = re.compile(
    r"(?<!^)<(?:span|code)\b[^>]*?(?:\bclass=\"(?:[^\"]*\s)?(?:line|code-line|token-line|view-line|hljs-line)[\s\"]"
    r"|display:\s*block)[^>]*+>"
)
_BLANK = re.compile("(?m)^[ \xa0]+$")
_TAG = re.compile(r"<[^>]*+>")
_MOST_LINES = 200_000


def is_gutter(text: str) -> bool:
    """Whether a verbatim block is the column of line numbers beside another: numbers only, counting up by one."""
    if not _NUMBERS.fullmatch(text):
        return False
    numbers = [int(number[:9]) for number in text.split()[:_MOST_LINES]]
    return len(numbers) > 1 and all(after == before + 1 for before, after in zip(numbers, numbers[1:], strict=False))


def strip_gutter(inner: str) -> str:
    """Markup of a verbatim block without line numbers and copy buttons."""
    if "<button" in inner:
        inner = _BUTTON.sub("", inner)
    if "data-" in inner or any(map(_GUTTER_CLASS.search, set(_CLASSES.findall(inner)))):
        inner = _GUTTER_CELL.sub("", _GUTTER_ELEMENT.sub("", inner))
    return inner


def without_number_column(table: str) -> str | None:
    """Markup of a table without its first column, if that counts its rows; None for another."""
    numbers = [int(number) for _, number in _NUMBER_CELL.findall(table)]
    counts = len(numbers) > 1 and all(after == before + 1 for before, after in zip(numbers, numbers[1:], strict=False))
    return _NUMBER_CELL.sub(r"\1", table) if counts else None


def verbatim_text(inner: str) -> str:
    """Text of the markup inside a verbatim block: lines end at line ends, at `<br>`, at the block or row of a line."""
    if "<" in inner:
        inner = strip_gutter(inner)
        if _LINE_BLOCK.search(inner):
            inner = _lines_of_blocks(inner)
        if "<br" in inner:
            inner = _BREAK.sub("\n", inner)
        if "\n" not in inner:
            inner = _LINE_SPAN.sub("\n", inner)
        inner = _TAG.sub("", inner)
    if "&" in inner:
        inner = unescaped(inner)
    if "\xa0" in inner:
        inner = _BLANK.sub("", inner).replace("\xa0", " ")
    return inner.removeprefix("\n").rstrip()


_COMMON = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#39;", "'"), ("&nbsp;", "\xa0"), ("&amp;", "&"))


def unescaped(text: str) -> str:
    """Text with its character references resolved; the common ones alone are resolved faster."""
    if sum(text.count(reference) for reference, _ in _COMMON) != text.count("&"):
        return html.unescape(text)
    for reference, sign in _COMMON:
        text = text.replace(reference, sign)
    return text


def _lines_of_blocks(inner: str) -> str:
    """Starts a line at each block or row; the page's own indentation between them is not text."""
    inner = _INDENT_AFTER.sub("", _INDENT_BEFORE.sub("", inner))
    inner = _BREAK_AT_END.sub("", inner)
    return _CLOSINGS.sub("\n", _OPENINGS.sub("\n", inner)).lstrip("\n")
