"""Messages: what is refused, with the index, and what comes back from JSON records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.data.messages import (
    Message,
    ToolCall,
    check_messages,
    is_json_object,
    read_messages,
    write_messages,
)

USER = Message(role="user", content="hi")
CALL = ToolCall(name="f", arguments={"a": 1})
ASKS = Message(role="assistant", tool_calls=(CALL,))
RESULT = Message(role="tool", content="2")


def with_arguments(arguments) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="f", arguments=arguments),))


def loop() -> dict:
    arguments = {}
    arguments["self"] = arguments
    return arguments


def deep() -> dict:
    arguments = {}
    for _ in range(100_000):
        arguments = {"a": arguments}
    return arguments


@pytest.mark.parametrize(
    ("dialog", "message"),
    [
        ([], "at least one message"),
        ([USER, {"role": "user"}], "message 1: it is a dict, not a Message"),
        ([USER, Message(role="robot")], "message 1: unknown role 'robot'; the roles are system, user, assistant, ipyt"),
        ([Message(role=["user"])], "message 0: unknown role"),
        ([Message(role="user", content=None)], "message 0: its content is a NoneType, not a string"),
        ([Message(role="user", content=b"x")], "message 0: its content is a bytes"),
        ([Message(role="assistant", end="stop")], "message 0: unknown end 'stop'; a message ends in eot or eom"),
        ([Message(role="user", end="eom")], "message 0: only the assistant's messages end in eom, not the user's"),
        ([Message(role="user", tool_calls=(CALL,))], "message 0: only the assistant calls tools, not the user"),
        ([Message(role="assistant", tool_calls=CALL)], "message 0: its tool calls are a ToolCall, not a tuple"),
        ([Message(role="assistant", tool_calls=({},))], "message 0: a tool call is a dict, not a ToolCall"),
        ([USER, Message(role="assistant", tool_calls=(ToolCall(name="", arguments={}),))], "message 1: .* has no name"),
        ([Message(role="assistant", tool_calls=(ToolCall(name=None, arguments={}),))], "message 0: .* has no name"),
        ([with_arguments("{}")], "message 0: the arguments of f are not a JSON object: they are a str"),
        ([with_arguments({"a": {1}})], "message 0: .* not a JSON object: Object of type set is not JSON serializable"),
        ([with_arguments({"a": float("nan")})], "not a JSON object: Out of range float"),
        ([with_arguments({1: 2})], "not a JSON object: JSON has string keys and lists only"),
        ([with_arguments({"a": (1,)})], "not a JSON object: JSON has string keys and lists only"),
        ([with_arguments({"a": 10**5000})], "not a JSON object: Exceeds the limit"),
        ([with_arguments(loop())], "not a JSON object: Circular reference detected"),
        ([USER, Message(role="system")], "message 1: a system message must be the first"),
        ([RESULT], "message 0: the result of a tool must follow a call"),
        ([USER, RESULT], "message 1: the result of a tool must follow a call"),
        ([USER, Message(role="assistant"), RESULT], "message 2: the result of a tool must follow a call"),
        ([USER, ASKS, RESULT, RESULT], "message 3: there are more results than the 1 calls of message 1"),
    ],
)
def test_bad_dialogs_are_refused_by_index(dialog, message):
    with pytest.raises(ValueError, match=message):
        check_messages(dialog)


def test_arguments_too_deep_for_json_are_refused():
    assert not is_json_object(deep())


@pytest.mark.parametrize(
    "dialog",
    [
        [Message(role="system"), USER, USER],
        [USER, ASKS, RESULT, Message(role="assistant", content="2"), USER],
        [USER, Message(role="assistant", tool_calls=(CALL, CALL)), RESULT, Message(role="ipython")],
        [USER, Message(role="assistant", content="print(1", end="eom"), RESULT],
        [USER, ASKS, USER],
        [Message(role="assistant", content="Hello.")],
    ],
)
def test_other_orders_are_fine(dialog):
    check_messages(dialog)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "ipython", "tool"]),
    content=st.text(),
    tool_calls=st.lists(
        st.builds(ToolCall, name=st.text(min_size=1), arguments=st.dictionaries(st.text(), JSON, max_size=3)),
        max_size=2,
    ).map(tuple),
    end=st.sampled_from([None, "eot", "eom"]),
)


@given(messages=st.lists(MESSAGES, max_size=3))
def test_records_come_back(messages):
    assert read_messages(write_messages(messages)) == messages


def test_records_of_other_shapes_are_read():
    records = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "1"},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
    ]
    assert read_messages(records) == [
        Message(role="user", content="ab"),
        Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"a": [1]}),)),
        Message(role="tool", content="2"),
        ASKS,
    ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ("hi", "messages must be a list of objects, not str"),
        ({"role": "user"}, "messages must be a list of objects, not dict"),
        (None, "messages must be a list of objects, not NoneType"),
        ([{"role": "user"}, "hi"], "message 1: it is a str, not an object"),
        ([{"content": "hi"}], "message 0: it has no role"),
        ([{"role": "user", "contents": "hi"}], r"message 0: unknown keys \['contents'\]"),
        ([{"role": "user", "content": 7}], "message 0: its content is a int, not a string"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 0: a part of its content is not text"),
        ([{"role": "user", "content": ["hi"]}], "message 0: a part of its content is not text"),
        ([{"role": "assistant", "tool_calls": "f"}], "message 0: tool_calls must be a list"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "message 0: a tool call is not an object with a function"),
        ([{"role": "assistant", "tool_calls": [{"function": 7}]}], "not an object with a function"),
        ([{"role": "assistant", "tool_calls": [{"arguments": {}}]}], "message 0: a tool call has no name"),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f"}]}],
            "the arguments of f are not a JSON object: they are a NoneType",
        ),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}], "of f are not JSON: Expecting"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 100_000}]}], "of f are not JSON"),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}],
            "not a JSON object: they are a list",
        ),
    ],
)
def test_bad_records_are_refused_by_index(records, message):
    with pytest.raises(ValueError, match=message):
        read_messages(records)
