"""MathML to TeX, for formulas whose page keeps no TeX of them: presentation elements of MathML Core, by one table."""

import re

from selectolax.lexbor import LexborNode

_DEEPEST = 60  # levels of a formula; below that its text is taken as it is
_COMMANDS = {
    "∑": "\\sum", "∏": "\\prod", "∐": "\\coprod", "∫": "\\int", "∬": "\\iint", "∭": "\\iiint", "∮": "\\oint",
    "⋃": "\\bigcup", "⋂": "\\bigcap", "⋁": "\\bigvee", "⋀": "\\bigwedge", "⨁": "\\bigoplus", "⨂": "\\bigotimes",
    "√": "\\surd", "∞": "\\infty", "∂": "\\partial", "∇": "\\nabla", "±": "\\pm", "∓": "\\mp", "×": "\\times",
    "÷": "\\div", "⋅": "\\cdot", "·": "\\cdot", "∘": "\\circ", "∗": "*", "⋆": "\\star", "⊕": "\\oplus",
    "⊗": "\\otimes", "⊖": "\\ominus", "⊙": "\\odot", "≤": "\\leq", "≥": "\\geq", "≪": "\\ll", "≫": "\\gg",
    "≠": "\\neq", "≈": "\\approx", "≡": "\\equiv", "∼": "\\sim", "≃": "\\simeq", "≅": "\\cong", "∝": "\\propto",
    "≔": ":=", "∈": "\\in", "∉": "\\notin", "∋": "\\ni", "⊂": "\\subset", "⊃": "\\supset", "⊆": "\\subseteq",
    "⊇": "\\supseteq", "∪": "\\cup", "∩": "\\cap", "∖": "\\setminus", "∅": "\\emptyset", "∧": "\\wedge",
    "∨": "\\vee", "¬": "\\neg", "∀": "\\forall", "∃": "\\exists", "⊢": "\\vdash", "⊨": "\\models", "⊥": "\\perp",
    "∥": "\\parallel", "∣": "\\mid", "∠": "\\angle", "→": "\\to", "←": "\\leftarrow", "↔": "\\leftrightarrow",
    "⇒": "\\Rightarrow", "⇐": "\\Leftarrow", "⇔": "\\Leftrightarrow", "↦": "\\mapsto", "⟶": "\\longrightarrow",
    "⟹": "\\Longrightarrow", "⟺": "\\iff", "↑": "\\uparrow", "↓": "\\downarrow", "…": "\\ldots", "⋯": "\\cdots",
    "⋮": "\\vdots", "⋱": "\\ddots", "ℓ": "\\ell", "ℏ": "\\hbar", "ℜ": "\\Re", "ℑ": "\\Im", "ℵ": "\\aleph",
    "′": "'", "″": "''", "‴": "'''", "−": "-", "⟨": "\\langle", "⟩": "\\rangle", "⌊": "\\lfloor", "⌋": "\\rfloor",
    "⌈": "\\lceil", "⌉": "\\rceil", "‖": "\\|", "ℝ": "\\mathbb{R}", "ℂ": "\\mathbb{C}", "ℕ": "\\mathbb{N}",
    "ℤ": "\\mathbb{Z}", "ℚ": "\\mathbb{Q}", "ℙ": "\\mathbb{P}", "α": "\\alpha", "β": "\\beta", "γ": "\\gamma",
    "δ": "\\delta", "ϵ": "\\epsilon", "ε": "\\varepsilon", "ζ": "\\zeta", "η": "\\eta", "θ": "\\theta",
    "ϑ": "\\vartheta", "ι": "\\iota", "κ": "\\kappa", "λ": "\\lambda", "μ": "\\mu", "ν": "\\nu", "ξ": "\\xi",
    "π": "\\pi", "ϖ": "\\varpi", "ρ": "\\rho", "ϱ": "\\varrho", "σ": "\\sigma", "ς": "\\varsigma", "τ": "\\tau",
    "υ": "\\upsilon", "ϕ": "\\phi", "φ": "\\varphi", "χ": "\\chi", "ψ": "\\psi", "ω": "\\omega", "Γ": "\\Gamma",
    "Δ": "\\Delta", "Θ": "\\Theta", "Λ": "\\Lambda", "Ξ": "\\Xi", "Π": "\\Pi", "Σ": "\\Sigma", "Υ": "\\Upsilon",
    "Φ": "\\Phi", "Ψ": "\\Psi", "Ω": "\\Omega", "\u2061": "", "\u2062": "", "\u2063": "", "\u2064": "",
    "{": "\\{", "}": "\\}", "%": "\\%", "#": "\\#", "&": "\\&", "\xa0": " ", "\u2009": "\\,", "\u200b": "",
}  # fmt: skip
_ACCENTS = {
    "¯": "\\bar", "‾": "\\overline", "_": "\\underline", "^": "\\hat", "ˆ": "\\hat", "~": "\\tilde", "˜": "\\tilde",
    "∼": "\\tilde", "→": "\\vec", "⃗": "\\vec", "˙": "\\dot", "¨": "\\ddot", "ˇ": "\\check", "˘": "\\breve",
    "⏞": "\\overbrace", "⏟": "\\underbrace", "―": "\\overline", "̲": "\\underline", "⇀": "\\vec", "^{}": "\\hat",
}  # fmt: skip
_VARIANTS = {
    "bold": "mathbf", "double-struck": "mathbb", "script": "mathcal", "fraktur": "mathfrak",
    "sans-serif": "mathsf", "monospace": "mathtt", "bold-italic": "boldsymbol",
}  # fmt: skip
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp lim limsup liminf max min sup inf "
    "det dim ker gcd arg deg hom Pr".split()
)
_SYMBOL = re.compile("[" + re.escape("".join(key for key in _COMMANDS if len(key) == 1)) + "]")
_GLUED = re.compile(r"\\[A-Za-z]+$")


