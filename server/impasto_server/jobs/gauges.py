"""Sets the gauges of the metrics from the current state, which it only reads."""

from __future__ import annotations

import time

from impasto_server.config import MIB, ServerConfig
from impasto_server.domain.job import JobState
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.table import JobTable
from impasto_server.observability.metrics import Metrics
from impasto_server.scheduling.scheduler import Scheduler
from impasto_server.store.base import JobStore
from impasto_server.workers.pool import WorkerPool


class Gauges:
    """Reads the table, the scheduler, the workers and the store.

    Args:
        config: The limits.
        metrics: The metrics to set.
        table: The jobs.
        store: Knows the disk usage.
        scheduler: Knows waiting and running jobs.
        pool: The workers.
        admission: Estimates waiting work.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        table: JobTable,
        store: JobStore,
        scheduler: Scheduler,
        pool: WorkerPool,
        admission: Admission,
    ) -> None:
        self._config, self._metrics, self._table, self._store = config, metrics, table, store
        self._scheduler, self._pool, self._admission = scheduler, pool, admission
        self._joined: dict[str, str] = {}

    def measure(self) -> None:
        """Set the gauges."""
        now, metrics = time.monotonic(), self._metrics
        for status in self._pool.workers:
            name, host = status.handle.name, status.handle.host
            metrics.running.labels(name).set(self._scheduler.runs_on(name))
            metrics.worker_draining.labels(name).set(status.draining)
            if status.joined:
                metrics.heartbeat_age.labels(name, host).set(now - status.joined.heard)
                self._joined[name] = host
        for name in [name for name in self._joined if not self._pool.has(name)]:
            metrics.forget_worker(name, self._joined.pop(name))
        waiting = self._scheduler.waiting()
        metrics.queue_depth.set(len(waiting))
        metrics.queue_age.set(max((now - self._table.runtimes[job_id].accepted for job_id in waiting), default=0.0))
        metrics.queue_work.set(self._admission.queued_work_s())
        running = [runtime for job, runtime in self._table.unended() if job.state is JobState.RUNNING and runtime.stepped]
        metrics.last_step.set(max((now - runtime.stepped for runtime in running), default=0.0))
        metrics.checkpoint_age.set(max((now - runtime.checkpointed for runtime in running), default=0.0))
        metrics.storage.set(self._store.bytes_kept)
        metrics.storage_limit.set(self._config.max_data_mib * MIB)
