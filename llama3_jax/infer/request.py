"""What one asks for and what one gets: the words in which server, rejection sampling and evaluation talk to the engine.

No arrays and no policy. A `Request` is one prompt and one answer; several answers to a prompt are several requests,
which share the prompt's pages.
"""

import dataclasses
import enum
from collections.abc import Sequence

MAX_TOP_LOGPROBS = 20  # alternatives per token that can be asked for, as in OpenAI's API


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How an answer is drawn and when it ends. The standard values are those of the released models' examples.

    Filters are applied in the order temperature, top_k, top_p, min_p; penalties before them.
    """

    max_new_tokens: int = 256  # 0: only the prompt is computed
    temperature: float = 0.6  # 0 is greedy
    top_k: int = 0  # the most likely k tokens; 0: all
    top_p: float = 0.9  # the smallest set of tokens whose probability reaches it
    min_p: float = 0.0  # tokens at least this likely, relative to the most likely one
    repetition_penalty: float = 1.0  # divides positive logits, multiplies negative ones, of tokens seen (Keskar 2019)
    presence_penalty: float = 0.0  # subtracted once for a token already in the answer
    frequency_penalty: float = 0.0  # subtracted for every time the token is in the answer
    seed: int = 0  # the same seed, prompt and settings give the same answer, whatever runs beside it
    stop_ids: tuple[int, ...] = ()  # tokens that end the answer; the token is part of the result
    stop: tuple[str, ...] = ()  # texts that end the answer; they are cut off
    logprobs: int | None = None  # log-probabilities of the answer's tokens, beside this many of the likeliest; or none
    prompt_logprobs: int | None = None  # the same of the prompt's

    def __post_init__(self):
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{field} must be from {low} to {high}, got {value}")
        if self.top_p == 0:
            raise ValueError("top_p must be above 0")
        if any(not text for text in self.stop):
            raise ValueError("stop has an empty text, which would end every answer at once")


RANGES: dict[str, tuple[float, float]] = {
    "max_new_tokens": (0, 2**31 - 1),
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "seed": (-(2**63), 2**63 - 1),
    "logprobs": (0, MAX_TOP_LOGPROBS),
    "prompt_logprobs": (0, MAX_TOP_LOGPROBS),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One answer to one prompt. Compared by identity: the same prompt may be asked twice."""

    prompt: Sequence[int]  # token ids, not empty
    sampling: SamplingConfig = SamplingConfig()
    owner: str = ""  # requests of different owners take turns
    timeout: float | None = None  # seconds from being handed in to being given up

    def __post_init__(self):
        object.__setattr__(self, "prompt", tuple(self.prompt))  # of one type: beginnings are compared as slices

    @property
    def num_tokens(self) -> int:
        """Of the prompt and the longest answer."""
        return len(self.prompt) + self.sampling.max_new_tokens


class Finish(enum.StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # a stop token or stop text
    LENGTH = "length"  # max_new_tokens
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclasses.dataclass(frozen=True)
class TokenScore:
    """A token's log-probability under the model itself, before temperature, filters and penalties."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token, log-probability) of the likeliest, best first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Something new of one request: a token, the scores of its prompt, or its end."""

    request: Request
    token: int | None = None
    score: TokenScore | None = None  # of `token`, if asked for
    text: str = ""  # what became certain to be part of the answer, for a generator that has a tokenizer
    prompt_scores: tuple[TokenScore | None, ...] | None = None  # None for the first token, which nothing predicts
    finish: Finish | None = None
    error: str = ""
