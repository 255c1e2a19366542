"""What hints at formulas, and at program text outside of `<pre>`, in a page's tags and source."""

import re
from collections.abc import Collection

from llama3_jax.curation.extract.verdicts import Verdict

_MATH_NAMES = frozenset("math mjx-container d-math tex-math mml:math m:math".split())
_CODE_NAMES = frozenset("xmp listing plaintext".split())
_MATH_HINT = re.compile(r"""data-(?:tex|latex|formula|math|equation|expr)|role=["']?math|type=["']?math/""")
_DRAWN = re.compile(r'<svg\b[^>]*\baria-label="[^">]*\\')
_TYPED = re.compile(r"<textarea\b[^>]*+>[^<]{20}")


def has_structure(source: str, names: frozenset[str], verdicts: Collection[Verdict]) -> bool:
    """Whether a page has formulas or program text that only a tree shows.

    Takes its source, or as much of it as may hold hints, and its blocks' names and the verdicts on them.
    """
    if any(verdict.code for verdict in verdicts):
        return True
    if not _MATH_NAMES.isdisjoint(names) or not _CODE_NAMES.isdisjoint(names):
        return True
    if "<svg" in source and _DRAWN.search(source):
        return True
    if "textarea" in names and _TYPED.search(source):
        return True
    return ("data-" in source or "math" in source) and _MATH_HINT.search(source) is not None


def is_formula(tag: str) -> bool:
    """Whether the opening tag of a script or drawing, with angle brackets, says that it is a formula."""
    return "math/" in tag if tag.startswith("<script") else _DRAWN.match(tag) is not None
