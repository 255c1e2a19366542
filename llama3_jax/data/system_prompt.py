"""What is said about tools and dates before a dialog starts: environment, tools, dates, descriptions (paper §4.3.5).

Two layouts are in public use. Meta's (`prompt_format.md` of llama-models; 3.1, 3.2 and 3.3 differ only in the form of
calls that fits them) writes lines before the system message and describes custom tools in a user message of their
own, or in the system message for Python lists. Hugging Face's templates always write a system message with dates,
and describe tools inside the first user message. Descriptions are JSON here, where Meta pastes them between quotes.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama3_jax.data.messages import Message
from llama3_jax.data.tools import CODE, Tools, function_of

_CUTTING = "Cutting Knowledge Date: December 2023"
_JSON_TOOLS = """\
Answer the user's question by making use of the following functions if needed.
If none of the function can be used, please say so.
Here is a list of functions in JSON format:
{definitions}

Return function calls in JSON format."""
_TAGGED_TOOLS = """\
You have access to the following functions:

{definitions}

Think very carefully before calling functions.
If you choose to call a function ONLY reply in the following format with no prefix or suffix:

<function=example_function_name>{{"example_name": "example_value"}}</function>

Reminder:
- If looking for real time information use relevant functions before falling back to brave_search
- Function calls MUST follow the specified format, start with <function= and end with </function>
- Required parameters MUST be specified
- Only call one function at a time
- Put the entire function call reply on one line"""
_PYTHON_TOOLS = """\
You are an expert in composing functions. You are given a question and a set of possible functions.
Based on the question, you will need to make one or more function/tool calls to achieve the purpose.
If none of the function can be used, point it out. If the given question lacks the parameters required by the function,
also point it out. You should only return the function call in tools call sections.

If you decide to invoke any of the function(s), you MUST put it in the format of \
[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]
You SHOULD NOT include any other text in the response.

Here is a list of functions in JSON format that you can invoke.

{definitions}"""
_HUGGING_FACE_TOOLS = """\
{invitation}Respond in the format {{"name": function name, "parameters": dictionary of argument name and its value}}.\
Do not use variables.

{definitions}"""
_TO_USER = """\
Given the following functions, please respond with a JSON for a function call \
with its proper arguments that best answers the given prompt.

"""
_HUGGING_FACE_DATE = datetime.date(2024, 7, 26)


def add_meta_preface(messages: Sequence[Message], tools: Tools, date: datetime.date | None) -> list[Message]:
    """The messages after Meta's lines on environment, tools and dates; unchanged where there is nothing to say.

    Without a date its two lines are left out. Custom tools are described in a user message that is added, or, for
    Python lists, in the system message.
    """
    instruction, rest = _split_system(messages)
    in_system = bool(tools.custom) and tools.form == "python_list"
    if date is None and not tools.builtin and not tools.custom:
        return list(messages)
    lines = []
    if tools.builtin or (tools.custom and not in_system):
        lines += ["Environment: ipython", _tools_line(tools)]
    if date is not None:
        lines += [_CUTTING, f"Today Date: {date:%d %B %Y}"]
    paragraphs = ["\n".join(lines)] * bool(lines)
    paragraphs += [_describe_for_python(tools)] * in_system + [instruction] * bool(instruction)
    text = "\n\n".join(paragraphs) + "\n" * (not in_system)
    preface = [Message(role="system", content=text)]
    if tools.custom and not in_system:
        describe = _describe_for_tags if tools.form == "function_tag" else _describe_for_json
        preface.append(Message(role="user", content=describe(tools)))
    return preface + rest


def add_hugging_face_preface(messages: Sequence[Message], tools: Tools, date: datetime.date | None) -> list[Message]:
    """The messages as Hugging Face's 3.1 template completes them: dates always, 26 July 2024 if none is given.

    With built-in tools this is the 3.1 template; the one of 3.2 is the same without them. ValueError if there are
    custom tools and no user message to describe them in.
    """
    instruction, rest = _split_system(messages)
    lines = ["Environment: ipython\n"] * bool(tools.builtin or tools.custom)
    lines += [f"Tools: {', '.join(_shown(tools))}\n\n"] * bool(tools.builtin)
    lines += [f"{_CUTTING}\nToday Date: {date or _HUGGING_FACE_DATE:%d %b %Y}\n\n"]
    system = Message(role="system", content="".join(lines) + instruction)
    if tools.custom:
        if not rest or rest[0].role != "user":
            raise ValueError("tools are described in the first user message, and the dialog does not start with one")
        definitions = "".join(_dump(definition, indent=4) + "\n\n" for definition in tools.custom)
        described = _HUGGING_FACE_TOOLS.format(invitation=_TO_USER, definitions=definitions)
        rest = [replace(rest[0], content=described + rest[0].content), *rest[1:]]
    return [system, *rest]


def _split_system(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    if messages and messages[0].role == "system":
        return messages[0].content, list(messages[1:])
    return "", list(messages)


def _shown(tools: Tools) -> list[str]:
    """The code interpreter is never listed: "Environment: ipython" turns it on."""
    return [name for name in tools.builtin if name != CODE]


def _tools_line(tools: Tools) -> str:
    return f"Tools: {', '.join(_shown(tools))}" if _shown(tools) else ""


def _dump(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=sort_keys)


def _said(schema: Mapping[str, Any]) -> str:
    return schema.get("description") or ""


def _schema(function: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Properties of the parameters, and the names of the required ones in the order of the properties."""
    parameters = function.get("parameters") or {}
    properties, required = parameters.get("properties") or {}, parameters.get("required") or ()
    return properties, [name for name in properties if name in required]


def _describe_for_json(tools: Tools) -> str:
    """As Meta's generator: parameters are a list, and every type is "object"; other keys of the schema are lost."""
    definitions = []
    for function in map(function_of, tools.custom):
        properties, required = _schema(function)
        parameters = {
            "type": "object",
            "properties": [
                {name: {"type": "object", "description": _said(schema)}} for name, schema in properties.items()
            ],
            "required": [],
        }
        inside = {"name": function["name"], "description": _said(function), "parameters": parameters}
        before, _, after = _dump({"type": "function", "function": inside}, indent=4).rpartition("[]")
        definitions.append(before + _dump(required) + after)  # on one line, unlike the rest
    return _JSON_TOOLS.format(definitions="\n".join(definitions))


def _describe_for_tags(tools: Tools) -> str:
    definitions = []
    for function in map(function_of, tools.custom):
        properties, required = _schema(function)
        name, description = function["name"], _said(function)
        parameters = {
            key: {
                "description": _said(schema),
                "param_type": schema.get("type", "string"),
                "required": key in required,
            }
            for key, schema in properties.items()
        }
        parameters = _dump(parameters, sort_keys=True)
        definitions.append(
            f"Use the function '{name}' to '{description}':\n"
            f'{{"name": {_dump(name)}, "description": {_dump(description)}, "parameters": {parameters}}}'
        )
    return _TAGGED_TOOLS.format(definitions="\n\n".join(definitions))


def _describe_for_python(tools: Tools) -> str:
    definitions = []
    for function in map(function_of, tools.custom):
        properties, required = _schema(function)
        parameters = {"type": "dict", "required": required, "properties": properties}
        definitions.append({"name": function["name"], "description": _said(function), "parameters": parameters})
    return _PYTHON_TOOLS.format(definitions=_dump(definitions, indent=4))
