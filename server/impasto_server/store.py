"""Where jobs are kept. In memory here; a durable store is a later issue, behind the same protocol."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Protocol

from impasto_server.jobs import Job, JobState


class JobStore(Protocol):
    """A table of jobs and their pictures."""

    def add(self, job: Job) -> None:
        """Keep a new job."""
        ...

    def put(self, job: Job) -> None:
        """Replace a job's record."""
        ...

    def get(self, job_id: str) -> Job | None:
        """Return a job."""
        ...

    def by_request(self, request_id: str) -> Job | None:
        """Return the job that a client named so."""
        ...

    def page(self, before: int | None, limit: int, states: Collection[JobState]) -> list[Job]:
        """Return jobs with numbers below ``before``, newest first; no states means all."""
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
    """

    def __init__(self, retention_s: float, max_ended: int) -> None:
        self._retention_s = retention_s
        self._max_ended = max_ended
        self._jobs: dict[str, Job] = {}
        self._requests: dict[str, str] = {}
        self._results: dict[str, bytes] = {}

    def add(self, job: Job) -> None:
        """See :class:`JobStore`."""
        self._jobs[job.job_id] = job
        if job.request_id:
            self._requests[job.request_id] = job.job_id

    def put(self, job: Job) -> None:
        """See :class:`JobStore`. The pictures of an ended job are let go: only its result is still of use."""
        if job.state.ended:
            job = replace(job, spec=replace(job.spec, content=None, styles=()))
        self._jobs[job.job_id] = job

    def get(self, job_id: str) -> Job | None:
        """See :class:`JobStore`."""
        return self._jobs.get(job_id)

    def by_request(self, request_id: str) -> Job | None:
        """See :class:`JobStore`."""
        return self._jobs.get(self._requests.get(request_id, ""))

    def page(self, before: int | None, limit: int, states: Collection[JobState]) -> list[Job]:
        """See :class:`JobStore`."""
        found: list[Job] = []
        for job in self._newest_first():
            if len(found) == limit:
                break
            if (before is None or job.number < before) and (not states or job.state in states):
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
        gone = [job for index, job in enumerate(ended) if index < surplus or (job.ended or 0.0) + self._retention_s < now]
        for job in gone:
            del self._jobs[job.job_id]
            self._results.pop(job.job_id, None)
            if self._requests.get(job.request_id) == job.job_id:
                del self._requests[job.request_id]
        return [job.job_id for job in gone]

    def _newest_first(self) -> Iterator[Job]:
        return reversed(self._jobs.values())
