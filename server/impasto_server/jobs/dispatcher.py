"""Commands of callers on jobs: submit, join, wait, pause, resume, cancel, delete.

Everything here runs on the event loop and returns at once, or waits for a commit or for events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from impasto_server.config import ServerConfig
from impasto_server.domain.errors import ServiceError, not_found
from impasto_server.domain.job import Job, JobSpec, JobState, StopReason
from impasto_server.jobs import lifecycle
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.restore import restore
from impasto_server.jobs.runtime import Runtime
from impasto_server.jobs.table import JobTable
from impasto_server.jobs.views import JobViews
from impasto_server.observability.logs import about
from impasto_server.observability.metrics import Metrics
from impasto_server.observability.tracing import Tracing
from impasto_server.scheduling.scheduler import Scheduler, Ticket
from impasto_server.store.base import JobStore
from impasto_server.workers.messages import Inspect, Inspected
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)


class Dispatcher(JobViews):
    """Adds commands to the views; the table changes the jobs.

    Args:
        config: The server's settings.
        table: The jobs.
        store: Where they are kept.
        scheduler: Knows the waiting jobs.
        pool: The workers.
        admission: Decides whether there is room.
        metrics: The metrics.
        tracing: Where spans of jobs go.
    """

    def __init__(
        self,
        config: ServerConfig,
        table: JobTable,
        store: JobStore,
        scheduler: Scheduler,
        pool: WorkerPool,
        admission: Admission,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        super().__init__(config, table, store, scheduler, admission)
        self._pool, self._metrics, self._tracing = pool, metrics, tracing
        self._numbers = 0
        self._own_numbers: Counter[str] = Counter()
        self._committing = 0
        for job in restore(table, store, admission):
            self._numbers = max(self._numbers, job.number)
            self._own_numbers[job.owner] = max(self._own_numbers[job.owner], job.own_number)

    @property
    def draining(self) -> bool:
        """Whether the server is shutting down."""
        return self._table.draining

    @property
    def accepting(self) -> bool:
        """Whether new jobs are accepted."""
        table = self._table
        return not table.draining and self._pool.any_ready and not table.fault and not self._store.trouble

    def check_admission(self, request_id: str, digest: str, owner: str = "") -> Job | None:
        """Check before the expensive part of a request whether it can be accepted.

        Returns:
            The existing job for a repeated request; None for a new request, or if its callers were lost and the job with them.

        Raises:
            ServiceError: If the id was used for another request, the server drains or has no ready worker, the queue is full,
                or the client has reached its quota.
        """
        known = self._store.by_request(owner, request_id) if request_id else None
        if known is not None:
            if known.digest != digest:
                text, about = f"{request_id!r} was used for another request", {"request_id": request_id}
                violation = ("request_id", text)
                raise ServiceError("REQUEST_ID_REUSED", f"request_id: {text}", violations=(violation,), metadata=about)
            if known.stop_reason is not StopReason.ABANDONED:
                return known
        if self._table.draining:
            raise ServiceError("DRAINING", "the server is shutting down; use another server", retry_s=5.0)
        if self._table.fault:
            raise ServiceError("SERVER_FAULT", f"the server has a fault: {self._table.fault}", retry_s=30.0)
        if not self._pool.any_ready:
            raise ServiceError("STARTING", "no worker is ready yet", retry_s=1.0)
        self._admission.check_room(owner, self._committing)
        return None

    async def validate(self, spec: JobSpec, owner: str = "") -> Job:
        """Return the job that a spec would become, without submitting it.

        Raises:
            ServiceError: As :meth:`submit`.
        """
        self._admission.check_job(spec, self._pool.ticket(spec), owner)
        return Job("", 0, "", "", False, spec, created=time.time(), owner=owner)

    async def submit(self, spec: JobSpec, request_id: str, digest: str, *, detached: bool, owner: str = "") -> Job:
        """Accept a job; it is committed when this returns. :meth:`check_admission` is repeated, because time has passed.

        Raises:
            ServiceError: As :meth:`check_admission`; or no device can run the job; or it cannot be stored.
        """
        known = self.check_admission(request_id, digest, owner)
        if known is not None:
            return await self.join(known, detached=detached)
        ticket = self._pool.ticket(spec)
        self._admission.check_job(spec, ticket, owner)
        now = time.monotonic()
        self._numbers += 1
        job_id = secrets.token_hex(8)
        trace = self._tracing.current()
        self._own_numbers[owner] += 1
        job = Job(
            job_id,
            self._numbers,
            request_id,
            digest,
            detached,
            spec,
            created=time.time(),
            owner=owner,
            trace=trace,
            own_number=self._own_numbers[owner],
        )
        self._admission.book(job, now)
        self._store.add(job)
        self._table.add(job.job_id, Runtime(accepted=now))
        admitting = asyncio.create_task(self._admit(job, replace(ticket, job_id=job.job_id, arrived=now)))
        try:
            await asyncio.shield(admitting)
        except asyncio.CancelledError:
            # The caller is gone, but the job is already being committed and must not be left half accepted.
            admitting.add_done_callback(lambda task: self._abandon(job, task))
            raise
        return self._table.known(job.job_id)

    async def _admit(self, job: Job, ticket: Ticket) -> None:
        self._committing += 1
        try:
            await self._store.committed(job.job_id)
        except ServiceError:
            self._table.drop(job.job_id)
            self._admission.release(job)
            raise
        finally:
            self._committing -= 1
        current = self._store.get(job.job_id)
        if current is None or current.state.ended:
            return  # cancelled or deleted meanwhile
        self._metrics.accepted.inc()
        self._table.runtimes[job.job_id].admitted = True
        self._table.set_alarm(job)
        if current.state is JobState.QUEUED:  # not paused meanwhile
            self._scheduler.submit(ticket)
            spec, text = job.spec, "job %s accepted: %d x %d, %d steps"
            logger.info(text, job.job_id, spec.width, spec.height, spec.parameters.steps, extra=about(job))
            self._table.dispatch()

    def _abandon(self, job: Job, admitting: asyncio.Task[None]) -> None:
        """Cancel a job whose only caller left while it was being accepted; a detached job continues."""
        kept = not admitting.cancelled() and admitting.exception() is None
        current = self._store.get(job.job_id) if kept else None
        if current is not None and not current.detached and not self._table.runtimes[job.job_id].waiters:
            self._change(job.job_id, lifecycle.Cancelled(abandoned=True))

    async def join(self, job: Job, *, detached: bool) -> Job:
        """Attach another request to a job. If one of them is detached, the job becomes detached.

        Raises:
            ServiceError: If the job could not be stored.
        """
        await self._store.committed(job.job_id)
        job = self._table.known(job.job_id)
        if detached and not job.detached:
            self._store.put(replace(job, detached=True))
        return self._table.known(job.job_id)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a waiting one at once, a running one at its next step. An ended job does not change.

        Raises:
            ServiceError: If it does not exist.
        """
        self.get(job_id)
        return self._change(job_id, lifecycle.Cancelled())

    def pause(self, job_id: str) -> Job:
        """Pause a job: a waiting one at once, a running one at its next step. An ended or ending job does not change.

        Raises:
            ServiceError: If it does not exist.
        """
        self.get(job_id)
        return self._change(job_id, lifecycle.PauseRequested())

    def resume(self, job_id: str) -> Job:
        """Return a paused job to the queue, at its old place. Any other job does not change.

        Raises:
            ServiceError: If it does not exist.
        """
        self.get(job_id)
        return self._change(job_id, lifecycle.ResumeRequested())

    def _change(self, job_id: str, event: lifecycle.LifeEvent) -> Job:
        self._table.change(job_id, event)
        self._table.dispatch()
        return self._table.known(job_id)

    def delete(self, job_id: str) -> None:
        """Cancel a job if it has not ended, and remove it.

        Raises:
            ServiceError: If it does not exist.
        """
        self.get(job_id)
        self._change(job_id, lifecycle.Cancelled())
        self._store.forget([job_id])
        self._table.drop(job_id)

    @contextlib.contextmanager
    def wanted(self, job: Job) -> Iterator[None]:
        """Count a caller as waiting for a job's picture during the block.

        When the last caller leaves, the job is cancelled unless it is detached. Enter the block before awaiting
        anything else: the caller may be gone by then.
        """
        runtime = self._table.runtimes.get(job.job_id)
        if runtime is None:
            raise not_found(job.job_id)  # deleted since it was looked up
        runtime.waiters += 1
        try:
            yield
        finally:
            runtime.waiters -= 1
            current = self._store.get(job.job_id)
            left = runtime.waiters == 0 and not self._table.keeps_waiting
            if left and current is not None and not current.detached:
                self._change(job.job_id, lifecycle.Cancelled(abandoned=True))

    async def wait(self, job: Job) -> Job:
        """Wait for a job to end, and count the caller as waiting for it.

        Raises:
            ServiceError: If it is deleted meanwhile.
        """
        with self.wanted(job):
            await self._table.runtimes[job.job_id].ended.wait()
        return self.get(job.job_id)

    async def inspect(self, command: Inspect, owner: str) -> Inspected:
        """Let a worker compute how filters respond to a picture.

        Raises:
            ServiceError: If there is no memory for it beside the jobs, or as :meth:`WorkerPool.inspect`.
        """
        picture = command.picture
        demand = self._pool.inspection_demand(picture.width * picture.height, command.network)
        if not self._scheduler.fits_now(Ticket("", picture.width * picture.height, 0.0, demand=demand)):
            text = "the device has no memory for the inspection beside its jobs; retry later, or use a smaller size"
            metadata = {"queued": str(self.queued), "running": str(self.running), "limit": ""}
            raise ServiceError("QUEUE_FULL", text, metadata=metadata, retry_s=5.0)
        return await self._pool.inspect(command, owner)
