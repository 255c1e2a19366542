"""Prompts and answers of Meta's published format, letter for letter: the examples in llama-models' own documents."""

import datetime
import re
from pathlib import Path

import llama_models
import pytest

from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.messages import Message, ToolCall
from llama3_jax.data.system_prompt import add_meta_preface
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tools import NO_TOOLS, Tools, write_calls

META = Path(llama_models.__file__).parent
EXAMPLE = re.compile(r"##### (Input Prompt|Model Response) Format\n```\n(.*?)\n```\n", re.DOTALL)
DATE = datetime.date(2024, 9, 21)
SYSTEM = Message(role="system", content="You are a helpful assistant.")
SONGS = {
    "name": "trending_songs",
    "description": "Returns the trending songs on a Music site",
    "parameters": {
        "type": "object",
        "properties": {
            "n": {"type": "int", "description": "The number of songs to return"},
            "genre": {"type": "str", "description": "The genre of the songs to return"},
        },
        "required": ["n"],
    },
}
WEATHER = {
    "name": "get_weather",
    "description": "Get weather info for places",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The name of the city to get the weather for"},
            "metric": {
                "type": "string",
                "description": "The metric for weather. Options are: celsius, fahrenheit",
                "default": "celsius",
            },
        },
        "required": ["city"],
    },
}


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(Tokenizer.load(META / "llama3" / "tokenizer.model"), dialect="docs")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return examples("Input Prompt")


@pytest.fixture(scope="module")
def answers() -> list[str]:
    return examples("Model Response")


def examples(kind: str) -> list[str]:
    documents = [META / "llama3_1" / "prompt_format.md", META / "llama3_2" / "text_prompt_format.md"]
    found = [match for path in documents for match in EXAMPLE.findall(path.read_text(encoding="utf-8"))]
    assert len(found) == 26
    return [text for name, text in found if name == kind]


def user(content: str) -> Message:
    return Message(role="user", content=content)


def between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


PROMPTS = {
    "dialog": (
        1,
        [
            Message(role="system", content="You are a helpful assistant"),
            user("Answer who are you in the form of jeopardy?"),
        ],
        NO_TOOLS,
        None,
    ),
    "search": (
        2,
        [SYSTEM, user("Search the web for the latest price of 1oz gold?")],
        Tools(builtin=("code_interpreter", "brave_search", "wolfram_alpha")),
        DATE,
    ),
    "code": (
        3,
        [
            Message(role="system", content="Environment: ipython"),
            user("Write code to check if number is prime, use that to see if the number 7 is prime"),
        ],
        NO_TOOLS,
        None,
    ),
    "json": (5, [SYSTEM, user("Use tools to get latest trending songs")], Tools(custom=(SONGS,)), DATE),
    "function tag": (
        6,
        [SYSTEM, user("Use tools to get latest trending songs")],
        Tools(custom=({"type": "function", "function": SONGS},), form="function_tag"),
        DATE,
    ),
    "python list": (
        8,
        [user("What is the weather in SF and Seattle?")],
        Tools(custom=(WEATHER,), form="python_list"),
        None,
    ),
    "code of 3.2": (
        10,
        [user("Write code to check if number is prime. Use it to verify if number 7 is prime")],
        Tools(builtin=("code_interpreter",)),
        datetime.date(2024, 9, 24),
    ),
}


@pytest.mark.parametrize(("index", "dialog", "tools", "date"), PROMPTS.values(), ids=PROMPTS)
def test_prompts_are_the_published_ones(chat, prompts, index, dialog, tools, date):
    assert chat.tokenizer.decode(chat.encode(dialog, tools=tools, date=date, prompt=True).ids) == prompts[index]


def test_a_whole_dialog_with_a_tool_is_the_published_one(chat, prompts):
    result = between(prompts[4], "ipython<|end_header_id|>\n\n", "<|eot_id|>")
    dialog = [
        user("What is the 100th decimal of pi?"),
        Message(
            role="assistant",
            tool_calls=(ToolCall(name="wolfram_alpha", arguments={"query": "100th decimal of pi"}),),
        ),
        Message(role="tool", content=result),
    ]
    tools = Tools(builtin=("brave_search", "wolfram_alpha"))
    assert chat.tokenizer.decode(chat.encode(dialog, tools=tools, prompt=True).ids) == prompts[4]


