"""The HTTP side: which path does what, who may, and what a mistake looks like (always OpenAI's error shape)."""

import asyncio
import importlib.resources
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from llama3_jax.serve import metrics, tokenizing
from llama3_jax.serve.chat import read_chat
from llama3_jax.serve.completions import read_completion
from llama3_jax.serve.context import Context
from llama3_jax.serve.fields import ApiError, parse_object
from llama3_jax.serve.respond import answering, error_response, json_response

Endpoint = Callable[[Context, Request], Awaitable[Any]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]
DISCARDED = 8  # bodies up to so many times the limit are read to their end, so that the client hears why
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


def make_app(context: Context) -> Asgi:
    """The ASGI application of a server."""
    page = importlib.resources.files("llama3_jax.serve").joinpath("page.html").read_bytes()

    async def show_page(context: Context, request: Request) -> Response:
        headers = {"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    def route(path: str, endpoint: Endpoint, method: str = "GET", *, guarded: bool = True) -> Route:
        async def answer(request: Request) -> Any:
            if guarded:
                _check_key(context, request)
            return await endpoint(context, request)

        return Route(path, answer, methods=[method])

    routes = [
        route("/", show_page, guarded=False),
        route("/health", _health, guarded=False),
        route("/metrics", _metrics, guarded=False),
        route("/v1/models", _models),
        route("/v1/models/{model:path}", _model),
        route("/v1/completions", _completions, "POST"),
        route("/v1/chat/completions", _chat, "POST"),
        route("/tokenize", _tokenize, "POST"),
        route("/detokenize", _detokenize, "POST"),
        route("/tokenizer_info", _tokenizer_info),
    ]
    handlers: dict[Any, Any] = {ApiError: _tell_error, HTTPException: _tell_http_error, ClientDisconnect: _say_nothing}
    handlers[Exception] = _tell_bug
    return _counted(context, Starlette(routes=routes, exception_handlers=handlers), {route.path for route in routes})


async def _health(context: Context, request: Request) -> Response:
    if context.service.failure or context.draining:
        return json_response({"status": context.service.failure or "draining"}, 503)
    return json_response({"status": "ok"})


async def _metrics(context: Context, request: Request) -> Response:
    return Response(context.metrics.text(), media_type=metrics.CONTENT_TYPE)


async def _models(context: Context, request: Request) -> Response:
    return json_response({"object": "list", "data": [_card(context)]})


async def _model(context: Context, request: Request) -> Response:
    name = request.path_params["model"]
    if name != context.model:
        raise ApiError(404, f"the model {name[:100]!r} does not exist", param="model", code="model_not_found")
    return json_response(_card(context))


def _card(context: Context) -> dict[str, Any]:
    card = {"id": context.model, "object": "model", "created": context.created, "owned_by": "llama3_jax"}
    return card | {"max_model_len": context.limits.max_length}


async def _completions(context: Context, request: Request) -> Asgi:
    _check_open(context)
    return answering(context, await read_completion(context, await _read_body(context, request), _owner(request)))


async def _chat(context: Context, request: Request) -> Asgi:
    _check_open(context)
    return answering(context, await read_chat(context, await _read_body(context, request), _owner(request)))


async def _tokenize(context: Context, request: Request) -> Response:
    return json_response(await tokenizing.tokenize(context, await _read_body(context, request)))


async def _detokenize(context: Context, request: Request) -> Response:
    return json_response(await tokenizing.detokenize(context, await _read_body(context, request)))


async def _tokenizer_info(context: Context, request: Request) -> Response:
    return json_response(tokenizing.tokenizer_info(context))


def _check_key(context: Context, request: Request) -> None:
    if context.api_key is None:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    same = secrets.compare_digest(key.strip().encode("latin-1"), context.api_key.encode())  # as the bytes came
    if scheme.lower() != "bearer" or not same:
        raise ApiError(401, "the API key is wrong or missing; send it as a bearer token", code="invalid_api_key")


def _check_open(context: Context) -> None:
    if context.draining:
        raise ApiError(503, "the server is shutting down and takes no new requests", code="draining")
    if context.service.failure:
        raise ApiError(503, context.service.failure, code="unavailable")


def _owner(request: Request) -> str:
    """Whose turn it is, unless the body names a user: the connection's."""
    return f"{request.client.host}:{request.client.port}" if request.client else ""


async def _read_body(context: Context, request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the content type must be application/json, not {kind[:100] or 'absent'}")
    most, data = context.limits.max_body, bytearray()
    size = 0
    try:
        async with asyncio.timeout(context.limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    data += chunk
                elif size > DISCARDED * most:
                    break
    except TimeoutError as error:
        raise ApiError(408, f"the body did not arrive within {context.limits.body_seconds:.0f} seconds") from error
    if size > most:
        raise ApiError(413, f"the body is larger than {most:,} bytes", code="body_too_large")
    return parse_object(bytes(data))


async def _tell_error(request: Request, error: ApiError) -> Response:
    return error_response(error)


async def _tell_http_error(request: Request, error: HTTPException) -> Response:
    said = {404: f"there is nothing at {request.url.path[:100]}", 405: f"{request.method} is not allowed here"}
    return error_response(ApiError(error.status_code, said.get(error.status_code, error.detail)))


async def _tell_bug(request: Request, error: Exception) -> Response:
    return error_response(ApiError(500, "the server made a mistake; its log says more"))


async def _say_nothing(request: Request, error: ClientDisconnect) -> Response:
    """The client left while it was sending: nobody reads this."""
    return Response(status_code=499)


def _counted(context: Context, app: Asgi, paths: set[str]) -> Asgi:
    """`app`, its responses counted by path and status."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"] if scope["path"] in paths else "other"

        async def send_counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                context.metrics.response(path, message["status"])
            await send(message)

        await app(scope, receive, send_counted)

    return counted
