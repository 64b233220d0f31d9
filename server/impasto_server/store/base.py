"""Where jobs are kept: in memory here, on a disk in :mod:`impasto_server.store.sqlite`, behind the same protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from impasto_server.domain.events import Event
from impasto_server.domain.job import Job, JobState


@dataclass(frozen=True)
class Restored:
    """A job that an earlier process had, and what its watchers were told.

    Attributes:
        job: The job.
        events: Of one that has not ended.
        told: How many events there are, whether or not they are given here.
        closed: Whether the last of them is the end.
    """

    job: Job
    events: list[Event]
    told: int
    closed: bool


class JobStore(Protocol):
    """A table of jobs, their events and their pictures.

    Attributes:
        durable: Whether what is kept survives the process.
    """

    durable: bool

    @property
    def checkpoints(self) -> Path:
        """Where the states of running jobs lie."""
        ...

    @property
    def bytes_kept(self) -> int:
        """What pictures take on the disk."""
        ...

    def bytes_of(self, owner: str) -> int:
        """Return what the pictures of an owner's jobs take, whoever else has the same ones."""
        ...

    @property
    def trouble(self) -> str:
        """Why nothing can be kept at present; empty if it can."""
        ...

    def check(self) -> None:
        """Say whether a new job can be kept.

        Raises:
            ServiceError: If not, and why.
        """
        ...

    def add(self, job: Job) -> None:
        """Keep a new job; it is safe when :meth:`committed` returns."""
        ...

    async def committed(self, job_id: str) -> None:
        """Wait until a job that was added is safe.

        Raises:
            ServiceError: If it cannot be kept; it is forgotten then.
        """
        ...

    def append(self, job_id: str, sequence: int, event: Event, visible: Callable[[], None]) -> None:
        """Keep an event, and call back on the event loop when watchers may see it."""
        ...

    async def seal(self, job_id: str, events: list[Event]) -> None:
        """Take the events of a job that has ended, so that nobody else need hold them."""
        ...

    async def events(self, job_id: str) -> list[Event]:
        """Return the events of a job that has ended; none if it was forgotten."""
        ...

    def restore(self) -> list[Restored]:
        """Return what an earlier process kept."""
        ...

    def forget(self, job_ids: Iterable[str]) -> None:
        """Forget jobs and everything of theirs."""
        ...

    async def close(self) -> None:
        """Finish what is under way."""
        ...

    def put(self, job: Job) -> None:
        """Replace a job's record."""
        ...

    async def settled(self) -> None:
        """Wait until everything that was written so far can be seen."""
        ...

    def get(self, job_id: str) -> Job | None:
        """Return a job's newest record, whether or not it is safe yet: for decisions, not for callers."""
        ...

    def seen(self, job_id: str) -> Job | None:
        """Return a job's newest record that is safe: what callers may be told."""
        ...

    def by_request(self, owner: str, request_id: str) -> Job | None:
        """Return the job that a client named so."""
        ...

    def page(self, before: int | None, limit: int, states: Collection[JobState], owner: str | None = None) -> list[Job]:
        """Return jobs as they are seen, newest first.

        Args:
            before: Only jobs with smaller numbers, those of the owner if there is one; None for all.
            limit: How many at most.
            states: Only jobs in one of these; none for all.
            owner: Whose jobs; None for everybody's.
        """
        ...

    def put_result(self, job_id: str, picture: bytes) -> None:
        """Keep a job's encoded picture."""
        ...

    def result(self, job_id: str) -> bytes | None:
        """Return a job's encoded picture."""
        ...

    def expire(self, now: float) -> list[str]:
        """Forget ended jobs that are kept long enough; returns which."""
        ...
