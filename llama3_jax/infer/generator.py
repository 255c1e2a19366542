"""Scheduler and engine joined: requests in, tokens out.

`Generator.step` does one step of everything that runs; whoever owns the loop calls it (`generate` here, a thread in the
server). Not thread-safe.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.engine import Admission, Batch, BatchResult, Engine, Scores, Ticket
from llama3_jax.infer.packing import SlotWork
from llama3_jax.infer.request import Finish, Progress, Request, TokenScore
from llama3_jax.infer.sampling import needs_of
from llama3_jax.infer.scheduler import Row, Scheduler, StepPlan, Work
from llama3_jax.infer.text import TextAssembler


@dataclasses.dataclass
class Completion:
    """A whole answer."""

    request: Request
    tokens: list[int] = dataclasses.field(default_factory=list)
    scores: list[TokenScore] = dataclasses.field(default_factory=list)  # of the tokens, if asked for
    text: str = ""  # for a generator with a tokenizer; without stop tokens and stop texts
    prompt_scores: tuple[TokenScore | None, ...] | None = None
    finish: Finish | None = None
    error: str = ""

    def add(self, progress: Progress) -> None:
        """Takes in what is new."""
        if progress.token is not None:
            self.tokens.append(progress.token)
        if progress.score is not None:
            self.scores.append(progress.score)
        self.text += progress.text
        self.prompt_scores = progress.prompt_scores or self.prompt_scores
        self.finish, self.error = progress.finish or self.finish, progress.error or self.error


@dataclasses.dataclass(frozen=True)
class _Flight:
    """A step whose tokens are not known yet."""

    plan: StepPlan
    ticket: Ticket


class Generator:
    """Runs requests on an engine. With a `tokenizer` it gives text too, and requests may have stop texts."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None = None,
        *,
        steps_ahead: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`steps_ahead`: steps handed to the device before the tokens of earlier ones are known."""
        self.engine, self.tokenizer = engine, tokenizer
        self.scheduler = Scheduler(engine.config)
        self._ahead, self._clock = max(steps_ahead, engine.delay), clock
        self._flights: collections.deque[_Flight] = collections.deque()
        self._texts: dict[Request, TextAssembler] = {}
        self._prompt_scores: dict[Request, list[TokenScore | None]] = {}

    @property
    def idle(self) -> bool:
        """True when nothing runs, waits or is left to be told."""
        return self.scheduler.idle and not self._flights

    def submit(self, request: Request) -> None:
        """Takes a request. Raises ValueError for one that cannot run, QueueFull when too many wait."""
        if request.sampling.stop and self.tokenizer is None:
            raise ValueError("stop texts need a tokenizer")
        vocabulary = self.engine.model_config.vocab_size
        if request.prompt and not 0 <= min(request.prompt) <= max(request.prompt) < vocabulary:
            raise ValueError(f"the prompt has a token outside the vocabulary of {vocabulary}")
        self.scheduler.submit(request, self._clock())
        if self.tokenizer is not None:
            self._texts[request] = TextAssembler(self.tokenizer, request.sampling.stop)

    def cancel(self, request: Request) -> bool:
        """Ends a request; its pages are free at once. False if it is not here (any more)."""
        return self.scheduler.cancel(request)

    def step(self) -> list[Progress]:
        """Hands one step to the device, waits for the oldest one if enough are under way, and tells what is new."""
        self.scheduler.expire(self._clock())
        plan = self.scheduler.plan()
        if plan is not None:
            self._flights.append(self._launch(plan))
        told: list[Progress] = []
        if self._flights and (plan is None or len(self._flights) > self._ahead):
            self._land(self._flights.popleft(), told)
        told += self.scheduler.news()
        return [spoken for progress in told for spoken in self._with_text(progress)]

    def generate(self, requests: Sequence[Request]) -> Iterator[Progress]:
        """Runs requests to their ends and yields what happens, in the order in which it does."""
        waiting = collections.deque(requests)
        while waiting or not self.idle:
            while waiting and self.scheduler.num_waiting < self.engine.config.max_waiting:
                self.submit(waiting.popleft())
            yield from self.step()

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Whole answers, in the order of the requests."""
        completions = {completion.request: completion for completion in self.completions(requests)}
        return [completions[request] for request in requests]

    def completions(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Whole answers, each as soon as it is there."""
        under_way = {request: Completion(request) for request in requests}
        for progress in self.generate(requests):
            if progress.request in under_way:
                under_way[progress.request].add(progress)
            if progress.finish is not None and progress.request in under_way:
                yield under_way.pop(progress.request)

    def _launch(self, plan: StepPlan) -> _Flight:
        self.engine.admit([_admission(row) for row in plan.admitted])
        self.engine.copy(plan.copies)
        batches = [_batch(works, piece) for works, piece in plan.batches]
        return _Flight(plan, self.engine.step(batches))

    def _land(self, flight: _Flight, told: list[Progress]) -> None:
        tokens: list[int] = []
        scores: list[TokenScore | None] = []
        for (works, _), found in zip(flight.plan.batches, flight.ticket.results(), strict=True):
            for number, work in enumerate(works):
                tokens.append(int(found.token_B[number]))
                scores.append(_score(found, number, work.row.request.sampling.logprobs))
                self._score_prompt(found.prompt_scores, number, work, told)
        self.scheduler.done(flight.plan, tokens, scores)

    def _score_prompt(self, scores: Scores | None, number: int, work: Work, told: list[Progress]) -> None:
        request = work.row.request
        most = request.sampling.prompt_logprobs
        if most is None or scores is None or not work.scores_prompt or work.row.finish is not None:
            return
        so_far = self._prompt_scores.setdefault(request, [None])
        for place in range(work.count):
            following = work.start + place + 1
            if following < len(request.prompt):
                so_far.append(_token_score(request.prompt[following], scores, (number, place), most))
        if work.ends_prompt:
            told.append(Progress(request=request, prompt_scores=tuple(so_far)))

    def _with_text(self, progress: Progress) -> Iterator[Progress]:
        """`progress` with its text; ends the request at a stop text."""
        request = progress.request
        text = self._texts.get(request)
        if progress.finish is not None:
            self._texts.pop(request, None)
            self._prompt_scores.pop(request, None)
            yield dataclasses.replace(progress, text=text.finish() if text else "")
        elif text is None or progress.token is None or progress.token in request.sampling.stop_ids:
            yield progress
        elif not text.stopped:
            yield dataclasses.replace(progress, text=text.feed(progress.token))
            if text.stopped:
                self.scheduler.cancel(request, Finish.STOP)


def _admission(row: Row) -> Admission:
    return Admission(row.slot, row.lease.pages, row.request.sampling, row.request.prompt)


def _batch(works: Sequence[Work], piece: int) -> Batch:
    needs = needs_of(work.row.request.sampling for work in works)
    needs = dataclasses.replace(needs, prompt_scores=any(work.scores_prompt for work in works))
    return Batch([_slot_work(work) for work in works], piece, needs)


def _slot_work(work: Work) -> SlotWork:
    end, prompt = work.start + work.count, work.row.request.prompt
    return SlotWork(work.row.slot, work.start, work.tokens, work.draw, prompt[end] if end < len(prompt) else None)


def _score(found: BatchResult, number: int, most: int | None) -> TokenScore | None:
    if most is None or found.scores is None:
        return None
    return _token_score(int(found.token_B[number]), found.scores, number, most)


def _token_score(token: int, scores: Scores, place: Any, most: int) -> TokenScore:
    """The score of `token`, which is at `place` of the arrays of `scores`."""
    tokens, logprobs = scores.top_token[place][:most], scores.top_logprob[place][:most]
    top = tuple((int(other), float(logprob)) for other, logprob in zip(tokens, logprobs, strict=True))
    return TokenScore(token, float(scores.logprob[place]), top)
