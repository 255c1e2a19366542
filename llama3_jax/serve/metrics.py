"""Numbers for Prometheus: what came in, what went out, how long it took, and what is held now."""

import dataclasses
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from llama3_jax.infer.request import Finish

FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
REQUEST_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What there is at a moment."""

    running: int  # requests
    waiting: int
    pages_held: int
    pages_free: int


class Metrics:
    """All of a server's numbers. `sizes` is asked when they are read."""

    def __init__(self):
        self.sizes: Callable[[], Sizes] = lambda: Sizes(0, 0, 0, 0)
        disable_created_metrics()  # series that say when a series began
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter("llama3_requests", "Answers by how they ended", ["outcome"], registry=registry)
        for finish in Finish:
            self._requests.labels(finish.value)
        self._responses = Counter("llama3_http_responses", "HTTP responses", ["path", "status"], registry=registry)
        self._prompt = Counter("llama3_prompt_tokens", "Tokens of prompts", registry=registry)
        self._generated = Counter("llama3_generated_tokens", "Tokens of answers", registry=registry)
        self._crashes = Counter("llama3_engine_crashes", "Steps of the engine that failed", registry=registry)
        self._first = Histogram(
            "llama3_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._next = Histogram(
            "llama3_time_per_output_token_seconds",
            "Between two tokens of an answer",
            buckets=TOKEN_SECONDS,
            registry=registry,
        )
        self._whole = Histogram(
            "llama3_request_seconds",
            "From a request's arrival to its end",
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        registry.register(self)  # pyright: ignore[reportArgumentType]: a collector is what has `collect`

    def token(self, seconds: float, *, first: bool) -> None:
        """A token came, so long after the one before or, `first`, after the request."""
        self._generated.inc()
        (self._first if first else self._next).observe(seconds)

    def end(self, finish: Finish, prompt_tokens: int, seconds: float) -> None:
        """A request ended."""
        self._requests.labels(finish.value).inc()
        self._prompt.inc(prompt_tokens)
        self._whole.observe(seconds)

    def crash(self) -> None:
        """A step of the engine failed."""
        self._crashes.inc()

    def response(self, path: str, status: int) -> None:
        """An HTTP response was begun."""
        self._responses.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What there is at this moment, for the registry."""
        sizes = self.sizes()
        for name, value, meaning in (
            ("llama3_requests_running", sizes.running, "Requests that are computed"),
            ("llama3_requests_waiting", sizes.waiting, "Requests in line"),
            ("llama3_pages_held", sizes.pages_held, "Pages of the cache that running requests hold"),
            ("llama3_pages_free", sizes.pages_free, "Pages that a new request could get"),
        ):
            yield GaugeMetricFamily(name, meaning, value=value)
