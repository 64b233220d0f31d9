"""Turns the workers' reports into changes of jobs, metrics and estimates of step times."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from impasto_server.domain.job import Job, JobError, JobState
from impasto_server.jobs import lifecycle
from impasto_server.jobs.lifecycle import Intent
from impasto_server.jobs.table import JobTable
from impasto_server.observability.logs import about
from impasto_server.observability.metrics import Metrics
from impasto_server.pictures import images
from impasto_server.pictures.provenance import Painting, provenance
from impasto_server.scheduling.estimates import Pace, work
from impasto_server.scheduling.scheduler import Scheduler
from impasto_server.store.base import JobStore
from impasto_server.workers.messages import Checkpointed, JobPainted, JobParked, JobReport, JobStarted, JobStepped, Park
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

ENCODERS = 2
"""Maximum number of pictures encoded at a time."""


class WorkerReports:
    """Handles the workers' reports.

    Args:
        table: Changes the jobs.
        store: Where finished pictures go.
        scheduler: Notified of ready and lost workers.
        pool: Knows the workers' capacity.
        pace: Learns step times.
        metrics: The metrics.
    """

    def __init__(
        self, table: JobTable, store: JobStore, scheduler: Scheduler, pool: WorkerPool, pace: Pace, metrics: Metrics
    ) -> None:
        self._table, self._store, self._scheduler, self._pool = table, store, scheduler, pool
        self._pace, self._metrics = pace, metrics
        self._encoding = ThreadPoolExecutor(ENCODERS, "encoding")  # a separate pool, so that nothing else delays a finished job

    def on_ready(self, name: str) -> None:
        """A worker is ready."""
        self._metrics.ready.labels(name).set(1)
        measured = self._pool.measured(name)
        if measured:
            self._pace.measured(name, *measured)
        self._table.measured()
        self._scheduler.worker_ready(name, self._pool.capacity(name))
        self._table.dispatch()

    def on_memory(self, name: str) -> None:
        """The free memory of an idle worker's device has changed."""
        self._scheduler.resize(name, self._pool.capacity(name))
        self._table.dispatch()

    def on_draining(self, name: str) -> None:
        """A worker must get no more jobs: its jobs are parked, and resume elsewhere."""
        self._scheduler.resize(name, self._pool.capacity(name))
        for job_id in self._scheduler.jobs_on(name):
            self._pool.send(name, Park(job_id))
        self._table.dispatch()

    def on_lost(self, name: str, cause: str, *, blame: bool = True) -> None:
        """A worker died or was killed.

        Args:
            name: Name of the worker.
            cause: How it was lost.
            blame: Whether one of its jobs may be the cause: they run alone from now on, and fail after some losses.
        """
        if blame:
            self._metrics.restarts.labels(name).inc()
        self._metrics.ready.labels(name).set(0)
        for job_id in self._scheduler.worker_lost(name, suspects=blame):
            job = self._table.change(job_id, lifecycle.WorkerLost(cause, blame))
            if job.state is JobState.QUEUED:
                text = "job %s will resume from its newest checkpoint, if there is one: its worker was lost"
                logger.warning(text, job_id, extra=about(job))
        self._table.dispatch()

    def on_reports(self, name: str, reports: Sequence[JobReport]) -> None:
        """A worker sent several reports in one message, those of a job in order.

        The steps of a job without another of its reports between them are a run: they change its record once, and are stored in
        one row. Reports of different jobs may be handled in another order.
        """
        runs: dict[str, list[JobStepped]] = {}
        for report in reports:
            if isinstance(report, JobStepped):
                runs.setdefault(report.job_id, []).append(report)
            else:
                self._on_run(name, runs.pop(report.job_id, ()))
                self.on_report(name, report)
        for run in runs.values():
            self._on_run(name, run)

    def _on_run(self, name: str, run: Sequence[JobStepped]) -> None:
        if len(run) == 1:
            self.on_report(name, run[0])
        elif run and (job := self._runs(name, run[0].job_id)) is not None:
            self._count_steps(job, run)
            self._table.change(job.job_id, lifecycle.StepsDone(tuple(_step_done(report) for report in run)))

    def _runs(self, name: str, job_id: str) -> Job | None:
        """Return a job that runs on a worker; None if it was cancelled meanwhile, or assigned to another worker."""
        job = self._store.get(job_id)
        return job if job is not None and job.state is JobState.RUNNING and job.device == name else None

    def _has_ended(self, job_id: str) -> bool:
        job = self._store.get(job_id)
        return job is None or job.state.ended

    def on_report(self, name: str, report: JobReport) -> None:
        """A worker reported on a job."""
        job = self._runs(name, report.job_id)
        if job is None:
            if isinstance(report, JobParked) or (isinstance(report, Checkpointed) and self._has_ended(report.job_id)):
                self._table.drop_checkpoint(report.job_id)  # it was written after those of the job were removed
            return
        if isinstance(report, JobStarted):
            self._on_started(job, report)
        elif isinstance(report, JobStepped):
            self._on_step(job, report)
        elif isinstance(report, Checkpointed):
            self._metrics.checkpoints.inc()
            self._metrics.checkpoint_bytes.inc(report.size)
            self._table.runtimes[job.job_id].checkpointed = time.monotonic()
        elif isinstance(report, JobParked):
            self._on_parked(job, report.step)
        elif isinstance(report, JobPainted):
            self._on_painted(job, report)
        else:
            self._table.change(job.job_id, lifecycle.Failed(JobError(report.reason, report.message)))
            self._table.dispatch()

    def _on_started(self, job: Job, report: JobStarted) -> None:
        runtime, now = self._table.runtimes[job.job_id], time.monotonic()
        runtime.stepped = runtime.checkpointed = now
        runtime.elapsed_s = job.optimize_s if report.step else 0.0
        if job.started is None:
            self._metrics.queue_s.observe(now - runtime.accepted)
        if report.step:
            self._metrics.resumes.inc()
        self._metrics.cache.labels("hit").inc(report.cache_hits)
        self._metrics.cache.labels("miss").inc(report.cache_misses)
        logger.info("job %s starts on %s after %d steps", job.job_id, job.device, report.step, extra=about(job))
        queue_s = now - runtime.accepted
        began = lifecycle.Began(report.arithmetic, report.step, report.network, report.note, queue_s, report.threads)
        self._table.change(job.job_id, began)

    def _on_step(self, job: Job, report: JobStepped) -> None:
        self._count_steps(job, (report,))
        self._table.change(job.job_id, _step_done(report))

    def _count_steps(self, job: Job, reports: Sequence[JobStepped]) -> None:
        """Count consecutive steps of a job, and learn their times."""
        runtime, metrics, device, spec = self._table.runtimes[job.job_id], self._metrics, job.device, job.spec
        together = max(1, self._scheduler.runs_on(device))
        took, shared = metrics.step_s.labels(device), metrics.occupancy.labels(device)
        metrics.steps.labels(device).inc(len(reports))
        runtime.stepped = time.monotonic()
        left = work(spec.width, spec.height, spec.parameters, reports[0].step - 1)
        for report in reports:
            seconds, runtime.elapsed_s = max(0.0, report.elapsed_s - runtime.elapsed_s), report.elapsed_s
            took.observe(seconds)
            shared.observe(together)
            if report.step == 1:
                metrics.first_step_s.observe(runtime.stepped - runtime.accepted)
            before, left = left, work(spec.width, spec.height, spec.parameters, report.step)
            if before > left and seconds:
                self._pace.learn(device, seconds / together, before - left, spec.parameters.precision)
        runtime.remaining_s = reports[-1].remaining_s

    def _on_parked(self, job: Job, step: int) -> None:
        self._scheduler.parked(job.job_id)
        parked = self._table.change(job.job_id, lifecycle.Parked(step, shutting_down=self._table.keeps_waiting))
        if parked.preemptions > job.preemptions:
            self._metrics.preemptions.inc()
            logger.info("job %s was preempted after %d steps", job.job_id, step, extra=about(job))
        elif parked.state is JobState.PAUSED:
            logger.info("job %s is paused after %d steps", job.job_id, step, extra=about(job))
        self._table.dispatch()

    def _on_painted(self, job: Job, report: JobPainted) -> None:
        if self._table.runtimes[job.job_id].intent is not Intent.ENCODE:  # else it was reported before
            self._table.change(job.job_id, lifecycle.Painted())
            if report.encoded is not None:
                self._keep(job, report, report.encoded, report.encode_s)
                return
            self._table.dispatch()
            self._table.spawn(self._finish(job, report))

    async def _finish(self, job: Job, report: JobPainted) -> None:
        output, began = job.spec.output, time.monotonic()
        try:
            made_by = provenance(Painting.of(job), report.stop_reason) if output.metadata else None
            encode = functools.partial(images.encode, report.picture, output.format, output.quality, made_by)
            picture = await asyncio.get_running_loop().run_in_executor(self._encoding, encode)
        except (OSError, ValueError, MemoryError) as cause:
            if self._unended(job.job_id):
                text = f"its picture could not be encoded as {output.format}: {cause}"
                self._table.change(job.job_id, lifecycle.Failed(JobError("ENCODE_ERROR", text)))
                self._table.dispatch()
        else:
            self._keep(job, report, picture, time.monotonic() - began)

    def _keep(self, job: Job, report: JobPainted, picture: bytes, encode_s: float) -> None:
        """Store a picture and end its job, unless it was deleted or cancelled meanwhile."""
        if self._unended(job.job_id):
            self._store.put_result(job.job_id, picture)
            self._table.change(job.job_id, lifecycle.Encoded(report.stop_reason, encode_s, report.warnings))
        self._table.dispatch()

    def _unended(self, job_id: str) -> bool:
        current = self._store.get(job_id)
        return current is not None and not current.state.ended

    def close(self) -> None:
        """Stop the threads."""
        self._encoding.shutdown(wait=False)


def _step_done(report: JobStepped) -> lifecycle.StepDone:
    return lifecycle.StepDone(report.step, report.losses, report.elapsed_s, report.remaining_s, report.preview)
