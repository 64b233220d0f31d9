"""Periodic checks of jobs and workers: hung workers, missed time limits, expiry, and consistency."""

from __future__ import annotations

import logging
import time

from impasto_server.config import ServerConfig
from impasto_server.domain.job import JobError, JobState
from impasto_server.jobs import lifecycle
from impasto_server.jobs.lifecycle import Intent
from impasto_server.jobs.table import JobTable
from impasto_server.scheduling.estimates import Pace
from impasto_server.scheduling.scheduler import Scheduler
from impasto_server.store.base import JobStore
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

HOPELESS_S = 3600.0
"""How long a job waits for a device with enough memory, if there was one when it was accepted."""
OVERDUE_S = 30.0
"""Minimum time that a worker may take to finish a job whose time limit is reached."""


class Supervisor:
    """Runs twice a second.

    Args:
        config: How long ended and paused jobs are kept.
        table: The jobs.
        store: Where they are kept.
        scheduler: Knows waiting and running jobs.
        pool: The workers.
        pace: Estimates step times.
    """

    def __init__(
        self, config: ServerConfig, table: JobTable, store: JobStore, scheduler: Scheduler, pool: WorkerPool, pace: Pace
    ) -> None:
        self._config, self._table, self._store = config, table, store
        self._scheduler, self._pool, self._pace = scheduler, pool, pace

    def look(self) -> None:
        """Kill hung workers, and workers that do not finish a job whose time limit is reached."""
        self._pool.look(self._turn_s)
        now = time.monotonic()
        self._look_for_hopeless(now)
        for job, runtime in self._table.unended():
            if runtime.intent is Intent.FINISH and job.state is JobState.RUNNING:
                longest = max(OVERDUE_S, 5 * (self._turn_s(job.device) or 0.0))
                if now - max(runtime.overdue_since, runtime.dispatched) > longest:
                    self._pool.kill(job.device, f"does not finish job {job.job_id}, whose time limit is reached")
                    runtime.overdue_since = now

    def _look_for_hopeless(self, now: float) -> None:
        """Fail jobs that no device has had memory for over a long time; a short lack of memory is not enough."""
        hopeless = set(self._scheduler.hopeless()) if self._pool.all_ready else set()
        for job_id in self._scheduler.waiting():
            runtime = self._table.runtimes[job_id]
            runtime.hopeless_since = (runtime.hopeless_since or now) if job_id in hopeless else 0.0
            if runtime.hopeless_since and now - runtime.hopeless_since > HOPELESS_S:
                text = f"no device has had enough memory for it for {HOPELESS_S / 60:.0f} minutes"
                self._table.change(job_id, lifecycle.Failed(JobError("OUT_OF_MEMORY", text)))

    def _turn_s(self, worker: str) -> float | None:
        """Return the expected time of one round of a worker: a step of each of its jobs."""
        seconds = 0.0
        for job_id in self._scheduler.jobs_on(worker):
            job = self._table.known(job_id)
            left = job.spec.parameters.steps - job.step
            whole = self._pace.seconds(job.spec.width, job.spec.height, job.spec.parameters, job.step)
            if whole is None:
                return None
            seconds += whole / max(1, left) * (2 if left else 1)
        return seconds

    def expire(self) -> None:
        """Remove ended jobs after their retention time, and cancel jobs that were paused for that long."""
        oldest = time.monotonic() - self._config.retention_s
        for job, runtime in self._table.unended():
            if job.state is JobState.PAUSED and runtime.paused and runtime.paused < oldest:
                logger.info("job %s is cancelled: it was paused for %g s", job.job_id, self._config.retention_s)
                self._table.change(job.job_id, lifecycle.Cancelled())
        for job_id in self._store.expire(time.time()):
            self._table.drop(job_id)

    def audit(self) -> list[str]:
        """Return violated invariants: each job that has not ended must be in exactly one place."""
        wrong = []
        for job, runtime in self._table.unended():
            if not runtime.admitted or runtime.intent is Intent.ENCODE:
                continue
            waits, worker = self._scheduler.waits(job.job_id), self._scheduler.worker_of(job.job_id)
            wanted = job.device if job.state is JobState.RUNNING else None
            if waits != (job.state is JobState.QUEUED) or worker != wanted:
                where = f"{job.state.value} on {job.device or 'no worker'}"
                wrong.append(f"job {job.job_id} is {where}: waits {waits}, runs on {worker}")
        return wrong
