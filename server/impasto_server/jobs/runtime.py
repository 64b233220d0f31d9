"""What a job has besides its record while somebody may care."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from impasto_server.jobs.journal import Journal
from impasto_server.jobs.lifecycle import Intent


@dataclass
class Runtime:
    """A job's clocks and events, and who waits. Times are those of ``time.monotonic()``.

    Attributes:
        accepted: When it was accepted.
        journal: Its events.
        ended: Set when its end has been told.
        left: Set when it has left its worker for good, or ended.
        waiters: Calls that want its picture.
        admitted: Whether it is committed, and known to the scheduler.
        intent: See :class:`~impasto_server.jobs.lifecycle.Life`.
        resuming: Likewise.
        paused: When it was paused; 0 while it is not.
        overdue_since: When it was told to finish as it is; 0 if it was not.
        dispatched: When it was given to a worker last.
        hopeless_since: Since when no device has the memory for it; 0 if one has.
        alarm: Rings at the time limit.
        stepped: When its last step was reported, or it began; 0 while it does not run.
        elapsed_s: What its steps took by then.
        remaining_s: What its worker estimated was left by then; 0 while it does not run.
        checkpointed: When its state was written last, or it began.
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
        """Note that it does not run for now."""
        self.remaining_s = self.stepped = 0.0

    def close(self) -> None:
        """Note that it has ended."""
        self.stop()
        self.paused = 0.0
        self.left.set()
        if self.alarm:
            self.alarm.cancel()