def to_tex(math: LexborNode) -> str:
    """TeX of a `<math>` element, or of any part of one."""
    return " ".join(_tex(math, 0).split())


def _tex(node: LexborNode, depth: int) -> str:
    if node.is_text_node:
        return _symbols(node.text_content or "")
    if depth > _DEEPEST:
        return _symbols(node.text())
    convert = _ELEMENTS.get((node.tag or "").lower(), _row)
    return convert(node, depth + 1)


def _children(node: LexborNode) -> list[LexborNode]:
    found = []
    child = node.first_child
    while child is not None:
        if child.is_element_node:
            found.append(child)
        child = child.next
    return found


def _symbols(text: str) -> str:
    return _SYMBOL.sub(lambda sign: _COMMANDS[sign.group()] + " ", text)


def _join(parts: list[str]) -> str:
    """Parts side by side, with a space where a command's name would run into a letter."""
    joined = ""
    for part in parts:
        if part[:1].isalpha() and _GLUED.search(joined):
            joined += " "
        joined += part
    return joined


def _row(node: LexborNode, depth: int) -> str:
    child, parts = node.first_child, []
    while child is not None:
        if child.is_element_node or child.is_text_node:
            parts.append(_tex(child, depth).strip())
        child = child.next
    return _join(parts)


def _arguments(node: LexborNode, depth: int, number: int) -> list[str]:
    """TeX of the first `number` children, "" for missing ones."""
    found = [_tex(child, depth).strip() for child in _children(node)[:number]]
    return found + [""] * (number - len(found))


def _identifier(node: LexborNode, depth: int) -> str:
    name = node.text().strip()
    if len(name) > 1 and name.isalpha() and name.isascii():
        return f"\\{name}" if name in _FUNCTIONS else f"\\mathrm{{{name}}}"
    variant = _VARIANTS.get(node.attributes.get("mathvariant") or "")
    tex = _symbols(name).strip()
    return f"\\{variant}{{{tex}}}" if variant else tex


def _operator(node: LexborNode, depth: int) -> str:
    name = node.text().strip()
    if name in _FUNCTIONS:
        return f"\\{name}"
    if len(name) > 1 and name.isalpha() and name.isascii():
        return f"\\operatorname{{{name}}}"
    return _symbols(name).strip()


def _text(node: LexborNode, depth: int) -> str:
    text = node.text()
    return f"\\text{{{text}}}" if text.strip() else " "


