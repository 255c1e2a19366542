"""Messages to tokens and back, token for token as `llama_models.llama3.chat_format` (paper §4.1.1).

Control tokens come from the structure of a dialog and from nowhere else: every piece of text, whoever wrote it, is
encoded with special tokens switched off, and an answer is taken apart by token ids, not by their names. Text can
therefore never open a header, end a turn or call a tool, whatever it spells.

Each token says what it is and whose: `Span` bits, beside the ids. Losses are masks over them.
"""

import datetime
import enum
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from llama3_jax.data.dialects import DIALECTS
from llama3_jax.data.messages import HEADER_OF_ROLE, Message, ToolCall, check_messages
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tools import CODE, NO_TOOLS, Tools, is_builtin_call, read_calls, write_calls


class Span(enum.IntFlag):
    """What a token is (first row) and whose message it stands in (second row): one bit of each, as uint8.

    HEADER: the marks, the role and the blank line. CALL: `<|python_tag|>` and the text of calls. END: eot or eom.
    `<|begin_of_text|>`, and the zeros that pad a batch, belong to nobody: 0.
    """

    HEADER, CONTENT, CALL, END = 1, 2, 4, 8
    SYSTEM, USER, ASSISTANT, TOOL = 16, 32, 64, 128


# Parts of the assistant's messages that are trained: with the end, so that the model stops (SFT, §4.1.3), and without
# header and end, which otherwise make it repeat its tail or stop abruptly (DPO, §4.1.4).
SFT_PARTS = Span.CONTENT | Span.CALL | Span.END
DPO_PARTS = Span.CONTENT | Span.CALL

_OWNERS = {"system": Span.SYSTEM, "user": Span.USER, "assistant": Span.ASSISTANT, "ipython": Span.TOOL}
_PYTHON_TAG = "<|python_tag|>"


class Encoded(NamedTuple):
    """Token ids, int32 [num_tokens], and what each is, uint8 [num_tokens] of `Span` bits."""

    ids: np.ndarray
    spans: np.ndarray


def assistant_mask(spans: np.ndarray, parts: Span = SFT_PARTS) -> np.ndarray:
    """Which tokens the assistant wrote, of the given parts; bool, of the shape of `spans`."""
    return (spans & Span.ASSISTANT != 0) & (spans & parts != 0)


