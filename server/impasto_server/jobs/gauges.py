"""Keeps the metrics of the painting: counts steps as they come, and sets what says how things stand."""

from __future__ import annotations

import time
from collections.abc import Mapping

from impasto_server.config import MIB, ServerConfig
from impasto_server.domain.job import Job, JobState
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.runtime import Live
from impasto_server.observability.metrics import Metrics
from impasto_server.scheduling.estimates import work
from impasto_server.scheduling.scheduler import Scheduler
from impasto_server.store.base import JobStore
from impasto_server.workers.messages import JobStepped
from impasto_server.workers.pool import Fleet


class Gauges:
    """Reads the server's parts and tells the metrics, and what steps take the estimates.

    Args:
        config: The limits.
        metrics: Where figures go.
        store: Where jobs are kept.
        scheduler: Knows what waits and runs.
        fleet: The workers.
        admission: Estimates.
        live: What runs, by job.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        store: JobStore,
        scheduler: Scheduler,
        fleet: Fleet,
        admission: Admission,
        live: Mapping[str, Live],
    ) -> None:
        self._config, self._metrics, self._store, self._scheduler = config, metrics, store, scheduler
        self._fleet, self._admission, self._live = fleet, admission, live
        self._on_device: dict[str, int] = {}

    def count_step(self, job: Job, report: JobStepped) -> None:
        """Count one step of a job, and learn from it how long steps take."""
        live, metrics, device = self._live[job.job_id], self._metrics, job.device
        together = max(1, self._on_device.get(device, 1))
        seconds = max(0.0, report.elapsed_s - live.elapsed_s)
        live.stepped, live.elapsed_s, live.remaining_s = time.monotonic(), report.elapsed_s, report.remaining_s
        metrics.steps.labels(device).inc()
        metrics.step_s.labels(device).observe(seconds)
        metrics.occupancy.labels(device).observe(together)
        if report.step == 1:
            metrics.first_step_s.observe(live.stepped - live.accepted)
        spec = job.spec
        before, after = (work(spec.width, spec.height, spec.parameters, done) for done in (report.step - 1, report.step))
        if before > after and seconds:
            self._admission.pace.learn(device, seconds / together, before - after)

    def measure(self) -> None:
        """Set the figures that say how things stand at this moment."""
        now, metrics = time.monotonic(), self._metrics
        self._on_device = self._scheduler.running_on()
        for status in self._fleet.workers:
            metrics.running.labels(status.handle.name).set(self._on_device.get(status.handle.name, 0))
        waiting = self._scheduler.waiting()
        metrics.queue_depth.set(len(waiting))
        metrics.queue_age.set(max((now - self._live[job_id].accepted for job_id in waiting), default=0.0))
        metrics.queue_work.set(self._admission.queued_work_s())
        states = ((live, self._store.get(job_id)) for job_id, live in self._live.items() if not live.ended.is_set())
        running = [live for live, job in states if job and job.state is JobState.RUNNING and live.stepped]
        metrics.last_step.set(max((now - live.stepped for live in running), default=0.0))
        metrics.checkpoint_age.set(max((now - live.checkpointed for live in running), default=0.0))
        metrics.storage.set(self._store.bytes_kept)
        metrics.storage_limit.set(self._config.max_data_mib * MIB)
