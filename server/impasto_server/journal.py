"""A job's events in order, for any number of watchers at their own pace."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from impasto_server.jobs import Event, Stepped


class Journal:
    """Events numbered from 1. Only the newest preview is kept: a slow reader loses old previews, never an event."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._preview_at: int | None = None
        self._grown = asyncio.Event()

    @property
    def sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        return len(self._events)

    def append(self, event: Event) -> None:
        """Add an event and wake the watchers."""
        if isinstance(event, Stepped) and event.preview is not None:
            self._drop_old_preview()
            self._preview_at = len(self._events)
        self._events.append(event)
        self._grown.set()
        self._grown = asyncio.Event()

    def after(self, sequence: int) -> list[tuple[int, Event]]:
        """Return the events after that number, each with its own."""
        return list(enumerate(self._events[sequence:], start=sequence + 1))

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next event; False if none came in time."""
        try:
            await asyncio.wait_for(self._grown.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _drop_old_preview(self) -> None:
        if self._preview_at is None:
            return
        event = self._events[self._preview_at]
        if isinstance(event, Stepped):
            self._events[self._preview_at] = replace(event, preview=None)
