"""What a dialog is made of: messages and tool calls; how they are checked, and read from and written to JSON records.

Records have the shape that OpenAI's API, Hugging Face's templates and most data sets share:
`{"role": …, "content": …, "tool_calls": [{"type": "function", "function": {"name": …, "arguments": …}}]}`.
How messages become tokens is the business of data/chat.py (paper §4.1.1).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Role of a message: the word in its header. What a tool answered is "tool" in APIs and "ipython" to the model.
HEADER_OF_ROLE = {"system": "system", "user": "user", "assistant": "assistant", "ipython": "ipython", "tool": "ipython"}
ENDS = ("eot", "eom")
_RECORD_KEYS = {"role", "content", "tool_calls", "end", "name", "id", "tool_call_id"}  # the last three are not shown


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of the tool `name`; arguments are what a JSON object can hold, and no more (no tuples, no NaN)."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message. Building one checks nothing; `check_messages` does, where the index is known.

    end: the token that closes it, "eot" (the turn is over) or "eom" (the assistant waits for a tool); None is what
    the dialect does by itself and, of a message that was decoded, that it was cut off.
    """

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    end: str | None = None


def check_messages(messages: Sequence[Message]) -> None:
    """Raises ValueError with one sentence that names the first bad message by its index, counted from 0.

    A system message may only come first; the result of a tool must follow a call, or a message that ended in eom, and
    there cannot be more results than calls. Any other order can be encoded, and is: tools are described in a user
    message before the user's own, and people interrupt.
    """
    if not messages:
        raise ValueError("a dialog needs at least one message")
    for index in range(len(messages)):
        problem = next(_problems(messages, index), None)
        if problem:
            raise ValueError(f"message {index}: {problem}")


def is_json_object(value: Any) -> bool:
    """Whether `value` is a dict that comes back from JSON as it was: string keys, lists, finite numbers, no loops."""
    return _why_no_json_object(value) is None


def read_messages(records: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages of JSON records; content may be null, or a list of text parts, and arguments a string of JSON.

    Raises ValueError naming the record by its index. Order and arguments are left to `check_messages`.
    """
    if isinstance(records, (str, Mapping)) or not isinstance(records, Sequence):
        raise ValueError(f"messages must be a list of objects, not {type(records).__name__}")
    messages = []
    for index, record in enumerate(records):
        try:
            messages.append(_read_message(record))
        except ValueError as error:
            raise ValueError(f"message {index}: {error}") from error
    return messages


def write_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """JSON records that `read_messages` turns back into `messages`."""
    return [_write_message(message) for message in messages]


def _problems(messages: Sequence[Message], index: int) -> Iterator[str]:
    message = messages[index]
    if not isinstance(message, Message):
        yield f"it is a {type(message).__name__}, not a Message"
        return
    if not isinstance(message.role, str) or message.role not in HEADER_OF_ROLE:
        yield f"unknown role {message.role!r}; the roles are {', '.join(HEADER_OF_ROLE)}"
        return
    if not isinstance(message.content, str):
        yield f"its content is a {type(message.content).__name__}, not a string"
    if message.end is not None and message.end not in ENDS:
        yield f"unknown end {message.end!r}; a message ends in {' or '.join(ENDS)}"
    if message.role != "assistant" and message.end == "eom":
        yield f"only the assistant's messages end in eom, not the {message.role}'s"
    if not isinstance(message.tool_calls, (tuple, list)):
        yield f"its tool calls are a {type(message.tool_calls).__name__}, not a tuple"
        return
    if message.role != "assistant" and message.tool_calls:
        yield f"only the assistant calls tools, not the {message.role}"
    yield from filter(None, map(_problem_of_call, message.tool_calls))
    if message.role == "system" and index > 0:
        yield "a system message must be the first of the dialog"
    if HEADER_OF_ROLE[message.role] == "ipython":
        yield from _problems_of_result(messages, index)


def _problem_of_call(call: ToolCall) -> str | None:
    if not isinstance(call, ToolCall):
        return f"a tool call is a {type(call).__name__}, not a ToolCall"
    if not isinstance(call.name, str) or not call.name:
        return "a tool call has no name"
    reason = _why_no_json_object(call.arguments)
    return reason and f"the arguments of {call.name} are not a JSON object: {reason}"


def _why_no_json_object(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f"they are a {type(value).__name__}"
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    return None if same else "JSON has string keys and lists only"


def _problems_of_result(messages: Sequence[Message], index: int) -> Iterator[str]:
    first = index
    while first > 0 and HEADER_OF_ROLE[messages[first - 1].role] == "ipython":
        first -= 1
    caller = messages[first - 1] if first else None
    if caller is None or caller.role != "assistant" or not (caller.tool_calls or caller.end == "eom"):
        yield "the result of a tool must follow a call of the assistant"
    elif index - first >= max(1, len(caller.tool_calls)):
        yield f"there are more results than the {len(caller.tool_calls)} calls of message {first - 1}"


def _read_message(record: Mapping[str, Any]) -> Message:
    if not isinstance(record, Mapping):
        raise ValueError(f"it is a {type(record).__name__}, not an object")
    if "role" not in record:
        raise ValueError("it has no role")
    unknown = sorted(str(key) for key, value in record.items() if key not in _RECORD_KEYS and value)
    if unknown:
        raise ValueError(f"unknown keys {unknown}")
    calls = record.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ValueError("tool_calls must be a list")
    return Message(
        role=record["role"],
        content=_read_content(record.get("content")),
        tool_calls=tuple(map(_read_call, calls)),
        end=record.get("end"),
    )


def _read_content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"its content is a {type(content).__name__}, not a string")
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("a part of its content is not text")
    return "".join(part["text"] for part in content)


def _read_call(record: Any) -> ToolCall:
    function = record.get("function", record) if isinstance(record, Mapping) else None
    if not isinstance(function, Mapping):
        raise ValueError("a tool call is not an object with a function")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise ValueError("a tool call has no name")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the arguments of {name} are not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {name} are not a JSON object: they are a {type(arguments).__name__}")
    return ToolCall(name=name, arguments=arguments)


def _write_message(message: Message) -> dict[str, Any]:
    record: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        record["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.end:
        record["end"] = message.end
    return record
