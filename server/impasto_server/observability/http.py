"""HTTP endpoints for operators, on a separate address: /metrics, /healthz (it is alive) and /readyz (it accepts jobs)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_CONNECTIONS = 16
"""Maximum number of open connections; each has a thread."""
CONNECTION_S = 5.0
"""How long a connection may be idle."""
STUCK_S = 30.0
"""A server whose event loop has not run for this long is not alive."""
_WORDS = {200: "200 OK", 404: "404 Not Found", 503: "503 Service Unavailable"}


class Pulse:
    """The server's health, set by its event loop and read by other threads."""

    def __init__(self) -> None:
        self.serving = False
        self._beat = time.monotonic()

    def beat(self) -> None:
        """Record that the event loop runs."""
        self._beat = time.monotonic()

    @property
    def lives(self) -> bool:
        """Whether the event loop has run recently."""
        return time.monotonic() - self._beat < STUCK_S


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments, **named)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, or close the connection if too many are open: they share the server's file descriptors."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then release the slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, which may take seconds to fail."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = CONNECTION_S

    def log_message(self, *args: Any) -> None:
        """Log nothing: probes arrive every few seconds."""


class Operations:
    """Serves on a thread until it is closed.

    Args:
        host: Where to listen.
        port: 0 picks a free one.
        registry: The metrics.
        pulse: The server's health.

    Raises:
        OSError: If the address is unavailable.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, pulse: Pulse) -> None:
        self._metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)
        self._pulse = pulse
        kind = _ServerV6 if ":" in host else _Server
        self._server = make_server(host, port, self._answer, kind, _Quiet)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop; blocks for a moment."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        """Answer GET, and HEAD with the same headers: neither wsgiref nor prometheus_client does the latter."""
        if environ["REQUEST_METHOD"] != "HEAD":
            return self._get(environ, respond)
        started: list[Any] = []
        body = b"".join(self._get({**environ, "REQUEST_METHOD": "GET"}, lambda *start: started.extend(start)))
        respond(started[0], [*started[1], ("Content-Length", str(len(body)))])
        return ()

    def _get(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, respond)
        status, text = 404, "not found; use /metrics, /healthz or /readyz"
        if path == "/healthz":
            status, text = (200, "alive") if self._pulse.lives else (503, "the event loop is stuck")
        elif path == "/readyz":
            ready = self._pulse.serving and self._pulse.lives
            status, text = (200, "serving") if ready else (503, "not serving")
        respond(_WORDS[status], [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]
