"""Answers to requests that a gateway cannot wait for because it stops."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from impasto.web.limits import App, Message, Receive, Send
from impasto.web.statuses import RETRY_S, respond, status


class Endings:
    """Answers requests that are cancelled with 503, reason DRAINING. uvicorn cancels those that outlast its grace time.

    Args:
        app: What answers all others.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if begun or scope["type"] != "http":
                raise
            found = status("UNAVAILABLE", "DRAINING", "the gateway stops; try again", retry_after_s=RETRY_S)
            await respond(found)(scope, receive, send)
