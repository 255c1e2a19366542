"""Formulas and program text that only the tree shows: replaced, before anything else, by plain markup.

Runs on the few pages whose source hints at them. KaTeX and MathJax put a formula on a page up to three times (what is
seen, MathML for readers, the TeX it came from); each is replaced once, from the best of them.
"""

import html
import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from llama3_jax.curation.extract.code import verbatim_text, without_number_column
from llama3_jax.curation.extract.config import ExtractConfig
from llama3_jax.curation.extract.mathml import to_tex
from llama3_jax.curation.extract.tex_sources import TEX_ATTRIBUTES, TEX_SIGN, wrap

_OLD_PRE = re.compile(r"<(/?)listing\b", re.I)
_XMP = re.compile(r"<xmp\b[^>]*+>((?:[^<]++|<(?!/xmp\b))*+)</xmp\s*+>", re.I)
# In order: outer forms before those they contain.
_MATH = (
    ".katex-display",
    ".katex",
    ".MathJax_Display,.MathJax_SVG_Display,.MJXc-display",
    ".MathJax,.MathJax_SVG,.MathJax_CHTML,.mjx-chtml,mjx-container",
    ".mwe-math-element",
    ",".join(f"[{name}]" for name in TEX_ATTRIBUTES),
    "math",
    "d-math,tex-math",
    "[role=math],svg[aria-label]",
)
_SCRIPTS = 'script[type^="math/"]'
_PREFIX = re.compile(r"(</?)(?:mml|m|math):(?=[a-z])")
_DISPLAYED = re.compile(r"display(?:ed)?\b|\bblock\b|Display", re.I)
_FRAME = re.compile(r"-Frame$")
_GUTTER_CELLS = (
    "td[data-line-number],td[data-line-num],td.blob-num,td.linenos,td.lineno,td.gutter,td.line-numbers,td.line-number,"
    "td.lntd,td.rouge-gutter,td.hljs-ln-numbers,td.crayon-nums,td.lines-num,td.linenumbers,td.linenumber,td.num,"
    "th.lineno,th.line-number,td.diff-line-num,td.line_numbers,td.ln,td.nums"
)
_LINES = (
    ".CodeMirror-code,.view-lines,.ace_text-layer,.cm-content,ol.linenums,.dp-highlighter,.syntaxhighlighter,.crayon-pre,"
    ".react-code-lines,[class*=geshi],div.code,div.codeblock,div.code-block,div.source,div.sourcecode,div.sourceCode,"
    "td.blob-code"
)
_EDITORS = ".CodeMirror-code"  # a `<pre>` a line
_CODE_TABLES = ",".join(
    f'table[class*="{name}"]' for name in ("code", "source", "blob", "highlight", "listing", "snippet", "file", "diff")
)
_WIDE = ",".join(
    f'div[class*="{name}"]' for name in ("snippet", "codeblock", "code-", "sourcecode", "highlight", "code_", "-code")
)
_LINE_OF_CODE = re.compile(r'class="[^"]*\b(?:line|code)|<code')
_STYLED = (
    '[style*="white-space:pre"],[style*="white-space: pre"],div[style*="monospace"],div[style*="Courier"],'
    'p[style*="monospace"],p[style*="Courier"],blockquote[style*="monospace"],blockquote[style*="Courier"]'
)
_SEVERAL_LINES = re.compile(r"<br\b|</(?:div|p|li|tr)>\s*<(?:div|p|li|tr)\b|\n[^\n]*\S[^\n]*\n")
_NEAREST_TABLE = 8  # levels above a cell
_LEAST_TYPED = 20  # characters of a textarea that shows something, rather than waits for it


def plain_markup(source: str, config: ExtractConfig) -> tuple[str, dict[str, int]]:
    """The source with its formulas as TeX and its code as `<pre>`, and how many of each were replaced."""
    source = _XMP.sub(lambda raw: f"<pre>{html.escape(raw.group(1), quote=False)}</pre>", source)
    source = _OLD_PRE.sub(r"<\1pre", _PREFIX.sub(r"\1", source))
    tree = LexborHTMLParser(source)
    counters = {"formulas": _replace_formulas(tree, config), "code_blocks": _replace_code(tree)}
    return (tree.html or "") if any(counters.values()) else source, counters


