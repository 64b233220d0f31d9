"""Limits on bodies, before they are read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from impasto.web.statuses import HttpError, response_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_READING = 16
"""Bodies that are read at a time; each may be held on the disk meanwhile."""
SILENCE_S = 30.0
"""Time without a byte after which a body is given up."""
DISCARDED, DISCARDING_S = 4, 5.0
"""A body that is too large is discarded for a while, as a multiple of the limit and in seconds: a client that does not read
while it sends would otherwise lose the answer."""


class BodyLimit:
    """Rejects bodies that are too large, too slow or too many, without keeping them.

    Args:
        app: What to protect.
        max_bytes: Largest body.
    """

    def __init__(self, app: App, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes
        self._reading = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request."""
        headers = dict(scope.get("headers") or ())
        if scope["type"] != "http" or not (b"content-length" in headers or b"transfer-encoding" in headers):
            await self._app(scope, receive, send)
            return
        try:
            declared = int(headers.get(b"content-length", b"0"))
        except ValueError:
            declared = 0  # the HTTP server has rejected such a request already
        if declared > self._max_bytes:
            await self._refuse(scope, receive, send)
        elif declared == 0 and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
        elif self._reading >= MAX_READING:
            error = HttpError(503, "BUSY", f"{MAX_READING} requests are being read; try again")
            await response_of(error)(scope, receive, send)
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request whose body is counted while it is read."""
        total, reading = 0, True
        self._reading += 1

        def done() -> None:
            nonlocal reading
            self._reading -= reading
            reading = False

        async def counted() -> Message:
            nonlocal total
            try:
                message = await asyncio.wait_for(receive(), SILENCE_S) if reading else await receive()
            except TimeoutError:
                raise HttpError(408, "BODY_SILENT", f"nothing of the body arrived for {SILENCE_S:g} s") from None
            total += len(message.get("body", b""))
            if total > self._max_bytes:
                raise too_large(self._max_bytes)
            if not message.get("more_body"):
                done()
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            done()

    async def _refuse(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer before the body was read, then discard some of it, and close the connection."""
        response = response_of(too_large(self._max_bytes))
        response.headers["Connection"] = "close"
        headers = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        await send(headers)
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        expects = dict(scope["headers"]).get(b"expect", b"").lower() == b"100-continue"
        left, until = DISCARDED * self._max_bytes, time.monotonic() + DISCARDING_S
        while not expects and left > 0 and time.monotonic() < until:
            try:
                message = await asyncio.wait_for(receive(), DISCARDING_S)
            except TimeoutError:
                break
            left -= len(message.get("body", b""))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.body"})


def too_large(max_bytes: int) -> HttpError:
    """Return the error for a body that is too large."""
    text = f"the body has more than {max_bytes} bytes, the limit of a request; upload large pictures one by one"
    return HttpError(413, "BODY_TOO_LARGE", text)
