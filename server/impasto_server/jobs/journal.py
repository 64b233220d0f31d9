"""A job's events in order, for any number of watchers at their own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from impasto_server.domain.events import Ended, Event, Stepped


class Journal:
    """Events numbered from 1. Only the newest preview is kept: a slow reader loses old previews, never an event.

    An event is added when it happens and shown when it is committed: watchers must not see what a restart would lose.

    Args:
        events: Events from an earlier process.
        sealed: Number of events of an ended job, which are kept elsewhere; None if the job has not ended.
    """

    def __init__(self, events: Iterable[Event] = (), sealed: int | None = None) -> None:
        self._events: list[Event] = list(events)
        self._shown = len(self._events) if sealed is None else sealed
        self._sealed = sealed is not None
        self._preview_at: int | None = None
        self._grown = asyncio.Event()

    @property
    def sequence(self) -> int:
        """Number of the newest visible event; 0 before the first."""
        return self._shown

    @property
    def closed(self) -> bool:
        """Whether the newest visible event is the end."""
        return self._sealed or (self._shown > 0 and isinstance(self._events[self._shown - 1], Ended))

    @property
    def sealed(self) -> bool:
        """Whether the events are kept elsewhere."""
        return self._sealed

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return self._events

    def seal(self) -> None:
        """Release the events: the job has ended, and they are kept elsewhere."""
        self._sealed = True
        self._events = []

    def add(self, event: Event) -> int:
        """Add an event; return its number."""
        if isinstance(event, Stepped) and event.preview is not None:
            self._drop_old_preview()
            self._preview_at = len(self._events)
        self._events.append(event)
        return len(self._events)

    def show(self, sequence: int) -> None:
        """Show the events up to a number, and wake the watchers."""
        self._shown = max(self._shown, sequence)
        self._grown.set()
        self._grown = asyncio.Event()

    def after(self, sequence: int) -> list[tuple[int, Event]]:
        """Return the visible events after a number, each with its own number."""
        return list(enumerate(self._events[sequence : self._shown], start=sequence + 1))

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
