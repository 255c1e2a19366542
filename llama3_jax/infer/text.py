"""An answer's text, token by token: whole characters, and stop texts that may begin in one token and end in another."""

from collections.abc import Sequence

from llama3_jax.data.tokenizer import Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are not a whole character (yet)
KEPT = 8  # tokens decoded again beside each new one, so that no character is cut


class TextAssembler:
    """Feeds on tokens and gives text that is certain: no half characters, nothing that may become a stop text."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []  # whose text is not certain yet, and some before
        self._shown = ""  # text of `_ids` that is assembled
        self._held = ""  # assembled text that may be the beginning of a stop text
        self.stopped = False

    def feed(self, token: int) -> str:
        """Text that became certain. After a stop text `stopped` is true, and text from there on is lost."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(UNFINISHED) and len(self._ids) < 4 * KEPT:
            return ""
        new, self._shown = text[len(self._shown) :], text
        if len(self._ids) > 2 * KEPT:
            self._ids = self._ids[-KEPT:]
            self._shown = self._tokenizer.decode(self._ids)
        return self._pass_on(new)

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        rest = self._tokenizer.decode(self._ids)[len(self._shown) :]
        self._shown += rest
        text = self._pass_on(rest)
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
