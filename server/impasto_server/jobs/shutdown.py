"""Shutdown: running jobs get a grace time; then their states are saved for the next server, or they are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from impasto_server.config import ServerConfig
from impasto_server.domain.job import JobState
from impasto_server.jobs import lifecycle
from impasto_server.jobs.reports import WorkerReports
from impasto_server.jobs.table import JobTable
from impasto_server.observability.logs import about
from impasto_server.store.base import JobStore
from impasto_server.workers.messages import Park
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

LOOK_S = 0.05
PARKING_S = 10.0
"""How long workers may take to write the states of their jobs."""


class Shutdown:
    """Drains and stops.

    Args:
        config: The grace time.
        table: The jobs.
        store: Where they are kept.
        pool: The workers.
        reports: Its threads are stopped.
    """

    def __init__(
        self, config: ServerConfig, table: JobTable, store: JobStore, pool: WorkerPool, reports: WorkerReports
    ) -> None:
        self._config, self._table, self._store, self._pool, self._reports = config, table, store, pool, reports
        self._hurry = asyncio.Event()

    def begin(self) -> None:
        """Accept no new jobs."""
        self._table.draining = True

    async def drain(self) -> bool:
        """Accept no new jobs, and let running jobs finish within the grace time.

        A job that stops running meanwhile, because its worker was lost, is not waited for if the next process resumes it. Jobs
        that remain are kept with their state for the next process if the store is durable; else they are cancelled.

        Returns:
            Whether callers may still fetch results: there were jobs to wait for, and the grace time was not cut.
        """
        self._table.draining = True
        keeps = self._store.durable
        waited_for = [job.job_id for job, _ in self._table.unended() if not keeps or job.state is JobState.RUNNING]
        if waited_for:
            jobs = "1 job has" if len(waited_for) == 1 else f"{len(waited_for)} jobs have"
            logger.info("draining: %s %.0f s to finish", jobs, self._config.grace_s)
            left = await self._wait_for(waited_for)
            if keeps:
                await self._park_all(left)
                kept = sum(1 for _ in self._table.unended())
                logger.info("drained: %d jobs ended, %d resume with the next server", len(waited_for) - len(left), kept)
            else:
                for job_id in left:
                    text = "job %s is cancelled: the server is shutting down"
                    logger.warning(text, job_id, extra=about(self._table.known(job_id)))
                    self._table.change(job_id, lifecycle.Cancelled(abandoned=True))
        await self._store.settled()
        return bool(waited_for) and not self._hurry.is_set()

    async def _wait_for(self, job_ids: list[str]) -> list[str]:
        """Wait for jobs to end, at most for the grace time; return those that have not ended."""
        ends = asyncio.ensure_future(self._all_settle(job_ids))
        hurry: asyncio.Future[Any] = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({ends, hurry}, timeout=self._config.grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        ends.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ends
        runtimes = self._table.runtimes
        return [job_id for job_id in job_ids if job_id in runtimes and not runtimes[job_id].ended.is_set()]

    async def _all_settle(self, job_ids: Sequence[str]) -> None:
        while not all(map(self._settled, job_ids)):  # noqa: ASYNC110 - a state has no event
            await asyncio.sleep(LOOK_S)

    def _settled(self, job_id: str) -> bool:
        """Return whether a job has ended, or no longer runs and waits for the next process."""
        runtime, job = self._table.runtimes.get(job_id), self._store.get(job_id)
        if runtime is None or job is None or runtime.ended.is_set():
            return True
        return self._store.durable and job.state in (JobState.QUEUED, JobState.PAUSED)

    async def _park_all(self, job_ids: list[str]) -> None:
        running = [job for job, _ in self._table.unended() if job.job_id in job_ids and job.state is JobState.RUNNING]
        for job in running:
            self._pool.send(job.device, Park(job.job_id))
        left = asyncio.gather(*(self._table.runtimes[job.job_id].left.wait() for job in running))
        try:
            await asyncio.wait_for(left, PARKING_S)
        except TimeoutError:
            logger.warning("some jobs will resume from an older checkpoint: their states were not written in time")

    def cut_grace(self) -> None:
        """End the grace time at once."""
        self._hurry.set()

    async def stop(self) -> None:
        """Stop the workers, then the store once everything is written."""
        self._table.draining = True
        await self._pool.stop()
        self._table.close()
        self._reports.close()
        await self._store.close()
