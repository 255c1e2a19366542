"""Tool calls as a Python list, `[f(a=1), g(b="x")]`: how the 1B and 3B models of 3.2 call tools (data/tools.py).

The list is parsed by Python itself, never run. What models write and Python does not know is put right before:
arguments called `from` or `class`, JSON's `true`, `false` and `null`, and escapes such as `\\d`.
"""

import ast
import json
import keyword
import re
from collections.abc import Sequence
from typing import Any

from llama3_jax.data.messages import ToolCall, is_json_object

_LIST_START = re.compile(r"\s*\[\s*[^\W\d]")
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PLAIN_ARGUMENT = re.compile(r"[A-Za-z]\w*", re.ASCII)  # any other goes into `**{…}`
_KEYWORD_PREFIX = "_keyword_"
_CONSTANTS = {"true": "True", "false": "False", "null": "None"}
_FOREIGN = re.compile(
    r"(?P<raw>\b[rR])?(?P<string>"
    r'"""(?:[^\\]|\\.)*?"""' r"|'''(?:[^\\]|\\.)*?'''" r'|"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*')"
    rf"|\b(?P<keyword>{'|'.join(keyword.kwlist)})(?=\s*=(?!=))"
    rf"|\b(?P<constant>{'|'.join(_CONSTANTS)})\b(?!\s*=)",
    re.DOTALL,
)  # fmt: skip
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_KNOWN_ESCAPES = frozenset("\n\\'\"abfnrtv01234567xuUN")


def write_python_list(calls: Sequence[ToolCall]) -> str:
    """One list of all calls. ValueError if a name is not a Python name, with dots between if need be.

    Equal to llama-models for strings without escapes, numbers and lists; it writes what Python cannot read of others.
    """
    return f"[{', '.join(map(_write_call, calls))}]"


def read_python_list(text: str) -> tuple[ToolCall, ...]:
    """Calls of a list of names with keyword arguments and literal values; none if `text` is anything else."""
    if not _LIST_START.match(text):
        return ()
    try:
        tree = ast.parse(_FOREIGN.sub(_put_right, text.strip()), mode="eval").body
        return tuple(map(_read_call, tree.elts)) if isinstance(tree, ast.List) else ()
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return ()


def _write_call(call: ToolCall) -> str:
    if not all(_NAME.fullmatch(part) and not keyword.iskeyword(part) for part in call.name.split(".")):
        raise ValueError(f"the tool name {call.name!r} is not a Python name and cannot be called in a Python list")
    plain = {name: value for name, value in call.arguments.items() if _PLAIN_ARGUMENT.fullmatch(name)}
    others = {name: value for name, value in call.arguments.items() if name not in plain}
    parts = [f"{name}={_write_literal(value)}" for name, value in plain.items()]
    return f"{call.name}({', '.join(parts + [f'**{_write_literal(others)}'] * bool(others))})"


def _write_literal(value: Any) -> str:
    if isinstance(value, str):  # JSON's escapes mean the same in Python, but for surrogate pairs, which stay unescaped
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return f"[{', '.join(map(_write_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_write_literal(key)}: {_write_literal(item)}' for key, item in value.items())}}}"
    return str(value)


def _put_right(match: re.Match) -> str:
    if match["keyword"]:
        return _KEYWORD_PREFIX + match["keyword"]
    if match["constant"]:
        return _CONSTANTS[match["constant"]]
    return match[0] if match["raw"] else _ESCAPE.sub(_put_escape_right, match[0])


def _put_escape_right(match: re.Match) -> str:
    return match[0] if match[1] in _KNOWN_ESCAPES else "\\" + match[0]


def _read_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with keyword arguments")
    arguments = {}
    for argument in node.keywords:
        value = ast.literal_eval(argument.value)
        arguments.update(value if argument.arg is None else {argument.arg.removeprefix(_KEYWORD_PREFIX): value})
    if not is_json_object(arguments):
        raise ValueError("an argument has no JSON")
    return ToolCall(name=_dotted_name(node.func), arguments=arguments)


def _dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(node.value)}.{node.attr}"
    if not isinstance(node, ast.Name):
        raise ValueError("not the name of a tool")
    return node.id
