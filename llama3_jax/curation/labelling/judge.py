"""A judge behind OpenAI's chat API: our own `llama3 serve`, vLLM, a paid service.

HTTP by the standard library: one request at a time is all it takes, and a connection per answer of a language model
costs nothing beside the answer. `httpx` would be one more dependency for nothing that is used. Redirects are not
followed (they would carry the key elsewhere), and proxies of the environment are not looked at.

Failures are of three kinds: worth another try (busy, timed out, cut off, garbage), the document's own (refused for what
it is), or the whole job's (no such model, wrong key), after which asking on would be a waste.
"""

import dataclasses
import hashlib
import http.client
import json
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llama3_jax.curation.labelling.rubrics import Messages

TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
OF_THE_JOB = {401, 402, 403, 404, 405, 301, 302, 303, 307, 308}
MAX_RESPONSE_BYTES = 2**22
_CHUNK = 2**16


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Where the judge is, how it is asked, and how patiently."""

    url: str  # ends in /v1, as the base_url of OpenAI's client
    model: str
    api_key: str | None = dataclasses.field(default=None, repr=False)
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 256  # of an answer
    timeout_seconds: float = 120.0  # of one try, from asking to the last byte
    retries: int = 6  # after the first try
    backoff_seconds: float = 1.0  # before the first of them; doubled each time
    max_backoff_seconds: float = 60.0

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        if not self.model:
            raise ValueError("model is empty; the judge's /models lists the names")
        for field in ("max_tokens", "timeout_seconds"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("temperature", "retries", "backoff_seconds", "max_backoff_seconds"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must not be negative, got {getattr(self, field)}")

    @property
    def sampling(self) -> dict[str, Any]:
        """What decides an answer besides the question."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }


class Answer(NamedTuple):
    """What the judge said."""

    text: str
    finish: str | None
    prompt_tokens: int
    answer_tokens: int


class JudgeError(Exception):
    """The judge gave no answer for this document; the message says why."""


class JobError(JudgeError):
    """The judge will answer nothing of this job."""


class _TryAgain(Exception):
    def __init__(self, reason: str, wait_seconds: float = 0.0):
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Judge:
    """`judge(messages) -> Answer`; may be called from many threads."""

    def __init__(self, config: JudgeConfig, sleep: Callable[[float], None] = time.sleep):
        self.config, self._sleep = config, sleep
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
        self._url = config.url.rstrip("/") + "/chat/completions"

    def __call__(self, messages: Messages) -> Answer:
        """Asks, and asks again after a growing pause. Raises JudgeError when no try helped, JobError when none will."""
        body = json.dumps({"messages": messages, **self.config.sampling}).encode()
        reason = ""
        for attempt in range(self.config.retries + 1):
            try:
                return self._ask(body)
            except _TryAgain as error:
                reason = str(error)
                if attempt < self.config.retries:
                    asked_for = min(error.wait_seconds, self.config.max_backoff_seconds)
                    self._sleep(max(self._pause(body, attempt), asked_for))
        raise JudgeError(f"{reason} ({self.config.retries + 1} tries)")

    def _pause(self, body: bytes, attempt: int) -> float:
        """Doubled each time, and spread by the question's hash, so that many do not come back at the same moment."""
        longest = min(self.config.max_backoff_seconds, self.config.backoff_seconds * 2**attempt)
        spread = random.Random(hashlib.blake2b(body + bytes([attempt % 256]), digest_size=8).digest()).random()
        return longest * (0.5 + 0.5 * spread)

    def _ask(self, body: bytes) -> Answer:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.config.api_key:
            headers["Authorization"] = f"Bearer {self.config.api_key}"
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        ends = time.monotonic() + self.config.timeout_seconds
        try:
            with self._opener.open(request, timeout=self.config.timeout_seconds) as response:
                return _read_answer(_read_body(response, ends))
        except urllib.error.HTTPError as error:
            with error:
                raise _of_status(error, _read_quietly(error, ends)) from error
        except urllib.error.URLError as error:
            raise _TryAgain(_in_words(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgain(_in_words(error)) from error


def _read_body(response: Any, ends: float) -> bytes:
    """The body, if it comes in time: a server that trickles would hold a thread for ever otherwise."""
    parts, size = [], 0
    while part := response.read1(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            raise _TryAgain(f"a response of more than {MAX_RESPONSE_BYTES:,} bytes")
        if time.monotonic() > ends:
            raise _TryAgain("timed out")
    length = response.headers.get("Content-Length")
    if length is not None and length.isdecimal() and size < int(length):
        raise _TryAgain("the response was cut off")
    return b"".join(parts)


def _read_quietly(response: Any, ends: float) -> bytes:
    try:
        return _read_body(response, ends)
    except (_TryAgain, OSError, http.client.HTTPException):
        return b""


def _of_status(error: urllib.error.HTTPError, body: bytes) -> Exception:
    said = f"status {error.code}{_message(body)}"
    if error.code in TRY_AGAIN:
        return _TryAgain(said, _retry_after(error.headers.get("Retry-After") or ""))
    return JobError(said) if error.code in OF_THE_JOB else JudgeError(said)


def _retry_after(value: str) -> float:
    """Seconds; a date, which the header may also hold, is not looked at."""
    return float(value) if value.isdecimal() else 0.0


def _message(body: bytes) -> str:
    """What an error says, in OpenAI's form or not."""
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, Mapping) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body.decode("utf-8", "replace")
    text = " ".join(str(text).split())[:200]
    return f": {text}" if text else ""


def _in_words(error: Any) -> str:
    if isinstance(error, TimeoutError | socket.timeout):
        return "timed out"
    return f"no connection ({type(error).__name__})" if isinstance(error, OSError) else f"a broken response ({error!r})"


def _read_answer(body: bytes) -> Answer:
    """The first choice of a completion. A body that is none is worth another try."""
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        text = choice["message"]["content"] or ""
        usage = content.get("usage") or {}
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        return Answer(text, choice.get("finish_reason"), *counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _TryAgain(f"a response that is no chat completion ({type(error).__name__})") from error
