"""Where jobs are kept: in memory here, on a disk in :mod:`impasto_server.durable`, behind the same protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from impasto_server.jobs import Event, Job, JobState


@dataclass(frozen=True)
class Restored:
    """A job that an earlier process had, and what its watchers were told."""

    job: Job
    events: list[Event]


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

    def get(self, job_id: str) -> Job | None:
        """Return a job."""
        ...

    def by_request(self, owner: str, request_id: str) -> Job | None:
        """Return the job that a client named so."""
        ...

    def page(
        self, before: int | None, limit: int, states: Collection[JobState], shows: Callable[[Job], bool] = lambda _: True
    ) -> list[Job]:
        """Return jobs with numbers below ``before``, newest first; no states means all, ``shows`` says which may be seen."""
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


class MemoryStore:
    """Jobs of this process's life.

    Args:
        retention_s: How long an ended job is kept.
        max_ended: How many ended jobs are kept at most; the oldest go first.
        checkpoints: Where the states of running jobs lie.
    """

    durable = False

    def __init__(self, retention_s: float, max_ended: int, checkpoints: Path = Path()) -> None:
        self._checkpoints = checkpoints
        self._retention_s = retention_s
        self._max_ended = max_ended
        self._jobs: dict[str, Job] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._results: dict[str, bytes] = {}

    @property
    def checkpoints(self) -> Path:
        """See :class:`JobStore`."""
        return self._checkpoints

    @property
    def bytes_kept(self) -> int:
        """See :class:`JobStore`. Nothing is on a disk."""
        return 0

    def check(self) -> None:
        """See :class:`JobStore`. There is always room."""

    async def committed(self, job_id: str) -> None:
        """See :class:`JobStore`. Safe at once, as long as the process lives."""

    def append(self, job_id: str, sequence: int, event: Event, visible: Callable[[], None]) -> None:
        """See :class:`JobStore`. Visible at once."""
        del job_id, sequence, event
        visible()

    def restore(self) -> list[Restored]:
        """See :class:`JobStore`. Nothing was kept."""
        return []

    async def close(self) -> None:
        """See :class:`JobStore`."""

    def add(self, job: Job) -> None:
        """See :class:`JobStore`."""
        self._jobs[job.job_id] = job
        if job.request_id:
            self._requests[job.owner, job.request_id] = job.job_id

    def put(self, job: Job) -> None:
        """See :class:`JobStore`. The pictures of an ended job are let go: only its result is still of use."""
        if job.state.ended:
            job = replace(job, spec=replace(job.spec, content=None, styles=(), mask=None, init_image=None))
        self._jobs[job.job_id] = job

    def get(self, job_id: str) -> Job | None:
        """See :class:`JobStore`."""
        return self._jobs.get(job_id)

    def by_request(self, owner: str, request_id: str) -> Job | None:
        """See :class:`JobStore`."""
        return self._jobs.get(self._requests.get((owner, request_id), ""))

    def page(
        self, before: int | None, limit: int, states: Collection[JobState], shows: Callable[[Job], bool] = lambda _: True
    ) -> list[Job]:
        """See :class:`JobStore`."""
        found: list[Job] = []
        for job in self._newest_first():
            if len(found) == limit:
                break
            if (before is None or job.number < before) and (not states or job.state in states) and shows(job):
                found.append(job)
        return found

    def put_result(self, job_id: str, picture: bytes) -> None:
        """See :class:`JobStore`."""
        self._results[job_id] = picture

    def result(self, job_id: str) -> bytes | None:
        """See :class:`JobStore`."""
        return self._results.get(job_id)

    def expire(self, now: float) -> list[str]:
        """See :class:`JobStore`."""
        ended = sorted((job for job in self._jobs.values() if job.ended is not None), key=lambda job: job.ended or 0.0)
        surplus = max(0, len(ended) - self._max_ended)
        gone = [
            job.job_id
            for index, job in enumerate(ended)
            if index < surplus or (job.ended or 0.0) + min(job.spec.ttl_s or self._retention_s, self._retention_s) < now
        ]
        self.forget(gone)
        return gone

    def forget(self, job_ids: Iterable[str]) -> None:
        """See :class:`JobStore`."""
        for job_id in job_ids:
            job = self._jobs.pop(job_id, None)
            self._results.pop(job_id, None)
            if job is not None and self._requests.get((job.owner, job.request_id)) == job_id:
                del self._requests[job.owner, job.request_id]

    def _newest_first(self) -> Iterator[Job]:
        return reversed(self._jobs.values())
