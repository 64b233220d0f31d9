"""Decides whether another job is accepted, and estimates when it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping

from impasto_server.config import MIB, ServerConfig
from impasto_server.domain.errors import ServiceError, invalid
from impasto_server.domain.job import Job, JobSpec, JobState
from impasto_server.jobs.runtime import Runtime
from impasto_server.scheduling.estimates import Pace
from impasto_server.scheduling.quotas import Quota, Quotas
from impasto_server.scheduling.scheduler import Scheduler, Ticket
from impasto_server.store.base import JobStore
from impasto_server.workers.pool import WorkerPool

MIN_PAUSED = 64
"""Maximum number of paused jobs, unless more than that may wait."""
SOON_S, LATE_S = 1.0, 60.0
"""Bounds of the retry delay."""


class Admission:
    """Checks a job against the queue, its client's quota, the devices' memory and the disk.

    Args:
        config: The limits.
        store: Where jobs are kept.
        scheduler: Knows the waiting jobs.
        pool: Knows the devices' capacity.
        runtimes: Runtime state of jobs.
    """

    def __init__(
        self, config: ServerConfig, store: JobStore, scheduler: Scheduler, pool: WorkerPool, runtimes: Mapping[str, Runtime]
    ) -> None:
        self._config, self._store, self._scheduler, self._pool, self._runtimes = config, store, scheduler, pool, runtimes
        self._quotas = Quotas(Quota(config.max_client_jobs, config.max_client_jobs_per_minute, config.max_client_pixels))
        self.pace = Pace()

    def check_room(self, owner: str, coming: int) -> None:
        """Check before the expensive part of a request whether another job can be accepted.

        Args:
            owner: The caller.
            coming: Jobs that are accepted and not queued yet.

        Raises:
            ServiceError: If the queue or the disk is full, or the client has reached its quota.
        """
        if self._scheduler.queued + coming >= self._config.max_queued_jobs:
            waiting = self._scheduler.queued
            raise self._queue_full(f"{waiting} jobs are waiting, which is the limit", str(self._config.max_queued_jobs))
        paused, most = sum(live.paused > 0 for live in self._runtimes.values()), max(MIN_PAUSED, self._config.max_queued_jobs)
        if paused >= most:
            raise self._queue_full(f"{paused} jobs are paused, which is the limit: resume or delete some", str(most))
        limit_s = self._config.max_queued_work_s
        if limit_s and (work_s := self.queued_work_s()) >= limit_s:
            raise self._queue_full(f"about {work_s:.0f} s of work are waiting; the limit is {limit_s:g} s", f"{limit_s:g} s")
        self._quotas.check(owner, 0, time.monotonic())
        self._store.check()

    def check_job(self, spec: JobSpec, ticket: Ticket, owner: str) -> None:
        """Check whether a job fits on a device and within its client's quota.

        Raises:
            ServiceError: If not.
        """
        if not self._scheduler.could_hold(ticket):
            needed = -(-(ticket.demand.held + ticket.demand.passing) // MIB)
            text = f"a canvas of {spec.width} x {spec.height} px needs about {needed} MiB, more than any device has for jobs"
            raise invalid(("parameters.size_px", f"{text}; a smaller history needs less"))
        self._quotas.check(owner, spec.width * spec.height, time.monotonic())

    def book(self, job: Job, accepted: float) -> None:
        """Charge a job to its client's quota."""
        self._quotas.book(job.owner, job.job_id, job.spec.width * job.spec.height, accepted)

    def release(self, job: Job) -> None:
        """Release a job from its client's quota."""
        self._quotas.release(job.owner, job.job_id)

    def queued_work_s(self) -> float:
        """Return the estimated time of the steps of all waiting jobs."""
        return sum(self._steps_s(self._store.get(job_id)) or 0.0 for job_id in self._scheduler.waiting())

    def estimate(self, job: Job) -> tuple[float, float] | None:
        """Return the estimated seconds until a job starts and ends; None if unknown, or if it has ended."""
        own_s = self._steps_s(job)
        if own_s is None or job.state.ended or job.state is JobState.PAUSED:
            return None
        if job.state is JobState.RUNNING:
            return 0.0, own_s
        running = [live for live in self._runtimes.values() if live.remaining_s and not live.ended.is_set()]
        ahead_s = sum(live.remaining_s for live in running)
        for job_id in self._scheduler.waiting():
            if job_id == job.job_id:
                break
            ahead_s += self._steps_s(self._store.get(job_id)) or 0.0
        start_s = ahead_s / max(1, len(self._pool.workers))
        return start_s, start_s + own_s

    def _steps_s(self, job: Job | None) -> float | None:
        return self.pace.seconds(job.spec.width, job.spec.height, job.spec.parameters, job.step) if job else None

    def _queue_full(self, text: str, limit: str) -> ServiceError:
        waiting, running = str(self._scheduler.queued), str(self._scheduler.running)
        metadata = {"queued": waiting, "running": running, "limit": limit}
        return ServiceError("QUEUE_FULL", text, metadata=metadata, retry_s=self._room_s())

    def _room_s(self) -> float:
        """Return the estimated seconds until a waiting job starts, which makes room; bounded, because it is a guess."""
        left = [live.remaining_s for live in self._runtimes.values() if live.remaining_s and not live.ended.is_set()]
        return min(max(min(left, default=SOON_S), SOON_S), LATE_S)
