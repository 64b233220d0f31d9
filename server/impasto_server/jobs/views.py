"""What callers may see of jobs: only committed changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from impasto_server.config import ServerConfig
from impasto_server.domain.errors import ServiceError, invalid, not_found
from impasto_server.domain.events import Ended, Event, Heartbeat
from impasto_server.domain.filters import JobFilter
from impasto_server.domain.job import Job, JobState
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.journal import Journal
from impasto_server.jobs.table import JobTable
from impasto_server.scheduling.scheduler import Scheduler
from impasto_server.store.base import EVERY_JOB, JobStore

HEARTBEATS_PER_S = 500
"""Maximum rate of heartbeats to all watchers together."""
LONGEST_HEARTBEAT_S = 20.0
"""Longest heartbeat interval of a watcher: clients give up on a server that is silent for half a minute."""


class JobViews:
    """Reads records, results and events.

    Args:
        config: How often watchers get a heartbeat.
        table: The jobs.
        store: Where they are kept.
        scheduler: Knows their places in the queue.
        admission: Estimates when they start and end.
    """

    def __init__(
        self, config: ServerConfig, table: JobTable, store: JobStore, scheduler: Scheduler, admission: Admission
    ) -> None:
        self._config, self._table, self._store, self._scheduler, self._admission = config, table, store, scheduler, admission
        self._watchers = 0

    @property
    def queued(self) -> int:
        """Number of waiting jobs."""
        return self._scheduler.queued

    @property
    def running_on(self) -> dict[str, int]:
        """Number of running jobs of each worker."""
        return self._scheduler.running_on()

    @property
    def running(self) -> int:
        """Number of running jobs."""
        return self._scheduler.running

    @property
    def watchers(self) -> int:
        """Number of callers that watch a job."""
        return self._watchers

    def bytes_kept(self, owner: str | None = None) -> int:
        """Return the disk usage of pictures: of all, or of one owner's alone."""
        return self._store.bytes_kept if owner is None else self._store.bytes_of(owner)

    def estimate(self, job: Job) -> tuple[float, float] | None:
        """Return the estimated seconds until a job starts and ends; None if unknown, or if it has ended."""
        return self._admission.estimate(job)

    def get(self, job_id: str) -> Job:
        """Return a job as callers may see it: without changes that are not committed yet.

        Raises:
            ServiceError: If it does not exist.
        """
        job = self._store.seen(job_id)
        if job is None:
            raise not_found(job_id)
        return job

    def by_request(self, owner: str, request_id: str) -> Job:
        """Return the job that a client submitted under a request id.

        Raises:
            ServiceError: If there is none.
        """
        job = self._store.by_request(owner, request_id)
        if job is None or (job := self._store.seen(job.job_id)) is None:
            raise not_found(request_id)
        return job

    async def flushed(self) -> None:
        """Wait until all changes so far are committed."""
        await self._store.settled()

    async def settled(self, job_id: str) -> Job:
        """Return a job once all changes to it so far are committed.

        Raises:
            ServiceError: If it does not exist.
        """
        await self._store.settled()
        return self.get(job_id)

    def page(self, before: int | None, limit: int, wanted: JobFilter = EVERY_JOB) -> list[Job]:
        """Return jobs, newest first; see :class:`~impasto_server.store.base.JobStore`."""
        return self._store.page(before, limit, wanted)

    def position(self, job_id: str) -> int:
        """Return how many jobs will start before this one."""
        return self._scheduler.position(job_id)

    def result(self, job_id: str) -> bytes:
        """Return a job's encoded picture.

        Raises:
            ServiceError: If there is no such job, or it has no picture (yet).
        """
        job = self.get(job_id)
        picture = self._store.result(job_id)
        if job.state is not JobState.SUCCEEDED or picture is None:
            message = f"job {job_id} is {job.state.value}" + (f": {job.error.message}" if job.error else "")
            metadata = {"job_id": job_id, "state": job.state.value}
            raise ServiceError("JOB_HAS_NO_RESULT", message, metadata=metadata)
        return picture

    async def watch(self, job: Job, sequence: int | None) -> AsyncGenerator[tuple[int, Job | Event | Heartbeat]]:
        """Yield the job, then its events after a sequence number (None for the newest), until its end."""
        runtime = self._table.runtimes.get(job.job_id)
        if runtime is None:
            raise not_found(job.job_id)
        journal = runtime.journal
        at = journal.sequence if sequence is None else sequence
        if at > journal.sequence:
            message = f"there is no event {at} yet; the newest is {journal.sequence}"
            raise invalid(("resume_after_sequence", message))
        current = self.get(job.job_id)
        if journal.closed:
            # A watcher that resumes after the end gets the end again.
            at = min(at, journal.sequence - 1)
        self._watchers += 1
        try:
            yield at, current
            while True:
                for number, event in await self._events_after(job.job_id, journal, at):
                    at = number
                    yield number, event
                    if isinstance(event, Ended):
                        return
                if journal.sequence == at and not await journal.wait(self._heartbeat_s()):
                    yield at, Heartbeat()
        finally:
            self._watchers -= 1

    async def _events_after(self, job_id: str, journal: Journal, after: int) -> list[tuple[int, Event]]:
        """Return the visible events after a number."""
        if not journal.sealed:
            return journal.after(after)
        found = list(enumerate(await self._store.events(job_id), start=1))[after:]
        if not found:
            raise not_found(job_id)  # it was removed meanwhile
        return found

    def _heartbeat_s(self) -> float:
        """Return the silence after which a watcher gets a heartbeat; longer with many watchers, to limit the cost."""
        return max(self._config.heartbeat_s, min(LONGEST_HEARTBEAT_S, self._watchers / HEARTBEATS_PER_S))
