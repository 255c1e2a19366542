"""A server from start to end: the socket, the line that says it is ready, and a drain on SIGTERM.

On SIGTERM or SIGINT new requests get 503 while those that run finish, for at most `drain_seconds`; what is left then
ends with an error. A second signal skips the waiting.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from llama3_jax.serve.app import make_app
from llama3_jax.serve.context import Context

LOG = logging.getLogger(__name__)
LAST_SECONDS = 5.0  # for responses to leave, once nothing is computed any more
POLL_SECONDS = 0.02


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one. OSError naming the address when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio asks, for TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.listen(2048)
    return listener


def serve(context: Context, listener: socket.socket, drain_seconds: float, on_ready: Callable[[], None]) -> None:
    """Serves until a signal (or `Server.stop`) ends it. The service's thread is started and stopped here."""
    Server(context, drain_seconds).run(listener, on_ready)


class Server:
    """A server that can be stopped from any thread."""

    def __init__(self, context: Context, drain_seconds: float):
        self._context, self._drain_seconds = context, drain_seconds
        config = uvicorn.Config(
            make_app(context),  # pyright: ignore[reportArgumentType]
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(LAST_SECONDS),
        )
        self._uvicorn = uvicorn.Server(config)
        self._uvicorn.handle_exit = self._on_signal  # what uvicorn calls; its own closes the door at once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    def run(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        """Serves until a signal, or `stop`."""
        self._context.service.start()
        try:
            asyncio.run(self._main(listener, on_ready))
        finally:
            self._context.service.stop()
            listener.close()

    def stop(self) -> None:
        """Begins to drain; a second time, ends at once. May be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_to_drain)

    async def _main(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))
        while not (self._uvicorn.started or serving.done()):
            await asyncio.sleep(POLL_SECONDS)
        if not serving.done():
            on_ready()
        await serving

    def _on_signal(self, sig: int, frame: Any) -> None:
        self.stop()

    def _begin_to_drain(self) -> None:
        if self._context.draining:
            self._uvicorn.should_exit = self._uvicorn.force_exit = True
            return
        self._context.draining = True
        self._drain = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(self._drain_seconds):
                await self._quiet()
        except TimeoutError:
            LOG.warning("%d calls did not end within %.0f seconds", self._context.open_calls, self._drain_seconds)
            await asyncio.to_thread(self._context.service.stop)
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self._quiet()
            except TimeoutError:
                LOG.warning("%d clients did not take their answers", self._context.open_calls)
        self._uvicorn.should_exit = True

    async def _quiet(self) -> None:
        while self._context.open_calls:
            await asyncio.sleep(POLL_SECONDS)
