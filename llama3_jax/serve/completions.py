"""`/v1/completions`: text or tokens continued, as OpenAI's API has it.

A prompt that is a string begins with `<|begin_of_text|>` unless `add_special_tokens` is false, and what it spells is
text: control tokens are those of a prompt of token ids, or of a string with `parse_special`.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama3_jax.infer.request import MAX_TOP_LOGPROBS, Progress, Request
from llama3_jax.serve.answer import Answer
from llama3_jax.serve.context import Context, new_id
from llama3_jax.serve.fields import ApiError, Fields, is_integers
from llama3_jax.serve.sampling import MAX_ANSWERS, read_sampling, refuse_unsupported, seed_of
from llama3_jax.serve.tokens import completion_logprobs, prompt_offsets

MAX_TOKENS = 16  # of an answer that asks for no length: OpenAI's


class _Choice:
    """One answer, and how much of it has been told."""

    def __init__(self, context: Context, request: Request, index: int, echo: bool):
        self.answer = Answer(request, context.tokenizer)
        self._tokenizer, self._index = context.tokenizer, index
        self._echo, self._offsets = prompt_offsets(context.tokenizer, request.prompt) if echo else ("", [])
        self._echo_left = echo
        self._told = 0  # characters of the answer

    def take(self) -> dict[str, Any] | None:
        """What is new, as a choice; None when nothing is."""
        answer, sampling = self.answer, self.answer.request.sampling
        if self._echo_left and sampling.prompt_logprobs is not None and answer.prompt_scores is None:
            return None
        text, placed = answer.text[self._told :], []
        self._told = len(answer.text)
        if self._echo_left:
            text = self._echo + text
            scores = answer.prompt_scores or ()
            placed += [
                (token, offset, score)
                for token, offset, score in zip(answer.request.prompt, self._offsets, scores, strict=False)
            ]
            self._echo_left = False
        begin = len(self._echo)
        placed += [(each.score.token, begin + each.offset, each.score) for each in answer.take_scores(self._told)]
        if not (text or placed or answer.finish):
            return None
        asked = sampling.logprobs is not None
        return {
            "index": self._index,
            "text": text,
            "logprobs": completion_logprobs(self._tokenizer, placed) if asked else None,
            "finish_reason": answer.finish and answer.finish.value,
        }


class CompletionCall:
    """A call of the endpoint: what to ask the engine, and how to tell what it says."""

    def __init__(self, context: Context, requests: Sequence[Request], num_answers: int, fields: Fields):
        echo = fields.boolean("echo")
        self.requests, self.stream = requests, fields.boolean("stream")
        self.usage_in_stream = fields.inside("stream_options").boolean("include_usage")
        self._num_answers = num_answers
        self._choices = {r: _Choice(context, r, index, echo) for index, r in enumerate(requests)}
        self._frame = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": context.model,
        }

    def opening(self) -> Iterable[dict[str, Any]]:
        """Events at the beginning of a stream."""
        return ()

    def add(self, progress: Progress) -> None:
        """Takes in what is new."""
        self._choices[progress.request].answer.add(progress)

    def chunks(self, requests: Iterable[Request]) -> Iterator[dict[str, Any]]:
        """Events of a stream with what is new of these requests."""
        for request in requests:
            choice = self._choices[request].take()
            if choice is not None:
                yield self._frame | {"choices": [choice]} | ({"usage": None} if self.usage_in_stream else {})

    def closing(self) -> Iterable[dict[str, Any]]:
        """Events at the end of a stream."""
        return [self._frame | {"choices": [], "usage": self._usage()}] if self.usage_in_stream else ()

    def body(self) -> dict[str, Any]:
        """The whole response."""
        return self._frame | {"choices": [c.take() for c in self._choices.values()], "usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        prompts = [len(request.prompt) for request in self.requests[:: self._num_answers]]
        return usage(sum(prompts), (choice.answer for choice in self._choices.values()))


def usage(prompt_tokens: int, answers: Iterable[Answer]) -> dict[str, int]:
    """Numbers of tokens, those of a prompt with several answers counted once."""
    written = sum(len(answer.tokens) for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


async def read_completion(context: Context, body: dict[str, Any], owner: str) -> CompletionCall:
    """A call from its body. Raises ApiError naming what is wrong with it."""
    fields = Fields(body)
    context.check_model(fields)
    refuse_unsupported(fields)
    fields.refuse("suffix", [""], "nothing can be written before a text that is there")
    number = fields.integer("n", 1, 1, MAX_ANSWERS)
    fields.refuse("best_of", [number], "answers are not ranked; ask for n and choose")
    prompts = await _read_prompts(context, fields)
    logprobs = fields.integer("logprobs", None, 0, MAX_TOP_LOGPROBS)
    most = fields.integer("max_tokens", MAX_TOKENS, 0, 2**31 - 1)
    longest = max(prompts, key=len)
    sampling = read_sampling(
        fields,
        context.tokenizer.stop_ids,
        max_new_tokens=context.room(fields, "prompt", len(longest), most, most),
        logprobs=logprobs,
        prompt_logprobs=logprobs if fields.boolean("echo") else None,
    )
    check_number(context, len(prompts) * number, "prompt")
    requests = make_requests(context, prompts, sampling, number, fields.text("user", owner))
    return CompletionCall(context, requests, number, fields)


def make_requests(context: Context, prompts: Sequence[list[int]], sampling, number: int, owner: str) -> list[Request]:
    """`number` requests for each prompt, each with a seed of its own."""
    seeds = [dataclasses.replace(sampling, seed=seed_of(sampling.seed, index)) for index in range(number)]
    timeout = context.limits.request_seconds
    return [Request(prompt=p, sampling=s, owner=owner, timeout=timeout) for p in prompts for s in seeds]


def check_number(context: Context, number: int, param: str) -> None:
    """Raises ApiError for more answers than could ever wait together."""
    most = context.service.max_waiting
    if number > most:
        raise ApiError(400, f"one call can ask for {most} answers, not {number}", param=param, code="invalid_value")


async def _read_prompts(context: Context, fields: Fields) -> list[list[int]]:
    value = fields.raw("prompt")
    bos, special = fields.boolean("add_special_tokens", True), fields.boolean("parse_special")
    if value is None:
        raise fields.error("prompt", "is required", "missing_required_parameter")
    if isinstance(value, str) or (is_integers(value) and value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise fields.error("prompt", "must be a string, token ids, or a list of either, not empty", "invalid_type")
    if len(value) > context.service.max_waiting:
        check_number(context, len(value), "prompt")
    prompts = []
    for item in value:
        if isinstance(item, str):
            prompts.append(await context.encode(item, bos=bos, special=special))
        elif is_integers(item):
            prompts.append(item)
        else:
            raise fields.error("prompt", "must be a string, token ids, or a list of either", "invalid_type")
    if not all(prompts):
        raise fields.error("prompt", "has no tokens", "invalid_value")
    return prompts
