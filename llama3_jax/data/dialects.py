"""Where public implementations of the Llama 3 chat format disagree, as one table.

All agree on the frame: `<|begin_of_text|>`, then each message as `<|start_header_id|>role<|end_header_id|>`, a blank
line, content, and `<|eot_id|>` or `<|eom_id|>` (paper §4.1.1). They differ in what this file lists:

  meta  the code of llama-models 0.3.0, `ChatFormat`; the default
  docs  its `prompt_format.md`: what the released models write. Words, then `<|python_tag|>`, then the call, then eom:
        the only one whose every message can be read back
  hf    the `chat_template` of Hugging Face's 3.1, 3.2 and 3.3 files, which most servers and trainers use

Tokens of `hf` are those of the rendered template, except that text spelled like a special token stays text here,
and queries and names with a double quote are escaped (data/tools.py).
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llama3_jax.data.messages import Message
from llama3_jax.data.system_prompt import add_hugging_face_preface, add_meta_preface
from llama3_jax.data.tools import Tools

AddPreface = Callable[[Sequence[Message], Tools, datetime.date | None], list[Message]]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One row of the table.

    forms: spellings of custom calls that exist in it, its own first.
    tagged: the spellings that `<|python_tag|>` opens.
    raw_code: a program is written as it is, not as `code_interpreter.call(code="…")`.
    declared_only: built-in tools that the prompt does not name are called like custom ones.
    words: of a message that calls tools: "before_tag", "after_tag", or "dropped".
    waits: whether a message with calls ends in eom by itself; gets whether the call is tagged, and the tools.
    strips: white space around content is cut. (Never around what a tool answered.)
    quotes_results: what a tool answered is written as a JSON string.
    max_calls: calls that one message may make, None for any number.
    add_preface: what is said before the dialog, see data/system_prompt.py.
    """

    forms: tuple[str, ...]
    tagged: frozenset[str]
    raw_code: bool
    declared_only: bool
    words: str
    waits: Callable[[bool, Tools], bool]
    strips: bool
    quotes_results: bool
    max_calls: int | None
    add_preface: AddPreface


DIALECTS = {
    "meta": Dialect(
        forms=("json", "function_tag", "python_list"),
        tagged=frozenset(["code"]),
        raw_code=True,
        declared_only=False,
        words="after_tag",
        waits=lambda tagged, tools: False,  # only a message that says so: end="eom"
        strips=False,
        quotes_results=False,
        max_calls=None,
        add_preface=add_meta_preface,
    ),
    "docs": Dialect(
        forms=("json", "function_tag", "python_list"),
        tagged=frozenset(["code", "builtin", "json"]),
        raw_code=True,
        declared_only=False,
        words="before_tag",
        waits=lambda tagged, tools: tagged,
        strips=False,
        quotes_results=False,
        max_calls=None,
        add_preface=add_meta_preface,
    ),
    "hf": Dialect(
        forms=("bare_json",),
        tagged=frozenset(["builtin"]),
        raw_code=False,
        declared_only=True,
        words="dropped",
        waits=lambda tagged, tools: bool(tools.builtin),
        strips=True,
        quotes_results=True,
        max_calls=1,
        add_preface=add_hugging_face_preface,
    ),
}
