"""Tokens in the words of the API: strings, bytes, places and log-probabilities.

Log-probabilities are those of the model itself, before temperature, filters and penalties.
"""

import codecs
import math
from collections.abc import Iterable, Sequence
from typing import Any

from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.request import TokenScore
from llama3_jax.serve.answer import PlacedToken

LEAST_LOGPROB = -9999.0  # JSON has no infinity


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """A token's bytes; none for an id beyond the tokenizer's vocabulary."""
    return tokenizer.decode_bytes([token]) if token < tokenizer.vocab_size else b""


def name_of(tokenizer: Tokenizer, token: int) -> str:
    r"""A token as a string that no other token has: `bytes:\xe2\x82` where its bytes are no whole characters."""
    data = bytes_of(tokenizer, token)
    if not data:
        return f"id:{token}"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def completion_logprobs(tokenizer: Tokenizer, placed: Iterable[tuple[int, int, TokenScore | None]]) -> dict[str, Any]:
    """Log-probabilities as completions tell them, of `(token, offset, score)`; a first token has no score.

    `top_logprobs` holds the token itself besides the likeliest, so its largest value is the token's own if, and only
    if, a greedy answer would have had it.
    """
    found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, offset, score in placed:
        name = name_of(tokenizer, token)
        found["tokens"].append(name)
        found["text_offset"].append(offset)
        found["token_logprobs"].append(None if score is None else finite(score.logprob))
        top = None if score is None else {name_of(tokenizer, other): finite(value) for other, value in score.top}
        found["top_logprobs"].append(top if score is None or top is None else top | {name: finite(score.logprob)})
    return found


def prompt_offsets(tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[str, list[int]]:
    """A prompt's text without special tokens, and where in it each token begins."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, length, parts = [], 0, []
    for token in prompt:
        offsets.append(length)
        if token < tokenizer.num_bpe_tokens:
            parts.append(decoder.decode(tokenizer.decode_bytes([token])))
            length += len(parts[-1])
    return "".join(parts) + decoder.decode(b"", final=True), offsets


def chat_logprobs(tokenizer: Tokenizer, placed: Iterable[PlacedToken]) -> dict[str, Any]:
    """Log-probabilities as chats tell them."""
    return {"content": [_entry(tokenizer, each.score) for each in placed], "refusal": None}


def _entry(tokenizer: Tokenizer, score: TokenScore) -> dict[str, Any]:
    top = [_named(tokenizer, token, logprob) for token, logprob in score.top]
    return _named(tokenizer, score.token, score.logprob) | {"top_logprobs": top}


def _named(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = bytes_of(tokenizer, token)
    text = data.decode("utf-8", errors="replace") or f"id:{token}"
    return {"token": text, "logprob": finite(logprob), "bytes": list(data)}


def finite(logprob: float) -> float:
    """A value that JSON can say."""
    return logprob if math.isfinite(logprob) else LEAST_LOGPROB