def call(name: str, **arguments) -> tuple[ToolCall, ...]:
    return (ToolCall(name=name, arguments=arguments),)


def test_answers_are_read_as_they_are_meant(chat, answers):
    messages = [chat.decode(chat.tokenizer.encode(text, allow_special=True)) for text in answers]
    calls = [message.tool_calls for message in messages]
    assert calls[2] == call("brave_search", query="latest price of 1oz gold")
    assert calls[3] == call("code_interpreter", code=between(answers[3], "<|python_tag|>", "<|eom_id|>"))
    assert calls[5] == call("trending_songs", n="10", genre="all")
    assert calls[6] == call("trending_songs", n=10)
    weather = [call("get_weather", city=city, metric="celsius") for city in ("San Francisco", "Seattle")]
    assert calls[8] == weather[0] + weather[1]
    assert calls[9] == call("get_user_info", user_id=7890, special="black")
    assert calls[10] == call("code_interpreter", code=between(answers[10], "<|python_tag|>", "<|eom_id|>"))
    assert [bool(found) for found in calls] == [index in (2, 3, 5, 6, 8, 9, 10) for index in range(13)]
    assert messages[4] == Message(role="assistant", content="The 100th decimal of pi is 7.", end="eot")
    assert [message.end for message in messages] == [
        {"<|eot_id|>": "eot", "<|eom_id|>": "eom"}.get(text[-10:]) for text in answers
    ]


def test_answers_are_written_as_published(chat, answers):
    """But for the JSON call, which the document spreads over lines, and lists, which it quotes with apostrophes."""
    for index in (1, 2, 3, 4, 6, 7, 10, 11):
        answer = chat.decode(chat.tokenizer.encode(answers[index], allow_special=True))
        form = "function_tag" if index == 6 else "json"
        written = chat.encode([Message(role=answer.role, content=answer.content, tool_calls=answer.tool_calls)])
        if index == 6:
            written = chat.encode([answer], tools=Tools(form=form))
        assert chat.tokenizer.decode(written.ids).partition("assistant<|end_header_id|>\n\n")[2] == answers[index]


def test_the_list_after_a_tag_is_read(chat, prompts):
    text = between(prompts[11], "assistant<|end_header_id|>\n\n", "<|start_header_id|>ipython")
    message = chat.decode(chat.tokenizer.encode(text, allow_special=True))
    assert message.tool_calls == call("get_weather", city="San Francisco", metric="celsius")


# Beyond the examples


def texts(*args) -> list[str]:
    return [message.content for message in add_meta_preface(*args)]


def test_nothing_to_say_changes_nothing():
    dialog = [SYSTEM, user("hi")]
    assert add_meta_preface(dialog, NO_TOOLS, None) == dialog


def test_dates_alone():
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 21 September 2024"
    assert texts([SYSTEM, user("hi")], NO_TOOLS, DATE) == [f"{dates}\n\nYou are a helpful assistant.\n", "hi"]
    assert texts([user("hi")], NO_TOOLS, DATE) == [f"{dates}\n", "hi"]


def test_tools_without_dates():
    tools = Tools(builtin=("brave_search",))
    lines = "Environment: ipython\nTools: brave_search"
    assert texts([SYSTEM, user("hi")], tools, None) == [f"{lines}\n\nYou are a helpful assistant.\n", "hi"]


def test_python_lists_are_described_before_the_instruction():
    tools = Tools(custom=(WEATHER,), builtin=("code_interpreter",), form="python_list")
    system, _ = texts([SYSTEM, user("hi")], tools, DATE)
    assert system.startswith("Environment: ipython\n\nCutting Knowledge Date: December 2023\nToday Date: 21 Sep")
    assert system.endswith("    }\n]\n\nYou are a helpful assistant.")


@pytest.mark.parametrize("form", ["json", "function_tag", "python_list"])
def test_descriptions_stay_json(form):
    hostile = {"name": "f", "description": 'say "hi"\n{x} {definitions}', "parameters": {"properties": {"a": {}}}}
    text = "".join(texts([user("hi")], Tools(custom=(hostile, {"name": "g"}), form=form), None))
    assert r"say \"hi\"\n{x} {definitions}" in text
    assert '"g"' in text


def test_each_form_of_tools_is_a_form_of_calls():
    for form in ("json", "function_tag", "python_list"):
        assert write_calls(call("f", a=1), form)
