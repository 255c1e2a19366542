"""Tools: what the model may call, and the texts in which it calls them (paper §4.3.5).

Five spellings are in use; for each, one function writes calls and one reads them back:

  code          the program itself                                        code interpreter
  builtin       brave_search.call(query="…")                              search and Wolfram Alpha
  json          {"type": "function", "name": "f", "parameters": {…}}      3.1 and 3.3; `bare_json`, without the type,
                                                                          is what Hugging Face's templates write
  function_tag  <function=f>{…}</function>                                3.1, if the prompt asks for it
  python_list   [f(a=1), g(b="x")]                                        3.2; see data/python_calls.py

Texts equal those of `llama_models.llama3.tool_utils`, except where that package could not read back what it writes:
queries with a double quote, Python strings that need escapes, nested values in a Python list, several calls in one.
Every JSON object comes back from every spelling. Reading never raises: what is not a call is text. (Meta's reader
fails on an ordinary JSON answer with a "name", on an apostrophe or nested object in a function tag, and takes a
search call quoted in the middle of an answer for the answer.)
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama3_jax.data.messages import ToolCall, is_json_object
from llama3_jax.data.python_calls import read_python_list, write_python_list

CODE = "code_interpreter"
# The tools that Meta's models know without a description, and the one argument of each.
ARGUMENT_OF_BUILTIN = {"brave_search": "query", "wolfram_alpha": "query", "photogen": "query", CODE: "code"}
FORMS = ("json", "bare_json", "function_tag", "python_list")  # of custom calls


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the model is told it may call. ValueError on what is not a tool, naming it by its index.

    builtin: names from ARGUMENT_OF_BUILTIN. custom: definitions, `{"name", "description", "parameters"}` with a JSON
    schema as parameters, alone or as `{"type": "function", "function": …}`. form: how custom calls are spelled, one
    of `FORMS`; None is the dialect's own.
    """

    builtin: tuple[str, ...] = ()
    custom: tuple[Mapping[str, Any], ...] = ()
    form: str | None = None

    def __post_init__(self):
        for name in self.builtin:
            if name not in ARGUMENT_OF_BUILTIN:
                raise ValueError(f"unknown built-in tool {name!r}; they are {', '.join(ARGUMENT_OF_BUILTIN)}")
        for index, definition in enumerate(self.custom):
            problem = _problem_of_definition(definition)
            if problem:
                raise ValueError(f"tool {index}: {problem}")
        if self.form is not None and self.form not in FORMS:
            raise ValueError(f"unknown form of calls {self.form!r}; the forms are {', '.join(FORMS)}")

    @property
    def names(self) -> frozenset[str]:
        """Names of all tools, for `ChatFormat.decode`: nothing else in an answer is then a call."""
        return frozenset([*self.builtin, *(function_of(definition)["name"] for definition in self.custom)])


NO_TOOLS = Tools()


