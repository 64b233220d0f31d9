"""What a job has besides its record while somebody may care."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from impasto_server.jobs.journal import Journal


@dataclass
class Live:
    """A job's clocks and events, and who waits. Times are those of ``time.monotonic()``.

    Attributes:
        accepted: When it was accepted.
        journal: Its events.
        ended: Set when its end has been told.
        left: Set when the job has left its worker for good, or ended.
        waiters: Calls that want its picture.
        admitted: Whether it is safe, and known to the scheduler.
        painted: Whether its picture is being encoded: it has left its worker and has not ended.
        going_on: Whether the next start goes on after a pause, which does not count as an attempt.
        pausing: Whether PauseJob asked for the job's leaving.
        paused: When it was paused; 0 while it is not.
        overdue: Whether the time limit has come, and the job was told to end as it stands.
        overdue_since: When it came.
        dispatched: When the job was given to a worker last.
        hopeless_since: Since when no device has the memory for it; 0 if one has.
        alarm: Rings at the time limit.
        stepped: When its last step was told, or it began; 0 while it does not run.
        elapsed_s: What its steps took by then.
        remaining_s: What its worker thought was left by then; 0 while it does not run.
        checkpointed: When its state was written last, or it began.
    """

    accepted: float
    journal: Journal = field(default_factory=Journal)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: int = 0
    admitted: bool = False
    painted: bool = False
    going_on: bool = False
    pausing: bool = False
    paused: float = 0.0
    overdue: bool = False
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
