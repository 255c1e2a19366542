"""Where pages keep the TeX of a formula, and how it stands in text: attributes, images, addresses of image services."""

import re
import urllib.parse
from collections.abc import Mapping

from llama3_jax.curation.extract.config import ExtractConfig

TEX_ATTRIBUTES = ("data-tex", "data-latex", "data-formula", "data-math", "data-equation", "data-expr", "data-katex")
_IMAGE_CLASSES = re.compile(
    r"\b(?:latex|tex|mathtex|mwe-math[\w-]*|math|formula|equation|ee_img|quicklatex[\w-]*)\b", re.I
)
# Services that draw TeX given in their address: in a named parameter, as the whole query, or as the end of the path.
_SERVICE = re.compile(
    r"codecogs\.com|latex\.php|mathurl\.|mimetex|mathtex|quicklatex|upmath\.me/(?:svg|png)|s2cms\.ru/(?:svg|png)"
    r"|/math/render|render/math|math\.now\.sh|math\.vercel\.app|zhihu\.com/equation|equation\?tex|chart\?\S*cht=tx"
    r"|texify|tex2img|latex2png|/latex(?:\.\w+)?\?|/tex\?|sciweavers\.org/tex2img|formula\.s21g\.com|forkosh",
    re.I,
)
_PARAMETERS = ("tex", "latex", "math", "formula", "equation", "eq", "chl", "from")
_WHOLE_QUERY = re.compile(r"codecogs\.com|\.cgi\?|forkosh", re.I)
TEX_SIGN = re.compile(r"\\[a-zA-Z]+|[\^_]\{?\w|[{}]")
_COMMAND = re.compile(r"\\(?:[a-zA-Z]{2,}|[,;!])")
_STYLE = re.compile(r"^\{?\s*\\(?:display|text)style\b\s*(.*?)\s*\}?$", re.S)
_CODECOGS_SETTINGS = re.compile(
    r"^(?:\s*\\(?:dpi|bg|fg|fn)\s*\{[^}]*\}|\s*\\(?:small|large|huge|tiny|inline|normalsize)\b)+\s*", re.I
)
_CDATA = re.compile(r"%\s*<!\[CDATA\[|%?\s*\]\]>")
_SETS_OF_DELIMITERS = (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False), ("$", "$", False))


def wrap(tex: str, display: bool, config: ExtractConfig) -> str:
    """A formula between its delimiters, on one line."""
    tex, display = _bare(tex, display)
    if not tex:
        return ""
    left, right = config.display_math if display else config.inline_math
    return f"{left}{tex}{right}"


def _bare(tex: str, display: bool) -> tuple[str, bool]:
    """TeX without its own delimiters and without the style that MediaWiki wraps around every formula."""
    tex = " ".join((_CDATA.sub("", tex) if "CDATA" in tex else tex).split())
    for left, right, is_display in _SETS_OF_DELIMITERS:
        if tex.startswith(left) and tex.endswith(right) and len(tex) >= len(left) + len(right):
            tex, display = tex[len(left) : -len(right)].strip(), is_display
            break
    style = _STYLE.match(tex)
    if style is not None and tex.startswith("{") == tex.endswith("}"):
        tex = style.group(1)
    return tex.strip(), display


def image_tex(attributes: Mapping[str, str]) -> tuple[str, bool] | None:
    """(TeX, whether displayed) of an image of a formula, by its data, description or address; None for another."""
    classes, address = attributes.get("class", ""), attributes.get("src", "") or attributes.get("data-src", "")
    display = "display" in classes or "block" in classes
    for name in TEX_ATTRIBUTES:
        if attributes.get(name):
            return attributes[name], display
    alt = attributes.get("alt", "")
    is_formula = _IMAGE_CLASSES.search(classes) is not None
    service = _SERVICE.search(address)
    if alt and (is_formula or (service and TEX_SIGN.search(alt))):
        return alt, display
    if service:
        tex = _of_address(address)
        if tex:
            return tex, display
    for described in (alt, attributes.get("title", "")):
        if described.startswith(("$", "\\(", "\\[")) or _COMMAND.search(described):
            return described, display
    return None


def _of_address(address: str) -> str:
    """TeX in an image's address."""
    path, _, query = address.partition("?")
    fields = {field.partition("=")[0]: field.partition("=")[2] for field in query.split("&")}
    if not _WHOLE_QUERY.search(address):
        for name in _PARAMETERS:
            if fields.get(name):
                return urllib.parse.unquote_plus(fields[name])
    if query:  # the query is the formula, "&" and "=" included
        return _CODECOGS_SETTINGS.sub("", urllib.parse.unquote(query).replace("&space;", " "))
    last = urllib.parse.unquote(path.rpartition("/")[2])
    return last if TEX_SIGN.search(last) else ""
