"""Which job runs where, next. Pure: no torch, no clock of its own, no asyncio; it can be simulated by the million steps.

First come, first served, onto the ready worker with the least work. A later issue adds priorities, a memory budget and
preemption behind the same calls.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ticket:
    """What the scheduler knows of a job.

    Attributes:
        job_id: Names it.
        pixels: Size of its canvas: the measure of its work per step and of its memory.
        arrived: When it was accepted, in the caller's seconds.
    """

    job_id: str
    pixels: int
    arrived: float


@dataclass(frozen=True)
class Assignment:
    """A job shall start on a worker."""

    job_id: str
    worker: str


@dataclass
class _Worker:
    slots: int
    running: dict[str, Ticket] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        return sum(ticket.pixels for ticket in self.running.values())


class Scheduler:
    """Admission, order and placement.

    Args:
        max_queued: More waiting jobs are not admitted.
    """

    def __init__(self, max_queued: int) -> None:
        self._max_queued = max_queued
        self._waiting: OrderedDict[str, Ticket] = OrderedDict()
        self._workers: dict[str, _Worker] = {}

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs that run."""
        return sum(len(worker.running) for worker in self._workers.values())

    @property
    def full(self) -> bool:
        """Whether no further job is admitted."""
        return len(self._waiting) >= self._max_queued

    def submit(self, ticket: Ticket) -> bool:
        """Let a job wait; False if the queue is full."""
        if self.full:
            return False
        self._waiting[ticket.job_id] = ticket
        return True

    def position(self, job_id: str) -> int:
        """Return how many jobs will start before this one; 0 if it does not wait."""
        return next((index for index, waiting in enumerate(self._waiting) if waiting == job_id), 0)

    def remove(self, job_id: str) -> None:
        """Forget a job: it ended, or need not start. Unknown ones are fine."""
        self._waiting.pop(job_id, None)
        for worker in self._workers.values():
            worker.running.pop(job_id, None)

    def worker_ready(self, name: str, slots: int) -> None:
        """A worker can take that many jobs at once."""
        self._workers[name] = _Worker(slots)

    def worker_lost(self, name: str) -> tuple[str, ...]:
        """A worker is gone: its jobs wait again, at the front, in their order. Returns which."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return ()
        for job_id, ticket in sorted(worker.running.items(), key=lambda item: item[1].arrived, reverse=True):
            self._waiting[job_id] = ticket
            self._waiting.move_to_end(job_id, last=False)
        return tuple(worker.running)

    def assign(self) -> list[Assignment]:
        """Return which waiting jobs start now, and where; they count as running from here on."""
        assignments = []
        while self._waiting:
            free = [(worker.pixels, name) for name, worker in self._workers.items() if len(worker.running) < worker.slots]
            if not free:
                break
            job_id, ticket = self._waiting.popitem(last=False)
            _, name = min(free)
            self._workers[name].running[job_id] = ticket
            assignments.append(Assignment(job_id, name))
        return assignments
