"""The thread that owns a `Generator`, and its door to an event loop.

One thread steps the generator; everybody else hands in requests and cancellations through a queue and hears of what
comes in the event loop they asked from. What a consumer has not taken yet is merged on its side, so a slow one costs no
more memory than its own answers and delays nobody.

A step that raises ends the requests that were running with an error. A new generator takes over the rest; when that
happens `MAX_CRASHES` times within `CRASH_WINDOW` seconds, or the new one cannot be made, the service stays failed.
"""

import asyncio
import collections
import dataclasses
import gc
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

from llama3_jax.infer.generator import Generator
from llama3_jax.infer.request import Finish, Progress, Request
from llama3_jax.infer.scheduler import QueueFull
from llama3_jax.serve.metrics import Metrics, Sizes

MAX_CRASHES, CRASH_WINDOW = 3, 60.0
LOG = logging.getLogger(__name__)


class Unavailable(RuntimeError):
    """No requests are taken: the service is stopping, or failed for good."""


class Answers:
    """What comes of a few requests, for one consumer in one event loop."""

    def __init__(self, service: "Service", requests: Sequence[Request]):
        self.requests = tuple(requests)
        self._service, self._loop = service, asyncio.get_running_loop()
        self._news: list[Progress] = []
        self._left = set(requests)  # of which the end has not been told
        self._woken = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> "Answers":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def news(self) -> AsyncIterator[list[Progress]]:
        """What came since the last time, until all requests have ended or `close` was called."""
        while self._left or self._news:
            while not self._news and not self._closed:
                self._woken.clear()
                await self._woken.wait()
            if self._closed:
                return
            news, self._news = self._news, []
            yield news

    def close(self) -> None:
        """Cancels what still runs; pages are free after the step under way."""
        if not self._closed:
            self._closed = True
            self._woken.set()
            if self._left:
                self._service.cancel(self.requests)

    @property
    def closed(self) -> bool:
        """Whether the consumer has left."""
        return self._closed

    def tell(self, progress: Progress) -> None:
        """Takes what is new; called in the consumer's event loop."""
        if progress.finish is not None:
            self._left.discard(progress.request)
        if not self._closed:
            self._news.append(progress)
            self._woken.set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where `tell` is to be called."""
        return self._loop


@dataclasses.dataclass
class _Live:
    """A request on its way."""

    answers: Answers
    submitted: float
    last_token: float | None = None  # when it came


@dataclasses.dataclass(frozen=True)
class _Submission:
    answers: Answers
    accepted: asyncio.Future[None]


class Service:
    """Answers requests from event loops. `make_generator` makes what answers, at the start and after a crash."""

    def __init__(self, make_generator: Callable[[], Generator], metrics: Metrics):
        self.metrics = metrics
        self._make = make_generator
        self._generator = make_generator()
        self.max_waiting = self._generator.engine.config.max_waiting
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._live: dict[Request, _Live] = {}  # the thread's own
        self._crashes: collections.deque[float] = collections.deque(maxlen=MAX_CRASHES)
        self.failure = ""  # why no requests are taken
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self._sizes = Sizes(0, 0, 0, self._generator.engine.config.num_pages)
        metrics.sizes = lambda: self._sizes

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends what still runs with an error, and the thread. Waits for the step under way."""
        self.failure = self.failure or "the server is shutting down"
        self._inbox.put(None)
        self._thread.join()

    async def submit(self, requests: Sequence[Request]) -> Answers:
        """Hands in requests, all or none.

        Raises ValueError for one that cannot run, QueueFull when too many wait, Unavailable when none are taken.
        """
        if self.failure:
            raise Unavailable(self.failure)
        if self._inbox.qsize() > self.max_waiting:
            raise QueueFull("too many requests are waiting already; try again later")
        answers = Answers(self, requests)
        submission = _Submission(answers, answers.loop.create_future())
        self._inbox.put(lambda: self._accept(submission))
        try:
            await submission.accepted
        except BaseException:
            answers.close()
            raise
        return answers

    def cancel(self, requests: Sequence[Request]) -> None:
        """Ends requests; those that ended already are left alone."""
        self._inbox.put(lambda: self._cancel(requests))

    # Below, everything happens in the thread.

    def _run(self) -> None:
        stopped = self._serve()
        for request in list(self._live):
            self._tell([Progress(request=request, finish=Finish.ERROR, error=self.failure)])
        while not stopped:  # it failed: refuse whatever comes
            action = self._inbox.get()
            stopped = action is None
            if action is not None:
                action()
        while not self._inbox.empty():
            action = self._inbox.get()
            if action is not None:
                action()

    def _serve(self) -> bool:
        """Runs until it is stopped (True) or has failed for good (False)."""
        while self._take_inbox():
            reason = ""
            try:
                self._tell(self._generator.step())
            except Exception as error:
                LOG.exception("a step failed")
                reason = f"the engine failed: {type(error).__name__}"
            if reason and not self._recover(reason):
                return False
            scheduler = self._generator.scheduler
            pool = scheduler.pool
            self._sizes = Sizes(len(scheduler.rows), scheduler.num_waiting, pool.held, pool.available)
        return True

    def _take_inbox(self) -> bool:
        """Does what was asked for, and waits for it when there is nothing else to do. False at the end."""
        while True:
            try:
                action = self._inbox.get(block=self._generator.idle)
            except queue.Empty:
                return True
            if action is None:
                return False
            action()

    def _accept(self, submission: _Submission) -> None:
        taken: list[Request] = []
        problem: Exception | None = Unavailable(self.failure) if self.failure else None
        now = time.monotonic()
        try:
            for request in submission.answers.requests if problem is None else ():
                self._generator.submit(request)
                taken.append(request)
                self._live[request] = _Live(submission.answers, now)
        except (ValueError, QueueFull) as error:
            problem = error
            for request in taken:
                del self._live[request]
                self._generator.cancel(request)
        _call(submission.answers.loop, _settle, submission.accepted, problem)

    def _cancel(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request in self._live:
                self._generator.cancel(request)

    def _tell(self, news: Sequence[Progress]) -> None:
        told: dict[asyncio.AbstractEventLoop, list[tuple[Answers, Progress]]] = {}
        now = time.monotonic()
        for progress in news:
            live = self._live.get(progress.request)
            if live is None:
                continue
            self._measure(live, progress, now)
            if progress.finish is not None:
                del self._live[progress.request]
            told.setdefault(live.answers.loop, []).append((live.answers, progress))
        for loop, pairs in told.items():
            _call(loop, _deliver, pairs)

    def _measure(self, live: _Live, progress: Progress, now: float) -> None:
        if progress.token is not None:
            self.metrics.token(now - (live.last_token or live.submitted), first=live.last_token is None)
            live.last_token = now
        if progress.finish is not None:
            self.metrics.end(progress.finish, len(progress.request.prompt), now - live.submitted)

    def _recover(self, reason: str) -> bool:
        """Ends what ran with an error; a new generator goes on with what had not begun. False if there is none."""
        running = {row.request for row in self._generator.scheduler.rows.values()}
        begun = [request for request, live in self._live.items() if request in running or live.last_token is not None]
        self._tell([Progress(request=request, finish=Finish.ERROR, error=reason) for request in begun])
        now = time.monotonic()
        self._crashes.append(now)
        self.metrics.crash()
        if len(self._crashes) == MAX_CRASHES and now - self._crashes[0] < CRASH_WINDOW:
            self.failure = f"{reason}, {MAX_CRASHES} times within {CRASH_WINDOW:.0f} seconds"
            return False
        del self._generator  # the memory of its pages, before there are others
        gc.collect()
        try:
            self._generator = self._make()
            for request in self._live:
                self._generator.submit(request)
        except Exception as error:
            LOG.exception("no new engine could be made")
            self.failure = f"{reason}; no new one could be made: {type(error).__name__}"
            return False
        return True


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Calls in the loop, if it still runs."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        LOG.debug("an event loop ended before its answers")


def _settle(accepted: "asyncio.Future[None]", problem: Exception | None) -> None:
    if accepted.done():
        return
    if problem is None:
        accepted.set_result(None)
    else:
        accepted.set_exception(problem)


def _deliver(pairs: Sequence[tuple[Answers, Progress]]) -> None:
    for answers, progress in pairs:
        answers.tell(progress)
