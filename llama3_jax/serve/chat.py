"""`/v1/chat/completions`: dialogs with tools, as OpenAI's API has it.

Messages become tokens in `data/chat.py`, where control tokens come from a dialog's structure and nothing else. Answers
are read back there too: whether an answer calls a tool is known for certain only at its end, so text that may be a call
is not streamed before.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llama3_jax.data.chat import Encoded
from llama3_jax.data.messages import Message, ToolCall, read_messages
from llama3_jax.data.tools import ARGUMENT_OF_BUILTIN, NO_TOOLS, Tools
from llama3_jax.infer.request import MAX_TOP_LOGPROBS, Progress, Request
from llama3_jax.serve.answer import Answer, PlacedToken
from llama3_jax.serve.calls import call_start
from llama3_jax.serve.completions import check_number, make_requests, usage
from llama3_jax.serve.context import Context, new_id
from llama3_jax.serve.fields import ApiError, Fields
from llama3_jax.serve.sampling import MAX_ANSWERS, read_sampling, refuse_unsupported
from llama3_jax.serve.tokens import chat_logprobs

MESSAGE_KEYS = ("role", "content", "tool_calls", "name", "tool_call_id")  # that mean something to the model
ROLES = {"developer": "system"}  # OpenAI's newer name


class _Choice:
    """One answer, and how much of it has been told."""

    def __init__(self, context: Context, request: Request, index: int, tools: Tools):
        self.answer, self.index = Answer(request, context.tokenizer), index
        self._context, self._names = context, tools.names
        self._tag = context.tokenizer.special_tokens["<|python_tag|>"]
        self._tag_at: int | None = None
        self._told = 0

    def add(self, progress: Progress) -> None:
        """Takes in what is new."""
        if progress.token == self._tag and self._tag_at is None:
            self._tag_at = len(self.answer.text)
        self.answer.add(progress)

    def take(self) -> tuple[str, tuple[ToolCall, ...], list[PlacedToken], str | None]:
        """What is new: text, calls, tokens of the text, and at the end the reason for it."""
        answer, calls = self.answer, ()
        content, reason = answer.text, answer.finish and answer.finish.value
        if answer.finish is None:
            content = content[: self._sure()]
        elif answer.at_stop_token and self._names:
            message = self._context.chat.decode(answer.tokens, names=self._names)
            if message.tool_calls:
                content, calls, reason = message.content, message.tool_calls, "tool_calls"
        new, self._told = content[self._told :], max(self._told, len(content))
        stop = [answer.tokens[-1]] if answer.at_stop_token else []
        tokens = [placed for placed in answer.take_scores(self._told) if not self._hidden(placed, stop, bool(calls))]
        return new, calls, tokens, reason

    def _sure(self) -> int:
        """Characters that are no part of a call, whatever comes."""
        if not self._names:
            return len(self.answer.text)
        sure = call_start(self.answer.text, self._told)
        return sure if self._tag_at is None else min(sure, self._tag_at)

    def _hidden(self, placed: PlacedToken, stop: Sequence[int], calls: bool) -> bool:
        """Whether a token is none of the text: the one that ends it, and those of calls."""
        return placed.score.token in stop or (calls and placed.offset >= self._told)


class ChatCall:
    """A call of the endpoint: what to ask the engine, and how to tell what it says."""

    def __init__(self, context: Context, requests: Sequence[Request], tools: Tools, fields: Fields):
        self.requests, self.stream = requests, fields.boolean("stream")
        self.usage_in_stream = fields.inside("stream_options").boolean("include_usage")
        self._context, self._logprobs = context, fields.boolean("logprobs")
        self._choices = {r: _Choice(context, r, index, tools) for index, r in enumerate(requests)}
        self._frame = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": context.model}

    def opening(self) -> Iterator[dict[str, Any]]:
        """Events at the beginning of a stream."""
        for choice in self._choices.values():
            yield self._chunk(choice.index, {"role": "assistant", "content": ""})

    def add(self, progress: Progress) -> None:
        """Takes in what is new."""
        self._choices[progress.request].add(progress)

    def chunks(self, requests: Iterable[Request]) -> Iterator[dict[str, Any]]:
        """Events of a stream with what is new of these requests."""
        for request in requests:
            choice = self._choices[request]
            text, calls, tokens, reason = choice.take()
            if text or tokens:
                yield self._chunk(choice.index, {"content": text}, tokens)
            for number, call in enumerate(_written(calls)):
                arguments = call["function"].pop("arguments")
                opened = call | {"index": number, "function": call["function"] | {"arguments": ""}}
                yield self._chunk(choice.index, {"tool_calls": [opened]})
                filled = {"index": number, "function": {"arguments": arguments}}
                yield self._chunk(choice.index, {"tool_calls": [filled]})
            if reason:
                yield self._chunk(choice.index, {}, reason=reason)

    def closing(self) -> Iterable[dict[str, Any]]:
        """Events at the end of a stream."""
        last = self._frame | {"object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
        return [last] if self.usage_in_stream else ()

    def body(self) -> dict[str, Any]:
        """The whole response."""
        choices = []
        for choice in self._choices.values():
            text, calls, tokens, reason = choice.take()
            message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
            if calls:
                message["tool_calls"] = _written(calls)
            choices.append(self._choice(choice.index, tokens, reason) | {"message": message})
        return self._frame | {"object": "chat.completion", "choices": choices, "usage": self._usage()}

    def _chunk(self, index: int, delta: dict[str, Any], tokens: Sequence[PlacedToken] = (), reason: str | None = None):
        choice = self._choice(index, tokens, reason) | {"delta": delta}
        chunk = self._frame | {"object": "chat.completion.chunk", "choices": [choice]}
        return chunk | ({"usage": None} if self.usage_in_stream else {})

    def _choice(self, index: int, tokens: Sequence[PlacedToken], reason: str | None) -> dict[str, Any]:
        found = chat_logprobs(self._context.tokenizer, tokens) if self._logprobs else None
        return {"index": index, "logprobs": found, "finish_reason": reason}

    def _usage(self) -> dict[str, int]:
        return usage(len(self.requests[0].prompt), (choice.answer for choice in self._choices.values()))


def _written(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [
        {
            "id": new_id("call"),
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for call in calls
    ]


async def read_chat(context: Context, body: dict[str, Any], owner: str) -> ChatCall:
    """A call from its body. Raises ApiError naming what is wrong with it."""
    fields = Fields(body)
    context.check_model(fields)
    refuse_unsupported(fields)
    tools = read_tools(fields)
    encoded = encode_chat(context, fields, tools, prompt=True)
    number = fields.integer("n", 1, 1, MAX_ANSWERS)
    top = fields.integer("top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top and not fields.boolean("logprobs"):
        raise fields.error("top_logprobs", "needs logprobs to be true", "invalid_value")
    name = "max_tokens" if fields.raw("max_completion_tokens") is None else "max_completion_tokens"
    wanted = fields.integer(name, None, 1, 2**31 - 1)
    prompt = encoded.ids.tolist()
    sampling = read_sampling(
        fields,
        context.tokenizer.stop_ids,
        max_new_tokens=context.room(fields, "messages", len(prompt), wanted, context.limits.chat_tokens),
        logprobs=top if fields.boolean("logprobs") else None,
    )
    check_number(context, number, "n")
    requests = make_requests(context, [prompt], sampling, number, fields.text("user", owner))
    return ChatCall(context, requests, tools, fields)


def encode_chat(context: Context, fields: Fields, tools: Tools, *, prompt: bool) -> Encoded:
    """Tokens of the dialog in `messages`. Raises ApiError naming the message that cannot be encoded."""
    if fields.raw("messages") is None:
        raise fields.error("messages", "is required", "missing_required_parameter")
    try:
        messages = _read_messages(fields.list_of("messages"))
        return context.chat.encode(messages, tools=tools, prompt=prompt)
    except ValueError as error:
        raise ApiError(400, f"messages: {error}", param="messages", code="invalid_value") from error


def _read_messages(records: Sequence[Any]) -> list[Message]:
    known = [
        {key: record[key] for key in MESSAGE_KEYS if key in record} if isinstance(record, Mapping) else record
        for record in records
    ]
    for record in known:
        role = record.get("role") if isinstance(record, dict) else None
        if isinstance(role, str) and role in ROLES:
            record["role"] = ROLES[role]
    return read_messages(known)


def read_tools(fields: Fields) -> Tools:
    """The tools that the model is told of: none when `tool_choice` is "none"."""
    choice = fields.raw("tool_choice")
    if choice not in (None, "none", "auto"):
        said = "must be none or auto: an answer cannot be held to a call"
        raise fields.error("tool_choice", said, "unsupported_parameter")
    given = fields.list_of("tools")
    try:
        builtin = [_builtin(tool) for tool in given]
        custom = [tool for tool, name in zip(given, builtin, strict=True) if name is None]
        tools = Tools(builtin=tuple(filter(None, builtin)), custom=tuple(custom))
    except ValueError as error:
        raise fields.error("tools", f"cannot be used: {error}", "invalid_value") from error
    return NO_TOOLS if choice == "none" else tools


def _builtin(tool: Any) -> str | None:
    """The name of a tool that the model knows: `{"type": "brave_search"}`."""
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if isinstance(kind, str) and kind in ARGUMENT_OF_BUILTIN:
        return kind
    if kind != "function" or not isinstance(tool.get("function"), Mapping):
        raise ValueError('a tool is {"type": "function", "function": {…}}')
    return None