def function_of(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inside of `{"type": "function", "function": …}`, or the definition itself."""
    return definition.get("function", definition)


def is_builtin_call(call: ToolCall) -> bool:
    """Whether `call` can be spelled as a built-in one: a known name and its one argument, a string."""
    argument = ARGUMENT_OF_BUILTIN.get(call.name)
    return argument is not None and set(call.arguments) == {argument} and isinstance(call.arguments[argument], str)


def write_calls(calls: Sequence[ToolCall], form: str) -> list[str]:
    """The text of `calls`, in pieces that are tokenized one by one. `form` is a key of `WRITERS`.

    ValueError if the form cannot hold a name (a `>` in a function tag, anything but a Python name in a list) or
    several calls (code and built-in calls stand alone).
    """
    return WRITERS[form](calls)


def read_calls(text: str, names: Collection[str] | None = None) -> tuple[str, tuple[ToolCall, ...]]:
    """Splits `text` into the words before the calls and the calls it ends in; `(text, ())` if there are none.

    A call is the whole text, or JSON objects that say `"type": "function"` or function tags at its end. `names` are
    the tools there are: any other name is no call. With None every name is. Raises nothing.
    """
    for read in _READERS:
        words, calls = read(text)
        if calls and (names is None or all(call.name in names for call in calls)):
            return words, calls
    return text, ()


def _problem_of_definition(definition: Any) -> str | None:
    if not is_json_object(definition) or not isinstance(function_of(definition), Mapping):
        return "its definition is not a JSON object"
    function = function_of(definition)
    if not isinstance(function.get("name"), str) or not function["name"]:
        return "its definition has no name"
    if not isinstance(function.get("description") or "", str):
        return f"the description of {function['name']} is not a string"
    parameters = function.get("parameters") or {}
    properties = (parameters.get("properties") or {}) if isinstance(parameters, Mapping) else None
    if not isinstance(properties, Mapping) or not all(isinstance(value, Mapping) for value in properties.values()):
        return f"the parameters of {function['name']} are not a JSON schema of an object"
    return None


# Writing


def _only(calls: Sequence[ToolCall]) -> ToolCall:
    if len(calls) != 1:
        raise ValueError(f"code or a built-in tool must be the only call of its message, which makes {len(calls)}")
    return calls[0]


def _write_code(calls: Sequence[ToolCall]) -> list[str]:
    return [_only(calls).arguments[ARGUMENT_OF_BUILTIN[CODE]]]


def _write_builtin(calls: Sequence[ToolCall]) -> list[str]:
    call = _only(calls)
    argument = ARGUMENT_OF_BUILTIN[call.name]
    return [f'{call.name}.call({argument}="{_quote(call.arguments[argument])}")']


def _quote(query: str) -> str:
    """The query as it is, as Meta writes it; with escapes only if it has a double quote, which marks them to us."""
    return json.dumps(query, ensure_ascii=False)[1:-1] if '"' in query else query


def _write_json(calls: Sequence[ToolCall]) -> list[str]:
    return [json.dumps({"type": "function", "name": call.name, "parameters": call.arguments}) for call in calls]


def _write_bare_json(calls: Sequence[ToolCall]) -> list[str]:
    return [json.dumps({"name": call.name, "parameters": call.arguments}, ensure_ascii=False) for call in calls]


def _write_function_tags(calls: Sequence[ToolCall]) -> list[str]:
    for call in calls:
        if ">" in call.name:
            raise ValueError(f"the tool name {call.name!r} has a '>' and cannot be written in a function tag")
    return [f"<function={call.name}>{json.dumps(call.arguments)}</function>" for call in calls]


def _write_python_list(calls: Sequence[ToolCall]) -> list[str]:
    return [write_python_list(calls)]


WRITERS: dict[str, Callable[[Sequence[ToolCall]], list[str]]] = {
    "code": _write_code,
    "builtin": _write_builtin,
    "json": _write_json,
    "bare_json": _write_bare_json,
    "function_tag": _write_function_tags,
    "python_list": _write_python_list,
}


# Reading

_BUILTIN = re.compile(rf'\s*({"|".join(ARGUMENT_OF_BUILTIN)})\.call\((\w+)="(.*)"\)\s*', re.DOTALL)
_JSON_START = re.compile(r'\A\s*(?=\{)|(?=\{\s*"type"\s*:\s*"function")')
_TAG = re.compile(r"<function=([^>]+)>\s*")
_TAG_END = re.compile(r"\s*(</function>)?")
_BETWEEN = re.compile(r"[\s;,]*")  # models put "; " between JSON calls


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _read_builtin(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    match = _BUILTIN.fullmatch(text)
    if match is None or ARGUMENT_OF_BUILTIN[match[1]] != match[2]:
        return text, ()
    return "", (ToolCall(name=match[1], arguments={match[2]: _unquote(match[3])}),)


def _unquote(query: str) -> str:
    if '"' not in query:
        return query
    try:
        return json.loads(f'"{query}"', strict=False)
    except ValueError:
        return query


def _read_json(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    return _read_tail(text, [match.end() for match in _JSON_START.finditer(text)], _read_json_call)


def _read_function_tags(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    return _read_tail(text, [match.start() for match in _TAG.finditer(text)], _read_tagged_call)


def _read_python_list(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    return "", read_python_list(text)


def _read_tail(text: str, starts: list[int], read_one: Callable) -> tuple[str, tuple[ToolCall, ...]]:
    """The first start from which calls, one after another, reach the end of the text. No call is read twice."""
    failed = -1
    for start in starts:
        if start <= failed:  # it would come to the same place
            continue
        calls, position = [], start
        while position < len(text):
            call, end = read_one(text, position)
            if call is None:
                failed = position
                break
            calls.append(call)
            position = _skip(_BETWEEN, text, end)
        else:
            return text[:start], tuple(calls)
    return text, ()


def _read_json_call(text: str, position: int) -> tuple[ToolCall | None, int]:
    value, position = _decode_object(text, position)
    if value is None or value.get("type", "function") != "function":
        return None, position
    name, arguments = value.get("name"), value.get("parameters", value.get("arguments"))
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None, position
    return ToolCall(name=name, arguments=arguments), position


def _read_tagged_call(text: str, position: int) -> tuple[ToolCall | None, int]:
    tag = _TAG.match(text, position)
    if tag is None:
        return None, position
    arguments, position = _decode_object(text, tag.end())
    if arguments is None:
        return None, position
    return ToolCall(name=tag[1], arguments=arguments), _skip(_TAG_END, text, position)


def _skip(pattern: re.Pattern, text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _decode_object(text: str, position: int) -> tuple[dict[str, Any] | None, int]:
    try:
        value, position = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None, position
    return (value if isinstance(value, dict) else None), position


_READERS = (_read_builtin, _read_json, _read_function_tags, _read_python_list)