def _fraction(node: LexborNode, depth: int) -> str:
    above, below = _arguments(node, depth, 2)
    if (node.attributes.get("linethickness") or "").startswith("0"):
        return f"\\binom{{{above}}}{{{below}}}"
    return f"\\frac{{{above}}}{{{below}}}"


def _root(node: LexborNode, depth: int) -> str:
    radicand, degree = _arguments(node, depth, 2)
    return f"\\sqrt[{degree}]{{{radicand}}}"


def _square_root(node: LexborNode, depth: int) -> str:
    return f"\\sqrt{{{_row(node, depth)}}}"


def _nucleus(tex: str) -> str:
    """What a script is attached to: more than one sign needs braces."""
    return tex if len(tex) <= 1 or re.fullmatch(r"\\[A-Za-z]+|\\[A-Za-z]+\{[^{}]*\}|\d+", tex) else f"{{{tex}}}"


def _scripts(signs: str):
    def convert(node: LexborNode, depth: int) -> str:
        nucleus, *scripts = _arguments(node, depth, 1 + len(signs))
        written = [
            "'" * len(script) if sign == "^" and script.strip("'") == "" and script else f"{sign}{{{script}}}"
            for sign, script in zip(signs, scripts, strict=True)
        ]
        return _nucleus(nucleus) + "".join(written)

    return convert


def _over_or_under(sign: str):
    def convert(node: LexborNode, depth: int) -> str:
        nucleus, script = _arguments(node, depth, 2)
        children = _children(node)
        mark = children[1].text().strip() if len(children) > 1 else ""
        if mark in _ACCENTS:
            command = _ACCENTS[mark]
            if sign == "_" and command == "\\overline":
                command = "\\underline"
            return f"{command}{{{nucleus}}}"
        return f"{_nucleus(nucleus)}{sign}{{{script}}}"

    return convert


def _table(node: LexborNode, depth: int) -> str:
    rows = [child for child in _children(node) if child.tag in ("mtr", "mlabeledtr")]
    cells = [" & ".join(_tex(cell, depth + 1).strip() for cell in _children(row)) for row in rows]
    return "\\begin{matrix} " + " \\\\ ".join(cells) + " \\end{matrix}"


def _fenced(node: LexborNode, depth: int) -> str:
    opening, closing = node.attributes.get("open", "("), node.attributes.get("close", ")")
    separator = (node.attributes.get("separators") or ",")[:1]
    inside = separator.join(_tex(child, depth).strip() for child in _children(node))
    return f"{_symbols(opening or '')}{inside}{_symbols(closing or '')}"


def _multiscripts(node: LexborNode, depth: int) -> str:
    children = _children(node)
    if not children:
        return ""
    tex, before, target = _tex(children[0], depth).strip(), "", "after"
    written, position = "", 0
    for child in children[1:]:
        if child.tag == "mprescripts":
            target, position = "before", 0
            continue
        script = "" if child.tag == "none" else _tex(child, depth).strip()
        sign, position = "_^"[position % 2], position + 1
        part = f"{sign}{{{script}}}" if script else ""
        before, written = (before + part, written) if target == "before" else (before, written + part)
    return ("{}" + before if before else "") + _nucleus(tex) + written


def _semantics(node: LexborNode, depth: int) -> str:
    children = _children(node)
    return _tex(children[0], depth) if children else ""


def _nothing(node: LexborNode, depth: int) -> str:
    return ""


_ELEMENTS = {
    "mi": _identifier,
    "mo": _operator,
    "mn": lambda node, depth: _symbols(node.text().strip()),
    "mtext": _text,
    "ms": _text,
    "mspace": lambda node, depth: " ",
    "mfrac": _fraction,
    "msqrt": _square_root,
    "mroot": _root,
    "msup": _scripts("^"),
    "msub": _scripts("_"),
    "msubsup": _scripts("_^"),
    "munderover": _scripts("_^"),
    "mover": _over_or_under("^"),
    "munder": _over_or_under("_"),
    "mtable": _table,
    "mfenced": _fenced,
    "mmultiscripts": _multiscripts,
    "semantics": _semantics,
    "annotation": _nothing,
    "annotation-xml": _nothing,
    "mphantom": _nothing,
}