class ChatFormat:
    """Encodes dialogs and decodes answers in one dialect of `dialects.DIALECTS`."""

    def __init__(self, tokenizer: Tokenizer, *, dialect: str = "meta"):
        """ValueError on an unknown dialect."""
        if dialect not in DIALECTS:
            raise ValueError(f"unknown dialect {dialect!r}; the dialects are {', '.join(DIALECTS)}")
        self.tokenizer = tokenizer
        self.dialect = DIALECTS[dialect]
        self._headers = {word: self._encode_header(word) for word in _OWNERS}

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools = NO_TOOLS,
        date: datetime.date | None = None,
        prompt: bool = False,
    ) -> Encoded:
        """Tokens of a whole dialog; with `prompt`, also the header of the answer that is asked for.

        Tools and date are put into words before the dialog (data/system_prompt.py); a dialog that already says so
        itself passes neither. Tokens of the first n messages begin those of all.
        ValueError naming the message, by its index in `messages`, that cannot be encoded.
        """
        check_messages(messages)
        tools = self._resolve(tools)
        written = self.dialect.add_preface([self._as_written(message) for message in messages], tools, date)
        pieces = [_mark([self.tokenizer.bos_id], Span(0))]
        for index, message in enumerate(written, len(messages) - len(written)):  # what is added comes first
            try:
                pieces += self._encode_message(message, tools)
            except ValueError as error:
                raise ValueError(f"message {index}: {error}") from error
        if prompt:
            pieces.append(self._headers["assistant"])
        return Encoded(*map(np.concatenate, zip(*pieces, strict=True)))

    def decode(self, ids: Sequence[int] | np.ndarray, *, names: Collection[str] | None = None) -> Message:
        """The assistant's message whose tokens a model wrote, up to its first stop token; a header is stepped over.

        `names` are the tools there are (`Tools.names`); with None, whatever reads as a call is one. After
        `<|python_tag|>`, what is no other call is a program for the code interpreter.
        Without a stop token the message was cut off: its end is None and it calls nothing, since half a program must
        not run. ValueError on an id outside the vocabulary.
        """
        ids = np.asarray(ids)
        header = self._headers["assistant"].ids
        if np.array_equal(ids[: header.size], header):
            ids = ids[header.size :]
        stops = np.flatnonzero(np.isin(ids, self.tokenizer.stop_ids))
        if not stops.size:
            return Message(role="assistant", content=self._text(ids))
        end = "eom" if ids[stops[0]] == self.tokenizer.eom_id else "eot"
        words, calls = self._read(ids[: stops[0]], names)
        return Message(role="assistant", content=words, tool_calls=calls, end=end)

    def _read(self, ids: np.ndarray, names: Collection[str] | None) -> tuple[str, tuple[ToolCall, ...]]:
        tags = np.flatnonzero(ids == self.tokenizer.special_tokens[_PYTHON_TAG])
        if not tags.size:
            return read_calls(self._text(ids), names)
        words, body = self._text(ids[: tags[0]]), self._text(ids[tags[0] + 1 :])
        before, calls = read_calls(body, names)
        if calls and not before.strip():
            return words, calls
        if names is None or CODE in names:
            return words, (ToolCall(name=CODE, arguments={"code": body}),)
        return words + body, ()

    def _text(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(ids, skip_special=True)

    def _resolve(self, tools: Tools) -> Tools:
        form = tools.form or self.dialect.forms[0]
        if form not in self.dialect.forms:
            raise ValueError(f"this dialect has no calls of the form {form!r}, only {', '.join(self.dialect.forms)}")
        return replace(tools, form=form)

    def _as_written(self, message: Message) -> Message:
        if HEADER_OF_ROLE[message.role] == "ipython":
            quoted = self.dialect.quotes_results
            return replace(message, content=json.dumps(message.content, ensure_ascii=False)) if quoted else message
        return replace(message, content=message.content.strip()) if self.dialect.strips else message

    def _encode_message(self, message: Message, tools: Tools) -> list[Encoded]:
        word = HEADER_OF_ROLE[message.role]
        owner = _OWNERS[word]
        words = self._encode_text(message.content, owner | Span.CONTENT)
        waits, body = False, [words]
        if message.tool_calls:
            form = self._form(message.tool_calls, tools)
            tagged = form in self.dialect.tagged
            waits = self.dialect.waits(tagged, tools)
            tag = [_mark([self.tokenizer.special_tokens[_PYTHON_TAG]], owner | Span.CALL)] * tagged
            calls = [self._encode_text(text, owner | Span.CALL) for text in write_calls(message.tool_calls, form)]
            orders = {"before_tag": [words, *tag, *calls], "after_tag": [*tag, words, *calls], "dropped": tag + calls}
            body = orders[self.dialect.words]
        end = message.end or ("eom" if waits else "eot")
        end_id = self.tokenizer.eom_id if end == "eom" else self.tokenizer.eot_id
        return [self._headers[word], *body, _mark([end_id], owner | Span.END)]

    def _form(self, calls: Sequence[ToolCall], tools: Tools) -> str:
        most = self.dialect.max_calls
        if most is not None and len(calls) > most:
            raise ValueError(f"it makes {len(calls)} calls, and this dialect writes {most} in a message")
        for call in calls:
            if is_builtin_call(call) and (call.name in tools.builtin or not self.dialect.declared_only):
                return "code" if call.name == CODE and self.dialect.raw_code else "builtin"
        return tools.form or self.dialect.forms[0]

    def _encode_header(self, word: str) -> Encoded:
        special, encode = self.tokenizer.special_tokens, self.tokenizer.encode
        ids = [special["<|start_header_id|>"], *encode(word), special["<|end_header_id|>"], *encode("\n\n")]
        return _mark(ids, _OWNERS[word] | Span.HEADER)

    def _encode_text(self, text: str, span: Span) -> Encoded:
        return _mark(self.tokenizer.encode_array(text), span)


def _mark(ids: Sequence[int] | np.ndarray, span: Span) -> Encoded:
    ids = np.asarray(ids, np.int32)
    return Encoded(ids, np.full(ids.shape, span.value, np.uint8))
