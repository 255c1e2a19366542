"""The dialect of Hugging Face's chat templates: the tokens of the rendered 3.1, 3.2 and 3.3 template.

The templates come with `trl`, which keeps copies of them as files; it is found, not imported. That our tokenizer
equals Hugging Face's on the rendered text is shown in test_tokenizer.py.
"""

import datetime
import importlib.util
from pathlib import Path

import llama_models
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.messages import Message, ToolCall, write_messages
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tools import NO_TOOLS, Tools

TRL = importlib.util.find_spec("trl")
pytestmark = pytest.mark.skipif(TRL is None, reason="trl, which holds the templates, is installed on Python 3.11 only")
HYPOTHESIS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATE = datetime.date(2024, 9, 1)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'It\'s the weather in "München"',
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["München", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TEXTS = st.text("ab \n\t'\\{}.,é漢😀\u00a0", max_size=20) | st.sampled_from(["", "hi", " two words \n"])
CUSTOM_CALLS = st.builds(
    ToolCall, name=st.just("get_weather"), arguments=st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers()), max_size=2)
)
BUILTIN_CALLS = st.one_of(
    st.builds(lambda query: ToolCall(name="brave_search", arguments={"query": query}), TEXTS),
    st.builds(lambda code: ToolCall(name="code_interpreter", arguments={"code": code}), TEXTS),
)
TURNS = st.builds(
    lambda user, words, call, result: [
        Message(role="user", content=user),
        Message(role="assistant", content=words, tool_calls=tuple(call)),
        *[Message(role="tool", content=result) for _ in call],
    ],
    TEXTS,
    TEXTS,
    st.lists(st.one_of(CUSTOM_CALLS, BUILTIN_CALLS), max_size=1),
    TEXTS,
)
DIALOGS = st.builds(
    lambda system, turns: system + [message for turn in turns for message in turn],
    st.lists(st.builds(lambda content: Message(role="system", content=content), TEXTS), max_size=1),
    st.lists(TURNS, min_size=1, max_size=3),
)


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(Tokenizer.load(Path(llama_models.__file__).parent / "llama3" / "tokenizer.model"), dialect="hf")


def render(name: str, dialog: list[Message], tools: Tools, prompt: bool, **given) -> str:
    template = Path(TRL.origin).parent / "chat_templates" / name
    if tools.builtin:
        given["builtin_tools"] = list(tools.builtin)
    (text,), _ = render_jinja_template(
        conversations=[write_messages(dialog)],
        tools=list(tools.custom) or None,
        chat_template=template.read_text(encoding="utf-8"),
        add_generation_prompt=prompt,
        bos_token="<|begin_of_text|>",
        **given,
    )
    return text


@pytest.mark.parametrize(
    "tools",
    [
        NO_TOOLS,
        Tools(custom=(WEATHER, WEATHER)),
        Tools(builtin=("brave_search", "code_interpreter")),
        Tools(builtin=("code_interpreter",), custom=(WEATHER,)),
    ],
    ids=["none", "custom", "builtin", "both"],
)
@HYPOTHESIS
@given(dialog=DIALOGS, prompt=st.booleans())
def test_tokens_are_those_of_the_3_1_template(chat, tools, dialog, prompt):
    text = render("llama3_1.jinja", dialog, tools, prompt, date_string="01 Sep 2024")
    expected = chat.tokenizer.encode(text, allow_special=True)
    assert chat.encode(dialog, tools=tools, date=DATE, prompt=prompt).ids.tolist() == expected


@pytest.mark.parametrize("tools", [NO_TOOLS, Tools(custom=(WEATHER,))], ids=["none", "custom"])
@HYPOTHESIS
@given(dialog=DIALOGS)
def test_tokens_are_those_of_the_3_2_template(chat, tools, dialog):
    text = render("llama3_2.jinja", dialog, tools, True, date_string="01 Sep 2024")
    expected = chat.tokenizer.encode(text, allow_special=True)
    assert chat.encode(dialog, tools=tools, date=DATE, prompt=True).ids.tolist() == expected


def test_the_date_is_the_templates(chat):
    dialog = [Message(role="user", content="hi")]
    text = render("llama3_1.jinja", dialog, NO_TOOLS, True)
    assert "Today Date: 26 Jul 2024" in text
    assert chat.encode(dialog, prompt=True).ids.tolist() == chat.tokenizer.encode(text, allow_special=True)


def test_what_the_template_cannot_say_is_refused(chat):
    calls = tuple(ToolCall(name="f", arguments={"a": index}) for index in range(2))
    dialog = [Message(role="user", content="x"), Message(role="assistant", tool_calls=calls)]
    with pytest.raises(ValueError, match="message 1: it makes 2 calls, and this dialect writes 1"):
        chat.encode(dialog)
    with pytest.raises(ValueError, match="first user message, and the dialog does not start with one"):
        chat.encode([Message(role="assistant", content="x")], tools=Tools(custom=(WEATHER,)))
    with pytest.raises(ValueError, match="no calls of the form 'python_list', only bare_json"):
        chat.encode(dialog[:1], tools=Tools(form="python_list"))
