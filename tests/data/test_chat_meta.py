"""The chat format against llama-models: its own tests run on our classes, and token for token on random dialogs."""

import importlib.util
import sys
import types
import unittest
from pathlib import Path

import llama_models
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from llama_models.datatypes import RawMessage, StopReason, ToolPromptFormat
from llama_models.datatypes import ToolCall as MetaCall
from llama_models.llama3.chat_format import ChatFormat as MetaFormat
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer

from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.messages import HEADER_OF_ROLE, Message, ToolCall
from llama3_jax.data.python_calls import read_python_list
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tools import Tools, read_calls

META = Path(llama_models.__file__).parent
HYPOTHESIS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ENDS = {None: None, "eot": StopReason.end_of_turn, "eom": StopReason.end_of_message}


@pytest.fixture(scope="module")
def ours() -> ChatFormat:
    return ChatFormat(Tokenizer.load(META / "llama3" / "tokenizer.model"))


@pytest.fixture(scope="module")
def theirs() -> MetaFormat:
    return MetaFormat(MetaTokenizer.get_instance())


# Meta's tests, unmodified, on our classes


class ShimTokenizer:
    @staticmethod
    def get_instance() -> Tokenizer:
        return Tokenizer.load(META / "llama3" / "tokenizer.model")


class ShimFormat(ChatFormat):
    def encode_message(self, message: Message, tool_prompt_format: str) -> tuple[list[int], list]:
        return self.encode([message], tools=Tools(form=tool_prompt_format)).ids[1:].tolist(), []

    def encode_dialog_prompt(self, messages: list[Message]) -> types.SimpleNamespace:
        return types.SimpleNamespace(tokens=self.encode(messages, prompt=True).ids.tolist())


class ShimTools:
    @staticmethod
    def maybe_extract_custom_tool_call(text: str) -> tuple[str, dict]:
        (call,) = read_calls(text)[1]
        return call.name, call.arguments


SHIM = {
    "llama_models.datatypes": {
        "RawMessage": Message,
        "ToolPromptFormat": types.SimpleNamespace(json="json"),
    },
    "llama_models.llama3.tokenizer": {"Tokenizer": ShimTokenizer},
    "llama_models.llama3.chat_format": {"ChatFormat": ShimFormat},
    "llama_models.llama3.tool_utils": {
        "ToolUtils": ShimTools,
        "is_valid_python_list": lambda text: bool(read_python_list(text)),
        "parse_python_list_for_function_calls": lambda text: [
            (call.name, call.arguments) for call in read_python_list(text)
        ],
    },
}


