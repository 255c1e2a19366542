"""A call answered over HTTP: whole, or event by event; ended early when its client leaves."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from starlette.responses import Response

from llama3_jax.infer.request import Progress, Request
from llama3_jax.infer.scheduler import QueueFull
from llama3_jax.serve.context import Context
from llama3_jax.serve.fields import ApiError
from llama3_jax.serve.service import Answers, Unavailable

LOG = logging.getLogger(__name__)
RETRY_SECONDS = "1"
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Call(Protocol):
    """What `CompletionCall` and `ChatCall` have in common."""

    requests: Sequence[Request]
    stream: bool

    def opening(self) -> Iterable[dict[str, Any]]:
        """Events at the beginning of a stream."""
        ...

    def add(self, progress: Progress) -> None:
        """Takes in what is new."""
        ...

    def chunks(self, requests: Iterable[Request]) -> Iterable[dict[str, Any]]:
        """Events of a stream with what is new of these requests."""
        ...

    def closing(self) -> Iterable[dict[str, Any]]:
        """Events at the end of a stream."""
        ...

    def body(self) -> dict[str, Any]:
        """The whole response."""
        ...


def answering(context: Context, call: Call) -> Callable[[Any, Receive, Send], Awaitable[None]]:
    """The response to `call`, as an ASGI application."""

    async def respond(scope: Any, receive: Receive, send: Send) -> None:
        context.open_calls += 1
        try:
            async with await _submit(context, call) as answers:
                watcher = asyncio.create_task(_close_when_left(receive, answers))
                try:
                    await (_stream if call.stream else _whole)(context, call, answers, scope, receive, send)
                finally:
                    watcher.cancel()
        finally:
            context.open_calls -= 1

    return respond


def json_response(content: Any, status: int = 200) -> Response:
    """JSON, with a hint when to come back for a server that is busy."""
    headers = {"retry-after": RETRY_SECONDS} if status in (429, 503) else None
    return Response(dump(content), status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """An error in OpenAI's shape."""
    response = json_response(error.body(), error.status)
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def dump(content: Any) -> bytes:
    """JSON without blanks; strings that are no text (lone surrogates) are escaped."""
    return json.dumps(content, separators=(",", ":")).encode("ascii")


async def _submit(context: Context, call: Call) -> Answers:
    try:
        return await context.service.submit(call.requests)
    except QueueFull as error:
        raise ApiError(429, str(error), code="queue_full") from error
    except Unavailable as error:
        raise ApiError(503, str(error), code="unavailable") from error
    except ValueError as error:
        raise ApiError(400, str(error), param="prompt", code="invalid_value") from error


async def _close_when_left(receive: Receive, answers: Answers) -> None:
    """Waits for the client to go."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answers.close()


async def _whole(context: Context, call: Call, answers: Answers, scope: Any, receive: Receive, send: Send) -> None:
    async for news in answers.news():
        for progress in news:
            call.add(progress)
    if not answers.closed:
        await json_response(call.body())(scope, receive, send)


async def _stream(context: Context, call: Call, answers: Answers, scope: Any, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    headers.append((b"x-accel-buffering", b"no"))  # a proxy is to pass events on as they come
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        async with asyncio.timeout(None) as patience:
            async for events in _events(call, answers):
                patience.reschedule(asyncio.get_running_loop().time() + context.limits.send_seconds)
                await send({"type": "http.response.body", "body": events, "more_body": True})
                patience.reschedule(None)
    except TimeoutError:
        LOG.warning("a client took nothing for %.0f seconds and was left", context.limits.send_seconds)
        return
    if not answers.closed:
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


async def _events(call: Call, answers: Answers) -> AsyncIterator[bytes]:
    """Server-sent events, several at a time when more than one has come; an error is the last of them."""
    yield _lines(call.opening())
    try:
        async for news in answers.news():
            for progress in news:
                call.add(progress)
            changed = dict.fromkeys(progress.request for progress in news)
            lines = _lines(call.chunks(changed))
            if lines:
                yield lines
    except ApiError as error:
        yield _lines([error.body()])
        return
    yield _lines(call.closing())


def _lines(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + dump(event) + b"\n\n" for event in events)
