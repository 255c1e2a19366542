"""An answer's text, token by token: whole characters, and stop texts that may begin in one token and end in another."""

import codecs
from collections.abc import Sequence

from llama3_jax.data.tokenizer import Tokenizer


class TokenDecoder:
    """Text of tokens as it becomes certain; together it is that of all tokens at once, special ones left out.

    Bytes that are no UTF-8 become U+FFFD. A model's vocabulary may be longer than the tokenizer's; the rest is no text.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """Text that became certain: bytes of an unfinished character are kept back."""
        learned = token < self._tokenizer.num_bpe_tokens
        return self._decoder.decode(self._tokenizer.decode_bytes([token])) if learned else ""

    def finish(self) -> str:
        """What the bytes kept back make, now that no more come."""
        return self._decoder.decode(b"", final=True)


class TextAssembler:
    """Feeds on tokens and gives text that is certain: no half characters, nothing that may become a stop text."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self._decoder, self._stop = TokenDecoder(tokenizer), tuple(stop)
        self._held = ""  # text that may be the beginning of a stop text
        self.stopped = False

    def feed(self, token: int) -> str:
        """Text that became certain. After a stop text `stopped` is true, and text from there on is lost."""
        return self._pass_on(self._decoder.feed(token))

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        text = self._pass_on(self._decoder.finish())
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _pass_on(self, new: str) -> str:
        text = self._held + new
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if self.stopped or found:
            self._held, cut = "", 0 if self.stopped else min(found)
            self.stopped = True
            return text[:cut]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
