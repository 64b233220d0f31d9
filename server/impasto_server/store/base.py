"""Protocol of job stores: in memory (:mod:`impasto_server.store.memory`), on disk (:mod:`impasto_server.store.sqlite`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from impasto_server.domain.events import Event, Stepped
from impasto_server.domain.filters import JobFilter
from impasto_server.domain.job import Job, JobError
from impasto_server.domain.webhooks import Webhook

EVERY_JOB = JobFilter()


@dataclass(frozen=True)
class Restored:
    """A job of an earlier process, and what its watchers have seen.

    Attributes:
        job: The job.
        events: Its events, if it has not ended.
        told: Number of its events, whether or not they are given here.
        closed: Whether the last of them is the end.
        lost: Why it cannot be resumed; None if it can, or has ended.
    """

    job: Job
    events: list[Event]
    told: int
    closed: bool
    lost: JobError | None = None


class JobStore(Protocol):
    """Stores jobs, their events and their pictures.

    Attributes:
        durable: Whether stored data survives the process.
    """

    durable: bool

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of running jobs."""
        ...

    @property
    def bytes_kept(self) -> int:
        """Size of the stored pictures on disk."""
        ...

    def bytes_of(self, owner: str) -> int:
        """Return the size of the pictures of an owner's jobs, including those shared with other jobs."""
        ...

    @property
    def trouble(self) -> str:
        """Why nothing can be stored at present; empty if it can."""
        ...

    def check(self) -> None:
        """Check whether a new job can be stored.

        Raises:
            ServiceError: If it cannot, with the cause.
        """
        ...

    def add(self, job: Job) -> None:
        """Store a new job; it is committed when :meth:`committed` returns."""
        ...

    async def committed(self, job_id: str) -> None:
        """Wait until an added job is committed.

        Raises:
            ServiceError: If it cannot be stored; the job is discarded then.
        """
        ...

    def append(self, job_id: str, sequence: int, event: Event, visible: Callable[[], None]) -> None:
        """Store an event, and call back on the event loop when watchers may see it."""
        ...

    def append_run(self, job_id: str, last: int, steps: Sequence[Stepped], visible: Callable[[], None]) -> None:
        """Store steps with consecutive numbers as one record, and call back on the event loop when watchers may see them.

        Args:
            job_id: The job.
            last: Number of the last of them.
            steps: At least one step.
            visible: Called once.
        """
        ...

    async def seal(self, job_id: str, events: list[Event]) -> None:
        """Take over the events of an ended job, so that nothing else needs to hold them."""
        ...

    async def events(self, job_id: str) -> list[Event]:
        """Return the events of an ended job; none if it was removed."""
        ...

    def restore(self) -> list[Restored]:
        """Return the jobs of an earlier process."""
        ...

    def forget(self, job_ids: Iterable[str]) -> None:
        """Remove jobs and all their data."""
        ...

    async def close(self) -> None:
        """Finish pending writes."""
        ...

    def put(self, job: Job) -> None:
        """Replace a job's record."""
        ...

    async def settled(self) -> None:
        """Wait until everything written so far is visible."""
        ...

    def get(self, job_id: str) -> Job | None:
        """Return a job's newest record, committed or not: for decisions, not for callers."""
        ...

    def seen(self, job_id: str) -> Job | None:
        """Return a job's newest committed record, which callers may see."""
        ...

    def by_request(self, owner: str, request_id: str) -> Job | None:
        """Return the job that a client submitted under a request id."""
        ...

    def page(self, before: int | None, limit: int, wanted: JobFilter = EVERY_JOB) -> list[Job]:
        """Return jobs as callers see them, newest first.

        Args:
            before: Only jobs with smaller numbers, own numbers if the filter names an owner; None for all.
            limit: Maximum number of jobs.
            wanted: Only these jobs.
        """
        ...

    def put_result(self, job_id: str, picture: bytes) -> None:
        """Store a job's encoded picture."""
        ...

    def result(self, job_id: str) -> bytes | None:
        """Return a job's encoded picture."""
        ...

    def webhooks(self) -> list[Webhook]:
        """Return the messages about ended jobs that are committed and not confirmed yet."""
        ...

    def put_off_webhook(self, message_id: str, attempts: int, due: float) -> None:
        """Note a failed attempt to send a message, and when the next one is due."""
        ...

    def drop_webhook(self, message_id: str) -> None:
        """Remove a message that is confirmed or given up."""
        ...

    def expire(self, now: float) -> list[str]:
        """Remove ended jobs whose retention time is over; return their ids."""
        ...
