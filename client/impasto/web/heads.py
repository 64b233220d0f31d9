"""HEAD wherever there is GET: the same answer without its body."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import MutableMapping
from typing import Any

from impasto.web.limits import App, Message, Receive, Send


class Heads:
    """Lets the application answer HEAD as GET, and ends it with the first piece of a body: a stream of events has no end.

    Args:
        app: The application. FastAPI's routes of GET do not answer HEAD.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = asyncio.Event()

        async def headers_only(message: Message) -> None:
            if answered.is_set():
                return
            if message["type"] == "http.response.body":
                answered.set()
                message = {"type": "http.response.body"}
            await send(message)

        answering = asyncio.ensure_future(self._app({**scope, "method": "GET"}, receive, headers_only))
        enough = asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait({answering, enough}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            enough.cancel()
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering
