"""Spellings of tool calls: every JSON object comes back from each of them; what is no call stays text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.data.messages import ToolCall
from llama3_jax.data.tools import FORMS, Tools, is_builtin_call, read_calls, write_calls

TEXTS = st.text() | st.text("'\"\\\n\t{}[]()<>=*:;, a\u2028\x00\x85é😀")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    st.sampled_from(["from", "null", "class", "None", "_private", "__debug__", "_keyword_if", "ﬁ", "", "a-b", "a b"])
    | TEXTS
)
CALLS = st.builds(
    ToolCall, name=st.sampled_from(["f", "get_weather", "a.b"]), arguments=st.dictionaries(KEYS, JSON, max_size=3)
)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=100, deadline=None)
@given(calls=st.lists(CALLS, min_size=1, max_size=2))
@example(calls=[ToolCall(name="f", arguments={"a": '</function>", **{}; <function=g>{}'})])
@example(calls=[ToolCall(name="f", arguments={"a": "\\ud83d\ude00 \\n", "b": 1e300, "c": -0.5})])
@example(calls=[ToolCall(name="f", arguments={"text": 'from="x", class="""y"""'})])
def test_every_object_comes_back(form, calls):
    assert read_calls("".join(write_calls(calls, form))) == ("", tuple(calls))


@pytest.mark.parametrize("name", ["brave_search", "wolfram_alpha", "photogen", "code_interpreter"])
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
@example(text='"')
@example(text="\\")
@example(text='\\"')
@example(text='")\n')
def test_every_query_comes_back(name, text):
    argument = "code" if name == "code_interpreter" else "query"
    call = ToolCall(name=name, arguments={argument: text})
    assert is_builtin_call(call)
    assert read_calls(write_calls([call], "builtin")[0]) == ("", (call,))
    if '"' not in text:
        assert write_calls([call], "builtin") == [f'{name}.call({argument}="{text}")']


@pytest.mark.parametrize("form", ["json", "bare_json"])
@given(name=st.text(min_size=1))
def test_any_name_comes_back_from_json(form, name):
    call = ToolCall(name=name, arguments={})
    assert read_calls(write_calls([call], form)[0]) == ("", (call,))


@pytest.mark.parametrize(
    ("form", "name", "message"),
    [
        ("function_tag", "a>b", "has a '>' and cannot be written in a function tag"),
    ],
)
def test_names_that_a_form_cannot_hold_are_refused(form, name, message):
    with pytest.raises(ValueError, match=message):
        write_calls([ToolCall(name=name, arguments={})], form)


def test_builtin_calls_stand_alone():
    calls = [ToolCall(name="brave_search", arguments={"query": "x"})] * 2
    for form in ("builtin", "code"):
        with pytest.raises(ValueError, match="must be the only call of its message, which makes 2"):
            write_calls(calls, form)


@pytest.mark.parametrize("arguments", [{}, {"q": "x"}, {"query": 7}, {"query": "x", "count": 3}])
def test_other_arguments_make_a_custom_call(arguments):
    assert not is_builtin_call(ToolCall(name="brave_search", arguments=arguments))


# Reading what models write

F1, G2 = ToolCall(name="f", arguments={"a": 1}), ToolCall(name="g", arguments={"b": "2"})


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ('{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {"b": "2"}}', "", (F1, G2)),
        ('{"type": "function", "name": "f", "parameters": {"a": 1}}\n', "", (F1,)),
        ('{\n    "type": "function",\n    "name": "f",\n    "parameters": {\n "a": 1}\n}', "", (F1,)),
        ('{"name": "f", "arguments": {"a": 1}}', "", (F1,)),
        ('Let me see. {"type": "function", "name": "f", "parameters": {"a": 1}}', "Let me see. ", (F1,)),
        ('{"type": "function", no {"type": "function", "name": "f", "parameters": {"a": 1}}', None, (F1,)),
        ('<function=f>{"a": 1}</function>\n<function=g>{"b": "2"}</function>', "", (F1, G2)),
        ('<function=f>{"a": 1}', "", (F1,)),
        ('Sure.\n<function=f> {"a": 1} </function>', "Sure.\n", (F1,)),
        (" [f(a=1), g(b='2')]\n", "", (F1, G2)),
        (
            'brave_search.call(query="what is "it"?")',
            "",
            (ToolCall(name="brave_search", arguments={"query": 'what is "it"?'}),),
        ),
    ],
)
def test_calls_as_models_write_them(text, words, calls):
    found, read = read_calls(text)
    assert read == calls
    assert words is None or found == words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{}",
        '{"name": "Ann", "age": 7}',
        '{"name": "f", "parameters": [1]}',
        '{"name": "f", "parameters": {"a": NaN}}',
        '{"name": "", "parameters": {}}',
        '{"name": 7, "parameters": {}}',
        '{"type": "object", "name": "f", "parameters": {}}',
        '{"name": "f", "parameters": {"a": 1}} That is how.',
        'As in {"name": "f", "parameters": {"a": 1}}',
        '{"name": "f", "parameters": {"a": 1}',
        "<function=f>{'a': 1}</function>",
        '<function=f>{"a": 1}</function> and more',
        "<function=f>",
        "f(a=1)",
        'brave_search.call(query="x") finds it',
        'brave_search.call(code="x")',
        'google.call(query="x")',
        '{"name":' * 100_000,
        '{"type": "function", "name": "f", "parameters": {}} ' * 30_000 + "x",
        "<function=f>{} " * 30_000 + "x",
    ],
    ids=lambda text: repr(text[:40]),
)
def test_text_that_is_no_call_stays_text(text):
    assert read_calls(text) == (text, ())


@settings(max_examples=500, deadline=None)
@given(text=st.text() | st.text("[]{}()<>=\"'f:,*function nametypr", max_size=60))
def test_reading_never_raises(text):
    words, calls = read_calls(text)
    assert text.startswith(words) and (calls or words == text)


def test_only_tools_that_exist_are_called():
    text = write_calls([F1, G2], "json")
    assert read_calls("".join(text), {"f", "g"}) == ("", (F1, G2))
    assert read_calls("".join(text), {"f"}) == ("".join(text), ())
    assert read_calls(text[0], ()) == (text[0], ())


# Declaring tools


def test_tools_know_their_names():
    bare = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    tools = Tools(builtin=("brave_search",), custom=({"type": "function", "function": bare}, {"name": "g"}))
    assert tools.names == {"brave_search", "f", "g"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"builtin": ("google",)}, "unknown built-in tool 'google'; they are brave_search, "),
        ({"form": "xml"}, "unknown form of calls 'xml'; the forms are json, "),
        ({"form": "code"}, "unknown form of calls 'code'"),
        ({"custom": ({"name": "f"}, "f")}, "tool 1: its definition is not a JSON object"),
        ({"custom": ({"name": {1}},)}, "tool 0: its definition is not a JSON object"),
        ({"custom": ({"type": "function", "function": "f"},)}, "tool 0: its definition is not a JSON object"),
        ({"custom": ({"description": "x"},)}, "tool 0: its definition has no name"),
        ({"custom": ({"name": "f", "description": 7},)}, "the description of f is not a string"),
        ({"custom": ({"name": "f", "parameters": [1]},)}, "the parameters of f are not a JSON schema"),
        ({"custom": ({"name": "f", "parameters": {"properties": {"a": 1}}},)}, "the parameters of f are not a JSON"),
        ({"custom": ({"name": "f", "parameters": {"properties": [1]}},)}, "the parameters of f are not a JSON"),
    ],
)
def test_bad_tools_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Tools(**given)