def _replace_formulas(tree: LexborHTMLParser, config: ExtractConfig) -> int:
    scripts = tree.css(_SCRIPTS)
    of_scripts = {script.attributes.get("id") for script in scripts} - {None}
    for preview in tree.css(".MathJax_Preview") if scripts else ():
        preview.decompose()
    count = 0
    for script in scripts:
        kind = script.attributes.get("type") or ""
        written = script.text()
        tex = _tex_of_source(written) if "mml" in kind else written
        count += _put(tree, script, tex, "display" in kind, config)
    for selector in _MATH:
        for node in tree.css(selector):
            if (_FRAME.sub("", node.attributes.get("id") or "")) in of_scripts or _shows_script(node, of_scripts):
                node.decompose()
                continue
            found = _tex_of(node)
            if found is not None:
                count += _put(tree, node, *found, config)
    return count


def _fragment(markup: str) -> LexborNode | None:
    return LexborHTMLParser(markup).css_first("math") or LexborHTMLParser(markup).body


def _tex_of_source(mathml: str) -> str:
    math = _fragment(mathml)
    return to_tex(math) if math is not None else ""


def _shows_script(node: LexborNode, of_scripts: set) -> bool:
    """Whether a frame of MathJax 2 shows a formula whose script was already replaced."""
    if not of_scripts:
        return False
    inner = node.css_first('[id$="-Frame"]')
    return inner is not None and _FRAME.sub("", inner.attributes.get("id") or "") in of_scripts


def _tex_of(node: LexborNode) -> tuple[str, bool] | None:
    """(TeX, whether displayed) of an element that shows a formula, from its best source; None where there is none."""
    own = node.attributes
    classes = own.get("class") or ""
    display = own.get("display") in ("block", "true") or _DISPLAYED.search(classes) is not None
    math = node if node.tag == "math" else node.css_first("math")
    if math is not None:
        display = display or math.attributes.get("display") == "block"
        for annotation in math.css("annotation"):
            if "tex" in (annotation.attributes.get("encoding") or "").lower() and annotation.text().strip():
                return annotation.text(), display
        if math.attributes.get("alttext"):
            return math.attributes["alttext"] or "", display
    for holder in (node, node.css_first("[data-latex],[data-tex]")):
        if holder is None:
            continue
        for name in TEX_ATTRIBUTES:
            if holder.attributes.get(name):
                return holder.attributes[name] or "", display
    image = node.css_first("img[alt]")
    if image is not None and image.attributes.get("alt"):
        return image.attributes["alt"] or "", display or "display" in (image.attributes.get("class") or "")
    if math is None and own.get("data-mathml"):
        math = _fragment(own["data-mathml"] or "")
    if math is not None:
        tex = to_tex(math)
        return (tex, display) if tex else None
    if node.tag in ("d-math", "tex-math"):
        return node.text(), "block" in own
    label = own.get("aria-label") or ""
    return (label, display) if (own.get("role") == "math" or "\\" in label) and TEX_SIGN.search(label) else None


def _put(tree: LexborHTMLParser, node: LexborNode, tex: str, display: bool, config: ExtractConfig) -> int:
    """Puts a formula in a node's place; 1 if there was one."""
    written = wrap(tex, display, config)
    if not written:
        return 0
    if written.startswith(config.display_math[0]) and config.display_math != config.inline_math:
        block = tree.create_node("div")
        block.insert_child(written)
        node.replace_with(block)
    else:
        node.replace_with(written)
    return 1


def _replace_code(tree: LexborHTMLParser) -> int:
    count = 0
    tables = {table.mem_id: table for table in map(_table_of, tree.css(_GUTTER_CELLS)) if table is not None}
    for table in tables.values():
        inner = table.inner_html or ""
        count += _put_code(tree, table, verbatim_text(without_number_column(inner) or inner))
    for area in tree.css("textarea"):
        if len(area.text().strip()) >= _LEAST_TYPED:
            count += _put_code(tree, area, area.text().rstrip())
    for table in tree.css(_CODE_TABLES):
        inner = without_number_column(table.inner_html or "")
        if inner is not None:
            count += _put_code(tree, table, verbatim_text(inner))
    for selector in (_EDITORS, _LINES, _STYLED, _WIDE):
        for node in tree.css(selector):
            inner = node.inner_html or ""
            if node.tag == "pre" or ("<pre" in inner and selector != _EDITORS) or not _SEVERAL_LINES.search(inner):
                continue
            if selector != _WIDE or _LINE_OF_CODE.search(inner):
                count += _put_code(tree, node, verbatim_text(inner))
    return count


def _table_of(cell: LexborNode) -> LexborNode | None:
    node = cell.parent
    for _ in range(_NEAREST_TABLE):
        if node is None or node.tag == "table":
            return node
        node = node.parent
    return None


def _put_code(tree: LexborHTMLParser, node: LexborNode, text: str) -> int:
    """Puts a verbatim block in a node's place; 1 if there was text."""
    if not text.strip():
        return 0
    block = tree.create_node("pre")
    block.insert_child("\n" + text)
    node.replace_with(block)
    return 1
