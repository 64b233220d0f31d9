"""A job's events in order, for any number of watchers at their own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from impasto_engine.results import Losses
from impasto_server.domain.events import Ended, Event, Stepped

_Packed = tuple[int, int, float, float, float, float, float]


class Journal:
    """Events numbered from 1. Only the newest preview is kept: a slow reader loses old previews, never an event.

    Steps are kept as plain tuples of numbers: a fleet holds millions of them, and Python's garbage collector, which stops the
    event loop, does not visit such tuples.

    An event is added when it happens and shown when it is committed: watchers must not see what a restart would lose.

    Args:
        events: Events from an earlier process.
        sealed: Number of events of an ended job, which are kept elsewhere; None if the job has not ended.
    """

    def __init__(self, events: Iterable[Event] = (), sealed: int | None = None) -> None:
        self._preview: tuple[int, bytes] | None = None
        """Index of the newest event with a preview, and the preview."""
        self._events: list[Event | _Packed] = [_packed(event) for event in events]
        self._shown = len(self._events) if sealed is None else sealed
        self._sealed = sealed is not None
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
        return [self._event(index) for index in range(len(self._events))]

    def seal(self) -> None:
        """Release the events: the job has ended, and they are kept elsewhere."""
        self._sealed = True
        self._events, self._preview = [], None

    def add(self, event: Event) -> int:
        """Add an event; return its number."""
        if isinstance(event, Stepped) and event.preview is not None:
            self._preview = len(self._events), event.preview
        self._events.append(_packed(event))
        return len(self._events)

    def show(self, sequence: int) -> None:
        """Show the events up to a number, and wake the watchers."""
        self._shown = max(self._shown, sequence)
        self._grown.set()
        self._grown = asyncio.Event()

    def after(self, sequence: int) -> list[tuple[int, Event]]:
        """Return the visible events after a number, each with its own number."""
        last = min(self._shown, len(self._events))
        return [(index + 1, self._event(index)) for index in range(sequence, last)]

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next event; False if none came in time."""
        try:
            await asyncio.wait_for(self._grown.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _event(self, index: int) -> Event:
        kept = self._events[index]
        if not isinstance(kept, tuple):
            return kept
        step, steps, content, style, variation, elapsed_s, remaining_s = kept
        preview = self._preview[1] if self._preview is not None and self._preview[0] == index else None
        return Stepped(step, steps, Losses(content, style, variation), elapsed_s, remaining_s, preview)


def _packed(event: Event) -> Event | _Packed:
    if not isinstance(event, Stepped):
        return event
    losses = event.losses
    terms = losses.content, losses.style, losses.total_variation
    return event.step, event.steps, *terms, event.elapsed_s, event.remaining_s
