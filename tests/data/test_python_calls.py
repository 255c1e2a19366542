"""Tool calls as Python lists: what models write, with names and constants that Python lacks; what is no list of calls.

That every JSON object comes back from a list is shown with the other spellings, in test_tools.py.
"""

import pytest

from llama3_jax.data.messages import ToolCall
from llama3_jax.data.python_calls import read_python_list, write_python_list


def call(name: str, **arguments) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(a=1), g(b='2')]", (call("f", a=1), call("g", b="2"))),
        (" [ f ( a = 1 , ) , ]\n", (call("f", a=1),)),
        ("[f(\n    a=1,\n)]", (call("f", a=1),)),
        ("[f(a=1, a=2)]", (call("f", a=2),)),
        ("[music.songs.play()]", (call("music.songs.play"),)),
        ("[f(a=-1.5, b=[1, {'c': None}], c=True)]", (call("f", a=-1.5, b=[1, {"c": None}], c=True),)),
        ("[f(**{'a-b': 1}, c=2)]", (call("f", **{"a-b": 1, "c": 2}),)),
        ('[f(from="USD", class=1, None=2)]', (call("f", **{"from": "USD", "class": 1, "None": 2}),)),
        ("""[f(b='''from="x"''', in=1)]""", (call("f", **{"b": 'from="x"', "in": 1}),)),
        ("[f(b=[true, null], null=false)]", (call("f", b=[True, None], null=False),)),
        ("[f(b='true, null', true='class=1')]", (call("f", b="true, null", true="class=1"),)),
        (r"""[f(b='\d \\d \'"')]""", (call("f", b="\\d \\d '\""),)),
        (r"[f(b=r'\d\'')]", (call("f", b=r"\d\'"),)),
    ],
)
def test_lists_as_models_write_them(text, calls):
    assert read_python_list(text) == calls


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1, 2]",
        "f(a=1)",
        "(f(a=1))",
        "[f(1)]",
        "[f(a=x)]",
        "[f(a=truest)]",
        "[f(a=g())]",
        "[f(a=1), 2]",
        "[[f(a=1)]]",
        "[f(a={1})]",
        "[f(a=(1, 2))]",
        "[f(a=1e999)]",
        "[f(a=b'x')]",
        "[f(**1)]",
        "[f(**{1: 2})]",
        "[f()()]",
        "[f(a=1)][g()]",
        "[f(a=1) for x in y]",
        "[f(a=1)",
        "[f(a='\x00')]",
        "[f(a='\\x')]",
        "[f" + "(a=[" * 300,
        "[f(a=" + "-" * 100_000 + "1)]",
        "[f(a='" + "'" * 10_001,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_is_no_list_of_calls(text):
    assert read_python_list(text) == ()


@pytest.mark.parametrize("name", ["get-weather", "import", "a.", ".a", "1a", "a b", "ﬁ"])
def test_names_that_python_lacks_are_refused(name):
    """It reads the last as "fi"."""
    with pytest.raises(ValueError, match="is not a Python name and cannot be called in a Python list"):
        write_python_list([call(name)])


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (call("f", a="it's", b=[1, 2.5, None, True]), '[f(a="it\'s", b=[1, 2.5, None, True])]'),
        (call("f", a={"b": 'say "hi"\n'}), r'[f(a={"b": "say \"hi\"\n"})]'),
        (call("f", **{"from": "é😀", "a-b": 1, "_c": 2}), '[f(from="é😀", **{"a-b": 1, "_c": 2})]'),
        (call("f", a="\ud800"), r'[f(a="\ud800")]'),
    ],
)
def test_what_is_written(made, text):
    assert write_python_list([made]) == text
    assert read_python_list(text) == (made,)