@pytest.mark.parametrize(("name", "num_tests"), [("test_tokenizer", 5), ("test_tool_utils", 20)])
def test_metas_own_tests_pass_on_our_classes(monkeypatch, name, num_tests):
    for module, members in SHIM.items():
        shim = types.ModuleType(module)
        vars(shim).update(members)
        monkeypatch.setitem(sys.modules, module, shim)
    spec = importlib.util.spec_from_file_location(f"meta_{name}", META / "llama3" / "tests" / "api" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    assert result.testsRun == num_tests
    assert not result.failures and not result.errors and not result.skipped


# Random dialogs

NAMES = st.one_of(st.sampled_from(["get_weather", "f"]), st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
TEXTS = st.one_of(
    st.text(max_size=30),
    st.text("a \n\t'\"\\{}[]()<>|=:,é漢😀", max_size=30),
    st.sampled_from(["", " ", "\n\nhi ", "<|eot_id|>", "<|python_tag|>x", '{"name": "x"}', "it's\n"]),
)
JSON = st.recursive(
    st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
CUSTOM_CALLS = st.builds(ToolCall, name=NAMES, arguments=st.dictionaries(TEXTS, JSON, max_size=3))
BUILTIN_CALLS = st.one_of(
    st.builds(
        lambda name, query: ToolCall(name=name, arguments={"query": query.replace('"', "'")}),
        st.sampled_from(["brave_search", "wolfram_alpha", "photogen"]),
        TEXTS,
    ),
    st.builds(lambda code: ToolCall(name="code_interpreter", arguments={"code": code}), TEXTS),
)
# What llama-models writes into a Python list so that it can be read again: plain strings, numbers, lists of them.
PLAIN = st.one_of(st.from_regex(r"[a-z é漢',:=\[\]]{0,9}", fullmatch=True), st.integers(), st.booleans(), st.none())
PYTHON_CALLS = st.builds(
    ToolCall,
    name=NAMES,
    arguments=st.dictionaries(
        st.from_regex(r"[a-z]{2}_[a-z]", fullmatch=True), st.one_of(PLAIN, st.lists(PLAIN)), max_size=3
    ),
)
ASSISTANT_ENDS = st.sampled_from(["eot", "eom", None])


def turns(calls: st.SearchStrategy) -> st.SearchStrategy[list[Message]]:
    """A user's message; or the assistant's, and the results of its calls."""
    user = st.builds(lambda content: [Message(role="user", content=content)], TEXTS)
    answer = st.builds(
        lambda content, calls, end, results: [
            Message(role="assistant", content=content, tool_calls=tuple(calls), end=end),
            *(Message(role="tool", content=result) for result in results[: len(calls)]),
        ],
        TEXTS,
        calls,
        ASSISTANT_ENDS,
        st.lists(TEXTS, max_size=2),
    )
    return st.one_of(user, answer)


def dialogs(calls: st.SearchStrategy) -> st.SearchStrategy[list[Message]]:
    system = st.lists(st.builds(lambda content: [Message(role="system", content=content)], TEXTS), max_size=1)
    return st.builds(
        lambda system, turns: [message for turn in system + turns for message in turn],
        system,
        st.lists(turns(calls), min_size=1, max_size=4),
    )


def to_meta(message: Message) -> RawMessage:
    calls = [
        MetaCall.model_construct(
            call_id="",
            tool_name=MetaCall.validate_field(call.name),
            arguments=call.arguments,
        )
        for call in message.tool_calls
    ]
    role = "tool" if HEADER_OF_ROLE[message.role] == "ipython" else message.role
    return RawMessage.model_construct(
        role=role, content=message.content, context=None, stop_reason=ENDS[message.end], tool_calls=calls
    )


def from_meta(message: RawMessage) -> Message:
    calls = tuple(
        ToolCall(name=getattr(call.tool_name, "value", call.tool_name), arguments=call.arguments)
        for call in message.tool_calls
    )
    end = {reason: end for end, reason in ENDS.items()}[message.stop_reason]
    return Message(role=message.role, content=message.content, tool_calls=calls, end=end)


def read_by_meta(theirs: MetaFormat, ids) -> Message | None:
    """None where its reader fails, as on an ordinary JSON answer with a "name", or on arguments two levels deep."""
    try:
        return from_meta(theirs.decode_assistant_message([int(token) for token in ids], None))
    except (KeyError, IndexError, TypeError, ValueError, SyntaxError):
        return None


@pytest.mark.parametrize("form", ["json", "function_tag", "python_list"])
@HYPOTHESIS
@given(data=st.data())
def test_random_dialogs_have_metas_tokens(ours, theirs, form, data):
    custom = st.lists(CUSTOM_CALLS, max_size=3) if form != "python_list" else st.lists(PYTHON_CALLS, max_size=1)
    dialog = data.draw(dialogs(st.one_of(st.lists(BUILTIN_CALLS, max_size=1), custom)))
    expected = theirs.encode_dialog_prompt(list(map(to_meta, dialog)), ToolPromptFormat(form)).tokens
    assert ours.encode(dialog, tools=Tools(form=form), prompt=True).ids.tolist() == expected


@HYPOTHESIS
@given(call=st.one_of(CUSTOM_CALLS, BUILTIN_CALLS), end=st.sampled_from(["eot", "eom"]))
def test_calls_are_read_as_meta_reads_them(ours, theirs, call, end):
    """Where Meta's reader gives back what was written; what it does elsewhere is below."""
    written = Message(role="assistant", tool_calls=(call,), end=end)
    ids = theirs.encode_message(to_meta(written), ToolPromptFormat.json)[0]
    assume(read_by_meta(theirs, ids) == written)
    assert ours.decode(ids) == written


@HYPOTHESIS
@given(content=TEXTS, end=st.sampled_from(["eot", "eom"]))
@example(content="The answer is [42].", end="eot")
def test_words_are_read_as_meta_reads_them(ours, theirs, content, end):
    written = Message(role="assistant", content=content, end=end)
    ids = theirs.encode_message(to_meta(written), ToolPromptFormat.json)[0]
    assume(read_by_meta(theirs, ids) == written)
    assert ours.decode(ids) == written


# What llama-models writes and cannot read, or reads and should not

BROKEN = {
    "double quote in a query": ("json", ToolCall(name="brave_search", arguments={"query": 'say "hi" to it'})),
    "nested object in a tag": ("function_tag", ToolCall(name="f", arguments={"a": {"b": {"c": 1}}})),
    "apostrophe in a tag": ("function_tag", ToolCall(name="f", arguments={"a": "it's"})),
    "double quote in a list": ("python_list", ToolCall(name="f", arguments={"a": 'say "hi"'})),
    "new line in a list": ("python_list", ToolCall(name="f", arguments={"a": "1\n2"})),
    "backslash in a list": ("python_list", ToolCall(name="f", arguments={"a": "\\nabla"})),
    "object in a list": ("python_list", ToolCall(name="f", arguments={"a": {"b": 1}})),
    "keyword in a list": ("python_list", ToolCall(name="convert", arguments={"from": "USD"})),
    "no Python name in a list": ("python_list", ToolCall(name="f", arguments={"Content-Type": "x"})),
}


@pytest.mark.parametrize(("form", "call"), BROKEN.values(), ids=BROKEN)
def test_calls_that_meta_loses_come_back(ours, theirs, form, call):
    message = Message(role="assistant", tool_calls=(call,), end="eot")
    meta_ids = theirs.encode_message(to_meta(message), ToolPromptFormat(form))[0]
    assert read_by_meta(theirs, meta_ids) != message
    assert ours.decode(ours.encode([message], tools=Tools(form=form)).ids[1:]) == message


def test_two_calls_come_back(ours, theirs):
    calls = (ToolCall(name="f", arguments={"a": 1}), ToolCall(name="g", arguments={}))
    message = Message(role="assistant", tool_calls=calls, end="eot")
    assert read_by_meta(theirs, ours.encode([message]).ids[1:]) != message
    for form in ("json", "function_tag", "python_list"):
        assert ours.decode(ours.encode([message], tools=Tools(form=form)).ids[1:]) == message


@pytest.mark.parametrize("answer", ['{"name": "Ann", "age": 7}', 'Type brave_search.call(query="x") and see.'])
def test_answers_that_meta_takes_for_calls_are_answers(ours, theirs, answer):
    message = Message(role="assistant", content=answer, end="eot")
    ids = ours.encode([message]).ids[1:]
    assert ours.decode(ids) == message
    assert read_by_meta(theirs, ids) != message


def test_only_the_token_is_a_tag(ours, theirs):
    """Meta's reader goes by names of tokens, so that words spelled like the tag become a program to run."""
    message = Message(role="assistant", content="<|python_tag|>print(1)", end="eot")
    ids = ours.encode([message]).ids[1:]
    assert read_by_meta(theirs, ids).tool_calls[0].name == "code_interpreter"
    assert ours.decode(ids) == message
