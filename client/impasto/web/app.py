"""Builds the gateway, and serves it."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from impasto.errors import ImpastoError
from impasto.protobuf_fields import invalid
from impasto.signals import stopping
from impasto.web import openapi, pages, routes_images, routes_jobs, statuses
from impasto.web.endings import Endings
from impasto.web.gateway import Gateway
from impasto.web.heads import Heads
from impasto.web.limits import App, BodyLimit
from impasto.web.security import Security
from impasto.web.settings import WebSettings

BACKLOG = 2048
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
_SENT_HEADERS = ["Authorization", "Content-Type", "If-None-Match", "Last-Event-ID"]
_READ_HEADERS = ["Content-Disposition", "ETag", "Impasto-Job-Id", "Location", "Retry-After"]


def create_app(settings: WebSettings) -> FastAPI:
    """Return the gateway as an ASGI application.

    Raises:
        InvalidRequest: If the server's address or credentials are invalid.
    """
    gateway = Gateway(settings.server)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        async with gateway:
            yield

    app = FastAPI(title="impasto", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, redirect_slashes=False)
    app.state.gateway = gateway
    routers = (routes_jobs.router, routes_images.router, pages.router)
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    app.add_exception_handler(ImpastoError, statuses.on_error)
    app.add_exception_handler(statuses.HttpError, statuses.on_http_error)
    app.add_exception_handler(HTTPException, statuses.on_http_error)
    app.add_exception_handler(RequestValidationError, statuses.on_invalid)
    app.add_exception_handler(ClientDisconnect, statuses.on_left)
    app.add_exception_handler(Exception, statuses.on_bug)
    return app


def guarded(app: FastAPI, settings: WebSettings) -> App:
    """Return an application behind its limits: what they reject never reaches it, and its errors have their headers too.

    The headers for other origins are outside the limits, and inside the check of hosts, which preflights are subject to.
    """
    limited: App = Endings(BodyLimit(Heads(app), settings.max_body_bytes))
    if settings.origins:
        limited = CORSMiddleware(
            limited,
            allow_origins=settings.origins,
            allow_methods=_METHODS,
            allow_headers=_SENT_HEADERS,
            expose_headers=_READ_HEADERS,
        )
    return Security(limited, settings)


def _described(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        app.openapi_schema = openapi.describe(app)
    return app.openapi_schema


class Server(uvicorn.Server):
    """Serves until it is told to stop; progress streams then end at once, and their watchers come back by themselves.

    Args:
        settings: What to serve.
        on_ready: Called with the address of the page.
        obeys_signals: Whether SIGTERM, SIGINT and SIGHUP stop it; else only ``should_exit`` does.
    """

    def __init__(
        self, settings: WebSettings, on_ready: Callable[[str], None] = lambda _: None, *, obeys_signals: bool = True
    ) -> None:
        app = create_app(settings)
        self._gateway: Gateway = app.state.gateway
        self._on_ready, self._obeys_signals = on_ready, obeys_signals
        self._settings = settings
        config = uvicorn.Config(
            guarded(app, settings),
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=settings.grace_s,
            backlog=BACKLOG,
            lifespan="on",
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at signals, if it obeys them; that is a normal end, which uvicorn would turn into a death by the signal."""
        if not self._obeys_signals or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_stop) for number in stopping()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        """Stop within the grace time; at once when told a second time. A closed terminal does not cut the grace time."""
        del frame
        self.force_exit = self.should_exit and number != getattr(signal, "SIGHUP", None)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = self._settings.address[0], sockets[0].getsockname()[1]
            self._on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then stop."""
        self._gateway.end_streams()
        await super().shutdown(sockets)


def listening(settings: WebSettings) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InvalidRequest: If the address is unavailable.
    """
    host, port = settings.address
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With its protocol: asyncio turns off Nagle only for sockets that say TCP; each answer would take 40 ms.
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen(BACKLOG)
    except OSError as error:
        raise invalid("listen", f"cannot listen on {settings.listen}: {error.strerror or error}") from None
    return made


async def serve(server: Server, settings: WebSettings) -> None:
    """Serve until the server is told to stop.

    Raises:
        InvalidRequest: If the address is unavailable.
    """
    logging.getLogger("uvicorn.error").addFilter(_not_of_grace)
    await server.serve([listening(settings)])


def _not_of_grace(record: logging.LogRecord) -> bool:
    """Drop uvicorn's error about requests that outlast the grace time: they have their answer."""
    return "timeout graceful shutdown exceeded" not in str(record.msg)
