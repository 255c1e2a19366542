"""Text that may be a tool call is held back while it streams, until it is sure to be none."""

import re

from llama3_jax.data.tools import ARGUMENT_OF_BUILTIN

_TAG = "<function="
_TYPED = '{"type":"function"'
_LIST = re.compile(r"\[\s*([^\W\d]\w*\s*(\(|\Z)|\Z)")
_OPENINGS = tuple(f"{name}.call(" for name in ARGUMENT_OF_BUILTIN)


def call_start(text: str, told: int) -> int:
    """Where in `text` a call begins, or may begin once more of it is there; its length if nowhere.

    The first `told` characters are known to be none. The forms are those of data/tools.py: whole answers that are JSON,
    a Python list or a built-in call, and, after words too, JSON that says it is a function and function tags.
    """
    if told == 0 and _may_open(text.lstrip()):
        return 0
    for match in re.compile("[{<]").finditer(text, told):
        rest = text[match.start() : match.start() + 200]
        if _agree(_TAG, rest) or _agree(_TYPED, "".join(rest.split())):
            return match.start()
    return len(text)


def _may_open(text: str) -> bool:
    """Whether an answer that begins so may be a call as a whole."""
    if not text or text[0] == "{" or _LIST.match(text):
        return True
    return any(_agree(opening, text) for opening in _OPENINGS)


def _agree(wanted: str, text: str) -> bool:
    """Whether one begins with the other."""
    return text.startswith(wanted) or wanted.startswith(text)
