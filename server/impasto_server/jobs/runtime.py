"""In-memory state of a job besides its record."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from impasto_server.jobs.journal import Journal
from impasto_server.jobs.lifecycle import Intent


@dataclass
class Runtime:
    """A job's clocks, events and waiting callers. Times are from ``time.monotonic()``.

    Attributes:
        accepted: When it was accepted.
        journal: Its events.
        ended: Set when its end is visible to watchers.
        left: Set when it has left its worker during the shutdown, or ended.
        waiters: Number of calls that wait for its picture.
        admitted: Whether it is committed, and known to the scheduler.
        intent: See :class:`~impasto_server.jobs.lifecycle.Life`.
        resuming: See :class:`~impasto_server.jobs.lifecycle.Life`.
        paused: When it was paused; 0 if it is not.
        overdue_since: When it was ordered to finish early; 0 if it was not.
        dispatched: When it was last assigned to a worker.
        hopeless_since: Since when no device has enough memory for it; 0 if one has.
        alarm: Timer of its time limit.
        stepped: When its last step was reported, or it started; 0 while it does not run.
        elapsed_s: Time that its steps had taken by then.
        remaining_s: Remaining time that its worker estimated then; 0 while it does not run.
        checkpointed: When its last checkpoint was written, or it started.
    """

    accepted: float
    journal: Journal = field(default_factory=Journal)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: int = 0
    admitted: bool = False
    intent: Intent = Intent.NONE
    resuming: bool = False
    paused: float = 0.0
    overdue_since: float = 0.0
    dispatched: float = 0.0
    hopeless_since: float = 0.0
    alarm: asyncio.TimerHandle | None = None
    stepped: float = 0.0
    elapsed_s: float = 0.0
    remaining_s: float = 0.0
    checkpointed: float = 0.0

    def stop(self) -> None:
        """Record that it does not run."""
        self.remaining_s = self.stepped = 0.0

    def close(self) -> None:
        """Record that it has ended."""
        self.stop()
        self.paused = 0.0
        self.left.set()
        if self.alarm:
            self.alarm.cancel()
