"""Documents as rows of tokens for an encoder: byte-level BPE from a `tokenizer.json`, cut into windows.

A window is `<s> tokens </s>`, as RoBERTa was trained. A classifier of pages reads a document's first window, or several
in a row. Text is text: a page that contains `<s>` or `</s>` contains those characters, not the tokens that begin and
end a row, where `transformers` would take them for tokens.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import tokenizers

from llama3_jax.data.tokenizer import replace_surrogates

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
CHARS_PER_TOKEN = 8  # of a text, read before one knows whether it was enough
NEAR_CHARS = 1000  # in which a border between words is looked for
_BORDER = re.compile(r"\S(?=[ \n\t])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How much of a document is read."""

    length: int = 512  # tokens of a window, `<s>` and `</s>` included
    max_windows: int = 1  # windows of a document that are read; what comes after them is not

    def __post_init__(self):
        if self.length < 3:
            raise ValueError(f"length must be at least 3, to hold a token between <s> and </s>, got {self.length}")
        if self.max_windows < 1:
            raise ValueError(f"max_windows must be positive, got {self.max_windows}")


class WindowEncoder:
    """Turns texts into windows of tokens. A pure function of each text."""

    def __init__(self, path: str | pathlib.Path, config: WindowConfig = WindowConfig()):
        """Raises FileNotFoundError; ValueError when the file is no byte-level BPE or lacks one of RoBERTa's tokens."""
        path = pathlib.Path(path)
        content = path.read_text(encoding="utf-8")
        _check(content, path)
        self.config, self.path = config, path
        self.fingerprint = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        self._tokenizer = tokenizers.Tokenizer.from_str(content)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        ids = {name: self._tokenizer.token_to_id(name) for name in (BEGIN, END, PAD)}
        missing = [name for name, number in ids.items() if number is None]
        if missing:
            raise ValueError(f"{path} has no token {missing[0]}")
        self.begin_id, self.end_id, self.pad_id = ids[BEGIN], ids[END], ids[PAD]

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """`(windows, documents)`: int32 tokens of every window, and for each the number of its text, int64, ascending.

        Every text has at least one window; that of an empty one is `<s> </s>`.
        """
        room = self.config.length - 2
        windows, documents = [], []
        for number, tokens in enumerate(self._tokens(texts, room * self.config.max_windows)):
            for start in range(0, max(1, len(tokens)), room):
                inner = tokens[start : start + room]
                windows.append(np.array([self.begin_id, *inner, self.end_id], np.int32))
                documents.append(number)
        return windows, np.array(documents, np.int64)

    def _tokens(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """The first `most` tokens of each text, of which no more is tokenized than that takes."""
        found: list[list[int]] = [[]] * len(texts)
        open_, num_chars = list(range(len(texts))), most * CHARS_PER_TOKEN
        while open_:
            parts = [_beginning(texts[number], num_chars) for number in open_]
            encoded = self._tokenizer.encode_batch_fast(list(map(replace_surrogates, parts)), add_special_tokens=False)
            still_open = []
            for number, part, encoding in zip(open_, parts, encoded, strict=True):
                found[number] = encoding.ids[:most]
                if len(part) < len(texts[number]) and len(found[number]) < most:
                    still_open.append(number)
            open_, num_chars = still_open, num_chars * 8
        return found


def _beginning(text: str, num_chars: int) -> str:
    """At most `num_chars` of a text, cut where white space follows something else: no word of BPE spans that border.

    So its tokens are the first ones of the whole text's. Empty when there is no such border near the end.
    """
    if len(text) <= num_chars:
        return text
    borders = [border.end() for border in _BORDER.finditer(text, max(0, num_chars - NEAR_CHARS), num_chars)]
    return text[: borders[-1]] if borders else ""


def _check(content: str, path: pathlib.Path) -> None:
    """Raises ValueError unless this is RoBERTa's kind of tokenizer: a beginning of a text then has a text's tokens."""
    try:
        pipeline = json.loads(content)
        kinds = {
            "model": (pipeline["model"].get("type"), "BPE"),
            "pre_tokenizer": ((pipeline["pre_tokenizer"] or {}).get("type"), "ByteLevel"),
            "normalizer": (pipeline["normalizer"], None),
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no tokenizer.json ({type(error).__name__}: {error})") from error
    for part, (found, wanted) in kinds.items():
        if found != wanted:
            raise ValueError(f"{path}: its {part} is {found}; RoBERTa's is {wanted}")
