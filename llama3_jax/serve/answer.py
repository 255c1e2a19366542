"""One answer as it grows: its text, and its tokens with their places in the text."""

import collections
import dataclasses
from collections.abc import Iterator

from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.request import Finish, Progress, Request, TokenScore
from llama3_jax.infer.text import TokenDecoder
from llama3_jax.serve.fields import ApiError

STATUS_OF_END = {Finish.TIMEOUT: 504, Finish.CANCELLED: 499, Finish.ERROR: 500}


@dataclasses.dataclass(frozen=True)
class PlacedToken:
    """A token and where its text begins, in characters of all tokens' text."""

    offset: int
    score: TokenScore


class Answer:
    """Takes in what comes of one request."""

    def __init__(self, request: Request, tokenizer: Tokenizer):
        self.request = request
        self.tokens: list[int] = []  # all, the stop token included
        self.text = ""  # that is certain
        self.prompt_scores: tuple[TokenScore | None, ...] | None = None
        self.finish: Finish | None = None
        self._decoder = TokenDecoder(tokenizer)
        self._length = 0  # characters of the tokens' text, stop texts included
        self._scored: collections.deque[PlacedToken] = collections.deque()  # not handed out

    @property
    def at_stop_token(self) -> bool:
        """Whether a stop token has ended it, rather than a stop text, a length or anything else."""
        ended = self.finish is Finish.STOP and bool(self.tokens)
        return ended and self.tokens[-1] in self.request.sampling.stop_ids

    def add(self, progress: Progress) -> str:
        """Takes in what is new and returns its text. Raises ApiError for an answer that ended badly."""
        if progress.finish is not None and progress.finish in STATUS_OF_END:
            said = progress.error or f"the request ended early: {progress.finish.value}"
            raise ApiError(STATUS_OF_END[progress.finish], said, code=progress.finish.value)
        self.prompt_scores = progress.prompt_scores or self.prompt_scores
        self.finish = progress.finish or self.finish
        self.text += progress.text
        if progress.token is not None:
            self.tokens.append(progress.token)
            if progress.score is not None:
                self._scored.append(PlacedToken(self._length, progress.score))
            self._length += len(self._decoder.feed(progress.token))
        return progress.text

    def take_scores(self, shown: int) -> Iterator[PlacedToken]:
        """Tokens of the first `shown` characters; at the end all, but for those that a stop text cut off."""
        rest = self.finish is Finish.LENGTH or self.at_stop_token
        while self._scored and (rest or self._scored[0].offset < shown):
            yield self._scored.popleft()
