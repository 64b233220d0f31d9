"""The heart of the server: takes jobs in, lets the scheduler place them, and turns the workers' reports into history.

Everything here runs on the event loop and returns at once; pictures are encoded on threads, records are written on the
store's, networks live in the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from impasto_server.config import ServerConfig
from impasto_server.domain.errors import ServiceError, invalid, not_found
from impasto_server.domain.events import Ended, Event, Heartbeat, Paused, PauseReason, Started, Stepped
from impasto_server.domain.job import Job, JobError, JobSpec, JobState, StopReason
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.gauges import Gauges
from impasto_server.jobs.journal import Journal
from impasto_server.jobs.runtime import Live
from impasto_server.observability.logs import about
from impasto_server.observability.metrics import Metrics
from impasto_server.observability.tracing import NoTracing, Tracing
from impasto_server.pictures import images
from impasto_server.pictures.provenance import provenance
from impasto_server.scheduling.scheduler import Assignment, Scheduler, Ticket
from impasto_server.store.base import JobStore
from impasto_server.workers.messages import (
    Cancel,
    Checkpointed,
    Finish,
    Inspect,
    Inspected,
    JobPainted,
    JobParked,
    JobReport,
    JobStarted,
    JobStepped,
    Park,
    Start,
    checkpoint_files,
)
from impasto_server.workers.pool import Fleet
from impasto_server.workers.process import WorkerHandle

logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""A job whose worker dies so often under it fails."""
HEARTBEATS_PER_S = 500
"""Heartbeats that all watchers together get in a second, at most."""
LONGEST_HEARTBEAT_S = 20.0
"""But no watcher waits longer than this: clients take a server for lost that is silent for half a minute."""
ENCODERS = 2
"""Finished pictures that are encoded at a time."""
HOPELESS_S = 3600.0
"""How long a job waits for a device with memory for it, where there was one when it was accepted."""
OVERDUE_S = 30.0
"""How long a worker may take to end a job whose time limit has come, at least."""
PARKING_S = 10.0
"""How long workers may take to write the states of their jobs when the server stops."""


class Dispatcher:
    """Owns the jobs. Create it on a running event loop.

    Args:
        config: The server's settings.
        store: Where jobs are kept; what an earlier process left there goes on.
        workers: Handles of workers that are not started yet.
        metrics: Where things are counted; by default where nobody looks.
        tracing: Where spans of jobs go.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: JobStore,
        workers: Sequence[WorkerHandle],
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._metrics = metrics or Metrics()
        self._tracing = tracing or NoTracing()
        self._scheduler = Scheduler(config.max_queued_jobs)
        self.fleet = Fleet(config, workers, self._on_worker, self._on_report, self._on_lost, self._on_memory)
        self._live: dict[str, Live] = {}
        self._admission = Admission(config, store, self._scheduler, self.fleet, self._live)
        self.gauges = Gauges(config, self._metrics, store, self._scheduler, self.fleet, self._admission, self._live)
        self._encoding = ThreadPoolExecutor(ENCODERS, "encoding")  # of its own: nothing else holds a finished job up
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._own_numbers: Counter[str] = Counter()
        self._committing = 0
        self._watchers = 0
        self._unmeasured: set[str] = set()
        self._draining = False
        self._fault = ""
        self._impatience = asyncio.Event()
        self._restore()

    # What the service asks.

    @property
    def accepting(self) -> bool:
        """Whether new jobs are taken."""
        return not self._draining and self.fleet.any_ready and not self._fault and not self._store.trouble

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return self._scheduler.queued

    @property
    def running(self) -> int:
        """Jobs that run."""
        return self._scheduler.running

    def bytes_kept(self, owner: str | None = None) -> int:
        """Return what pictures take on the disk: all, or what an owner's would take alone."""
        return self._store.bytes_kept if owner is None else self._store.bytes_of(owner)

    def check_admission(self, request_id: str, digest: str, owner: str = "") -> Job | None:
        """Say before the expensive part of a request whether it can be taken.

        Returns:
            The job that a repeated request means, or None for a new one.

        Raises:
            ServiceError: If the id stands for another request, the server drains or has no worker, the queue is full, or the
                client has what it may have.
        """
        known = self._store.by_request(owner, request_id) if request_id else None
        if known is not None:
            if known.digest != digest:
                raise invalid(("request_id", f"{request_id!r} was used for another request"))
            return known
        if self._draining:
            raise ServiceError("DRAINING", "the server is shutting down; try another", retry_s=5.0)
        if self._fault:
            raise ServiceError("SERVER_FAULT", f"the server has a fault: {self._fault}", retry_s=30.0)
        if not self.fleet.any_ready:
            raise ServiceError("STARTING", "no worker is ready yet", retry_s=1.0)
        self._admission.check_room(owner, self._committing)
        return None

    def estimate(self, job: Job) -> tuple[float, float] | None:
        """Return in how many seconds a job is estimated to start and to end; None if nobody knows yet, or it has ended."""
        return self._admission.estimate(job)

    async def validate(self, spec: JobSpec, owner: str = "") -> Job:
        """Return the job that a spec would become if it were handed in now, and hand nothing in.

        Raises:
            ServiceError: As :meth:`submit`.
        """
        self._admission.check_job(spec, self.fleet.ticket(spec), owner)
        return Job("", 0, "", "", False, spec, created=time.time(), owner=owner)

    async def submit(self, spec: JobSpec, request_id: str, digest: str, *, detached: bool, owner: str = "") -> Job:
        """Accept a job; it is safe when this returns. What :meth:`check_admission` said is checked again: time has passed.

        Raises:
            ServiceError: As :meth:`check_admission`; or the job could run nowhere; or it cannot be kept.
        """
        known = self.check_admission(request_id, digest, owner)
        if known is not None:
            return await self.join(known, detached=detached)
        ticket = self.fleet.ticket(spec)
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
        self._live[job.job_id] = Live(accepted=now)
        admitting = asyncio.create_task(self._admit(job, replace(ticket, job_id=job.job_id, arrived=now)))
        try:
            await asyncio.shield(admitting)
        except asyncio.CancelledError:
            # The caller is gone; the job is on its way to the disk all the same, and must not be left half accepted.
            admitting.add_done_callback(lambda task: self._abandon(job, task))
            raise
        return self._known(job.job_id)

    async def _admit(self, job: Job, ticket: Ticket) -> None:
        self._committing += 1
        try:
            await self._store.committed(job.job_id)
        except ServiceError:
            self._live.pop(job.job_id, None)
            self._admission.release(job)
            raise
        finally:
            self._committing -= 1
        current = self._store.get(job.job_id)
        if current is None or current.state.ended:
            return  # cancelled or deleted meanwhile
        self._metrics.accepted.inc()
        self._live[job.job_id].admitted = True
        self._set_alarm(job)
        if current.state is JobState.QUEUED:  # nobody paused it meanwhile
            self._scheduler.submit(ticket, force=True)
            spec, text = job.spec, "job %s accepted: %d x %d, %d steps"
            logger.info(text, job.job_id, spec.width, spec.height, spec.parameters.steps, extra=about(job))
            self._dispatch()

    def _abandon(self, job: Job, admitting: asyncio.Task[None]) -> None:
        """Cancel a job whose only caller went away while it was accepted; one that was submitted goes on."""
        kept = not admitting.cancelled() and admitting.exception() is None
        current = self._store.get(job.job_id) if kept else None
        if current is not None and not current.detached and not self._live[job.job_id].waiters:
            self._cancel(job.job_id)

    async def join(self, job: Job, *, detached: bool) -> Job:
        """Let another request share a job. If one of them does not wait, the job goes on without the others.

        Raises:
            ServiceError: If the job turns out not to be kept.
        """
        await self._store.committed(job.job_id)
        job = self._known(job.job_id)
        if detached and not job.detached:
            self._store.put(replace(job, detached=True))
        return self._known(job.job_id)

    def get(self, job_id: str) -> Job:
        """Return a job as callers may know it: what is not safe yet has not happened.

        Raises:
            ServiceError: If it is not there.
        """
        job = self._store.seen(job_id)
        if job is None:
            raise not_found(job_id)
        return job

    def by_request(self, owner: str, request_id: str) -> Job:
        """Return the job that a client named so.

        Raises:
            ServiceError: If there is none.
        """
        job = self._store.by_request(owner, request_id)
        if job is None or (job := self._store.seen(job.job_id)) is None:
            raise not_found(request_id)
        return job

    async def flushed(self) -> None:
        """Wait until everything that was done so far is safe."""
        await self._store.settled()

    async def settled(self, job_id: str) -> Job:
        """Return a job as it is once everything that was done to it so far is safe.

        Raises:
            ServiceError: If it is not there.
        """
        await self._store.settled()
        return self.get(job_id)

    def page(self, before: int | None, limit: int, states: Collection[JobState], owner: str | None = None) -> list[Job]:
        """Return jobs, newest first; see :class:`~impasto_server.store.base.JobStore`."""
        return self._store.page(before, limit, states, owner)

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

    def cancel(self, job_id: str) -> Job:
        """Stop a job: a waiting one at once, a running one at its next step. One that has ended stays as it is.

        Raises:
            ServiceError: If it is not there.
        """
        self.get(job_id)
        return self._cancel(job_id)

    def _cancel(self, job_id: str) -> Job:
        job = self._known(job_id)
        if not job.state.ended:
            self.fleet.send(job.device, Cancel(job_id))
            self._end(job, JobState.CANCELLED, StopReason.CANCELLED)
        return self._known(job_id)

    def pause(self, job_id: str) -> Job:
        """Let a job stop for a while: a waiting one at once, a running one at its next step. One that has ended stays so.

        Raises:
            ServiceError: If it is not there.
        """
        self.get(job_id)
        job = self._known(job_id)
        if self._live[job_id].overdue:
            return job  # it is about to end as it stands
        if job.state is JobState.QUEUED:
            self._scheduler.remove(job_id)
            self._pause(job, PauseReason.REQUESTED, job.step)
        elif job.state is JobState.RUNNING:
            self._live[job_id].pausing = True
            self.fleet.send(job.device, Park(job_id))
        self._dispatch()
        return self._known(job_id)

    def resume(self, job_id: str) -> Job:
        """Let a paused job wait again, at its old place. Any other stays as it is.

        Raises:
            ServiceError: If it is not there.
        """
        self.get(job_id)
        job = self._known(job_id)
        self._live[job_id].pausing = False
        if job.state is JobState.PAUSED:
            self._live[job_id].paused = 0.0
            self._store.put(replace(job, state=JobState.QUEUED))
            self._enqueue(job)
            self._dispatch()
        return self._known(job_id)

    def delete(self, job_id: str) -> None:
        """Cancel a job if it has not ended, and forget it.

        Raises:
            ServiceError: If it is not there.
        """
        self.get(job_id)
        self._cancel(job_id)
        self._store.forget([job_id])
        self._live.pop(job_id)

    @contextlib.contextmanager
    def wanted(self, job: Job) -> Iterator[None]:
        """Hold a job's picture for wanted while the block lasts.

        If the last who wants that of a job that is not detached goes away, the job is cancelled. Enter it before anything
        else is awaited: a caller may be gone by then.
        """
        live = self._live.get(job.job_id)
        if live is None:
            raise not_found(job.job_id)  # deleted since it was looked up
        live.waiters += 1
        try:
            yield
        finally:
            live.waiters -= 1
            current = self._store.get(job.job_id)
            left = live.waiters == 0 and not (self._draining and self._store.durable)
            if left and current is not None and not current.detached:
                self._cancel(job.job_id)

    async def wait(self, job: Job) -> Job:
        """Wait for a job's end, and want it meanwhile.

        Raises:
            ServiceError: If it is deleted meanwhile.
        """
        with self.wanted(job):
            await self._live[job.job_id].ended.wait()
        return self.get(job.job_id)

    async def watch(self, job: Job, sequence: int | None) -> AsyncGenerator[tuple[int, Job | Event | Heartbeat]]:
        """Yield the job, then its events after a sequence number (None for the newest), then nothing after its end."""
        live = self._live.get(job.job_id)
        if live is None:
            raise not_found(job.job_id)
        journal = live.journal
        at = journal.sequence if sequence is None else sequence
        if at > journal.sequence:
            message = f"there is no event {at} yet; the newest is {journal.sequence}"
            raise invalid(("resume_after_sequence", message))
        current = self.get(job.job_id)
        if journal.closed:
            # The end is told again to whoever asks after it.
            at = min(at, journal.sequence - 1)
        self._watchers += 1
        try:
            yield at, current
            while True:
                for number, event in await self._told(job.job_id, journal, at):
                    at = number
                    yield number, event
                    if isinstance(event, Ended):
                        return
                if journal.sequence == at and not await journal.wait(self._heartbeat_s()):
                    yield at, Heartbeat()
        finally:
            self._watchers -= 1

    async def _told(self, job_id: str, journal: Journal, after: int) -> list[tuple[int, Event]]:
        """Return the events after a number that may be told."""
        if not journal.sealed:
            return journal.after(after)
        found = list(enumerate(await self._store.events(job_id), start=1))[after:]
        if not found:
            raise not_found(job_id)  # it was forgotten meanwhile
        return found

    def _heartbeat_s(self) -> float:
        """Return the silence after which a watcher gets a heartbeat: longer when so many watch that it would cost too much."""
        return max(self._config.heartbeat_s, min(LONGEST_HEARTBEAT_S, self._watchers / HEARTBEATS_PER_S))

    async def inspect(self, command: Inspect, owner: str) -> Inspected:
        """Let a worker tell how filters see a picture.

        Raises:
            ServiceError: If there is no room for it beside the jobs, or as :meth:`Fleet.inspect`.
        """
        picture = command.picture
        demand = self.fleet.inspection_demand(picture.width * picture.height, command.network)
        if not self._scheduler.fits_now(Ticket("", picture.width * picture.height, 0.0, demand=demand)):
            text = "the device has no memory for the question beside its jobs; try later, or ask for a smaller size"
            metadata = {"queued": str(self.queued), "running": str(self.running), "limit": ""}
            raise ServiceError("QUEUE_FULL", text, metadata=metadata, retry_s=5.0)
        return await self.fleet.inspect(command, owner)

    def look(self) -> None:
        """See that no worker hangs, and that no job outlives its time limit in one that does."""
        self.fleet.look(self._turn_s)
        now = time.monotonic()
        self._look_for_hopeless(now)
        for job_id, live in self._live.items():
            job = self._store.get(job_id)
            if live.overdue_since and job is not None and job.state is JobState.RUNNING and not live.painted:
                longest = max(OVERDUE_S, 5 * (self._turn_s(job.device) or 0.0))
                if now - max(live.overdue_since, live.dispatched) > longest:
                    self.fleet.kill(job.device, f"does not end job {job_id}, whose time limit has come")
                    live.overdue_since = now

    def _look_for_hopeless(self, now: float) -> None:
        """Fail the jobs that no device has had the memory for, for very long: a moment of little memory is no reason."""
        hopeless = set(self._scheduler.hopeless()) if self.fleet.all_ready else set()
        for job_id in self._scheduler.waiting():
            live = self._live[job_id]
            live.hopeless_since = (live.hopeless_since or now) if job_id in hopeless else 0.0
            if live.hopeless_since and now - live.hopeless_since > HOPELESS_S:
                error = JobError("OUT_OF_MEMORY", f"no device has had the memory for it for {HOPELESS_S / 60:.0f} minutes")
                self._end(self._known(job_id), JobState.FAILED, StopReason.FAILED, error)

    def _turn_s(self, worker: str) -> float | None:
        """Return how long a turn of a worker is likely to take: a step of each of its jobs."""
        seconds = 0.0
        for job_id, live in self._live.items():
            job = self._store.get(job_id)
            if job is None or live.ended.is_set() or job.state is not JobState.RUNNING or job.device != worker:
                continue
            left = job.spec.parameters.steps - job.step
            whole = self._admission.pace.seconds(job.spec.width, job.spec.height, job.spec.parameters, job.step)
            if whole is None:
                return None
            seconds += whole / max(1, left) * (2 if left else 1)
        return seconds

    # What the server's life asks.

    async def drain(self) -> bool:
        """Take no new jobs and let the running ones end for the grace time.

        What is left then is kept for the next process, with its state, where the store is durable; else it is cancelled.

        Returns:
            Whether somebody may still want what ended meanwhile: jobs did, and nobody is in a hurry.
        """
        self._draining = True
        keeps = self._store.durable
        open_jobs = [job_id for job_id, live in self._live.items() if not live.ended.is_set()]
        waited_for = [job_id for job_id in open_jobs if not keeps or self._known(job_id).state is JobState.RUNNING]
        if waited_for:
            logger.info("draining: %d jobs have %.0f s to end", len(waited_for), self._config.grace_s)
            ends = asyncio.gather(*(self._live[job_id].ended.wait() for job_id in waited_for))
            ended: asyncio.Future[Any] = ends
            impatient: asyncio.Future[Any] = asyncio.ensure_future(self._impatience.wait())
            await asyncio.wait({ended, impatient}, timeout=self._config.grace_s, return_when=asyncio.FIRST_COMPLETED)
            impatient.cancel()
            left = [job_id for job_id in waited_for if not self._live[job_id].ended.is_set()]
            if keeps:
                ended.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ended
                await self._park_all(left)
                logger.info(
                    "drained: %d jobs ended, %d go on with the next server", len(waited_for) - len(left), self._unended()
                )
            else:
                for job_id in left:
                    logger.warning("job %s is cancelled: the server shuts down", job_id, extra=about(self._known(job_id)))
                    self._cancel(job_id)
                await ended
        await self._store.settled()
        return bool(waited_for) and not self._impatience.is_set()

    def _unended(self) -> int:
        return sum(not live.ended.is_set() for live in self._live.values())

    async def _park_all(self, job_ids: list[str]) -> None:
        running = [self._known(job_id) for job_id in job_ids if self._known(job_id).state is JobState.RUNNING]
        for job in running:
            self.fleet.send(job.device, Park(job.job_id))
        left = asyncio.gather(*(self._live[job.job_id].left.wait() for job in running))
        try:
            await asyncio.wait_for(left, PARKING_S)
        except TimeoutError:
            logger.warning("some jobs will go on from an older checkpoint: their states were not written in time")

    def cut_grace(self) -> None:
        """Cancel at once what is still running while draining."""
        self._impatience.set()

    async def stop(self) -> None:
        """End the workers, and the store when everything is in it."""
        self._draining = True
        await self.fleet.stop()
        for task in list(self._tasks):
            task.cancel()
        for live in self._live.values():
            if live.alarm:
                live.alarm.cancel()
        self._encoding.shutdown(wait=False)
        await self._store.close()

    def _restore(self) -> None:
        """Take up what an earlier process left: ended jobs can be asked for, the others wait again, in their old order."""
        for restored in self._store.restore():
            job = restored.job
            self._numbers = max(self._numbers, job.number)
            age = max(0.0, time.time() - job.created)
            journal = Journal(restored.events, restored.told if restored.closed else None)
            live = self._live[job.job_id] = Live(time.monotonic() - age, journal, admitted=True)
            if not job.own_number:
                job = replace(job, own_number=self._own_numbers[job.owner] + 1)
            self._own_numbers[job.owner] = max(self._own_numbers[job.owner], job.own_number)
            if job.state.ended:
                if not restored.closed:
                    self._store.put(job)
                    self._tell(job.job_id, Ended())
                live.ended.set()
                self._drop_checkpoint(job.job_id)
                continue
            # Nobody of those who waited for it is there any more; whoever comes back finds it by its id.
            state = JobState.PAUSED if job.state is JobState.PAUSED else JobState.QUEUED
            job = replace(job, state=state, device="", detached=True)
            self._store.put(job)
            live.going_on = state is JobState.PAUSED
            live.paused = time.monotonic() if state is JobState.PAUSED else 0.0
            self._set_alarm(job)
            self._admission.book(job, -math.inf)
            if state is JobState.QUEUED:
                self._enqueue(job)
                logger.info("job %s is taken up again; it was at step %d", job.job_id, job.step, extra=about(job))
        known = {self._checkpoint(job_id).name for job_id, live in self._live.items() if not live.ended.is_set()}
        for path in self._store.checkpoints.glob("*.checkpoint*"):
            if path.name.split(".checkpoint")[0] + ".checkpoint" not in known:
                path.unlink(missing_ok=True)

    # What the workers report.

    def _on_worker(self, name: str) -> None:
        self._metrics.ready.labels(name).set(1)
        seconds = self.fleet.seconds_per_pixel(name)
        if seconds:
            self._admission.pace.measured(name, seconds)
        unmeasured, self._unmeasured = self._unmeasured, set()
        for job_id in unmeasured:
            job = self._store.get(job_id)
            if job is not None and job.state is JobState.QUEUED:
                self._scheduler.remove(job_id)
                self._enqueue(job)
        self._scheduler.worker_ready(name, self.fleet.capacity(name))
        self._dispatch()

    def _on_memory(self, name: str) -> None:
        """Take in that a worker which is idle has more or less memory than before."""
        self._scheduler.resize(name, self.fleet.capacity(name))
        self._dispatch()

    def _on_report(self, name: str, report: JobReport) -> None:
        job = self._store.get(report.job_id)
        if job is None or job.state is not JobState.RUNNING or job.device != name:
            if isinstance(report, JobParked):
                self._drop_checkpoint(report.job_id)
            return  # cancelled meanwhile, or given to another worker
        if isinstance(report, JobStarted):
            self._on_started(job, report)
        elif isinstance(report, Checkpointed):
            self._metrics.checkpoints.inc()
            self._metrics.checkpoint_bytes.inc(report.size)
            self._live[job.job_id].checkpointed = time.monotonic()
        elif isinstance(report, JobParked):
            self._on_parked(job, report.step)
        elif isinstance(report, JobStepped):
            self._on_step(job, report)
        elif isinstance(report, JobPainted):
            self._spawn(self._finish(job, report))
        else:
            self._end(job, JobState.FAILED, StopReason.FAILED, JobError(report.reason, report.message))

    def _on_lost(self, name: str, cause: str) -> None:
        self._metrics.restarts.labels(name).inc()
        self._metrics.ready.labels(name).set(0)
        lost = self._scheduler.worker_lost(name)
        for job_id in lost:
            self._live[job_id].stop()
            job = self._known(job_id)
            job = replace(job, losses_of_worker=job.losses_of_worker + 1)
            if job.losses_of_worker >= MAX_LOSSES:
                error = JobError("WORKER_LOST", f"its worker was lost {job.losses_of_worker} times (last: {cause})")
                self._end(job, JobState.FAILED, StopReason.FAILED, error)
            elif self._live[job_id].pausing and not self._live[job_id].overdue:
                self._live[job_id].pausing = False
                self._scheduler.remove(job_id)
                self._pause(job, PauseReason.REQUESTED, job.step)
            else:
                text = "job %s goes on elsewhere from its newest state, if there is one: its worker was lost"
                logger.warning(text, job_id, extra=about(job))
                self._store.put(replace(job, state=JobState.QUEUED, device=""))
        self._dispatch()

    def _on_started(self, job: Job, report: JobStarted) -> None:
        live = self._live[job.job_id]
        now = time.monotonic()
        live.stepped = live.checkpointed = now
        live.elapsed_s = job.optimize_s if report.step else 0.0
        if job.started is None:
            job = replace(job, started=time.time(), queue_s=now - live.accepted)
            self._metrics.queue_s.observe(job.queue_s)
        if report.step:
            self._metrics.resumes.inc()
        self._metrics.cache.labels("hit").inc(report.cache_hits)
        self._metrics.cache.labels("miss").inc(report.cache_misses)
        losses = job.losses if report.step else None
        logger.info("job %s starts on %s after %d steps", job.job_id, job.device, report.step, extra=about(job))
        network = report.network or job.network
        self._store.put(replace(job, arithmetic=report.arithmetic, step=report.step, losses=losses, network=network))
        self._tell(job.job_id, Started(job.device, job.attempts, report.step, report.note))
        if live.overdue and report.step:  # else after its first step: what it starts from is no picture
            self.fleet.send(job.device, Finish(job.job_id))

    def _on_parked(self, job: Job, step: int) -> None:
        live = self._live[job.job_id]
        live.going_on = True
        live.stop()
        self._scheduler.parked(job.job_id)
        if live.pausing and not live.overdue:
            live.pausing = False
            self._scheduler.remove(job.job_id)
            self._pause(job, PauseReason.REQUESTED, step)
        elif self._draining and self._store.durable:
            self._store.put(replace(job, state=JobState.QUEUED, device="", step=step))
            live.left.set()
        else:
            self._store.put(replace(job, state=JobState.QUEUED, device="", step=step, preemptions=job.preemptions + 1))
            self._tell(job.job_id, Paused(PauseReason.PREEMPTED, step))
            self._metrics.preemptions.inc()
            logger.info("job %s made room after %d steps", job.job_id, step, extra=about(job))
        self._dispatch()

    def _pause(self, job: Job, reason: PauseReason, step: int) -> None:
        live = self._live[job.job_id]
        live.stop()
        live.paused = time.monotonic()
        self._store.put(replace(job, state=JobState.PAUSED, device="", step=step))
        self._tell(job.job_id, Paused(reason, step))
        logger.info("job %s is paused after %d steps", job.job_id, step, extra=about(job))

    def _on_step(self, job: Job, report: JobStepped) -> None:
        self.gauges.count_step(job, report)
        self._store.put(replace(job, step=report.step, losses=report.losses, optimize_s=report.elapsed_s))
        steps = job.spec.parameters.steps
        self._tell(job.job_id, Stepped(report.step, steps, report.losses, report.elapsed_s, report.remaining_s, report.preview))
        if self._live[job.job_id].overdue:  # the worker that was told to end it is gone, and another one goes on
            self.fleet.send(job.device, Finish(job.job_id))

    async def _finish(self, job: Job, report: JobPainted) -> None:
        self._live[job.job_id].painted = True
        self._scheduler.remove(job.job_id)
        self._dispatch()
        output = job.spec.output
        began = time.monotonic()
        picture, error = None, None
        try:
            made_by = provenance(job, report.stop_reason) if output.metadata else None
            encode = functools.partial(images.encode, report.picture, output.format, output.quality, made_by)
            picture = await asyncio.get_running_loop().run_in_executor(self._encoding, encode)
        except (OSError, ValueError, MemoryError) as cause:
            error = JobError("ENCODE_ERROR", f"its picture could not be encoded as {output.format}: {cause}")
        current = self._store.get(job.job_id)
        if current is None or current.state.ended:
            return  # deleted or cancelled meanwhile
        job = current
        if picture is None:
            self._end(job, JobState.FAILED, StopReason.FAILED, error)
        else:
            self._store.put_result(job.job_id, picture)
            job = replace(job, encode_s=time.monotonic() - began, warnings=report.warnings)
            self._end(job, JobState.SUCCEEDED, report.stop_reason)

    # Shared.

    def _known(self, job_id: str) -> Job:
        job = self._store.get(job_id)
        if job is None:
            raise not_found(job_id)
        return job

    def _enqueue(self, job: Job, *, at_once: bool = False) -> None:
        """Let a job that was accepted earlier wait at its old place, or before all others, however full the queue is."""
        if not self.fleet.any_ready:
            self._unmeasured.add(job.job_id)  # what it takes is known when a worker is
        arrived = 0.0 if at_once else self._live[job.job_id].accepted
        ticket = replace(self.fleet.ticket(job.spec), job_id=job.job_id, arrived=arrived)
        self._scheduler.submit(replace(ticket, alone=job.losses_of_worker > 0), force=True)

    def _checkpoint(self, job_id: str) -> Path:
        return self._store.checkpoints / f"{job_id}.checkpoint"

    def _drop_checkpoint(self, job_id: str) -> None:
        for path in checkpoint_files(self._checkpoint(job_id)):
            path.unlink(missing_ok=True)

    def _dispatch(self) -> None:
        """Do what the scheduler decides."""
        if self._fault or (self._draining and self._store.durable):
            return
        try:
            decisions = self._scheduler.decide()
        except Exception as error:
            # A scheduler that raised once raises at every call: no job would ever start, so nobody shall hand one in.
            logger.exception("the scheduler failed: no job starts until the server is restarted")
            self._fault = f"its scheduler failed ({type(error).__name__})"
            self._metrics.faults.labels("scheduler").inc()
            return
        for decision in decisions:
            job = self._known(decision.job_id)
            if not isinstance(decision, Assignment):
                self.fleet.send(decision.worker, Park(job.job_id))
                continue
            live = self._live[job.job_id]
            attempts = job.attempts + (not live.going_on)
            live.going_on = False
            live.dispatched = time.monotonic()
            self._store.put(replace(job, state=JobState.RUNNING, device=decision.worker, attempts=attempts))
            self.fleet.send(decision.worker, Start(job.job_id, job.spec, str(self._checkpoint(job.job_id))))

    def _set_alarm(self, job: Job) -> None:
        limit = job.spec.time_limit_s
        if limit is not None:
            live = self._live[job.job_id]
            left = limit - (time.monotonic() - live.accepted)
            live.alarm = asyncio.get_running_loop().call_later(max(0.0, left), self._on_time_limit, job.job_id)

    def _on_time_limit(self, job_id: str) -> None:
        job = self._store.get(job_id)
        if job is None or job.state.ended:
            return
        if job.spec.return_best and job.step:
            self._live[job_id].overdue = True
            self._live[job_id].overdue_since = time.monotonic()
            if job.state is JobState.RUNNING:
                self.fleet.send(job.device, Finish(job_id))
            else:  # its canvas lies in its checkpoint, which the next worker with room turns into a picture
                self._scheduler.remove(job_id)
                self._store.put(replace(job, state=JobState.QUEUED))
                self._enqueue(job, at_once=True)
                self._dispatch()
            return
        self.fleet.send(job.device, Cancel(job_id))
        begun = f"after {job.step} of {job.spec.parameters.steps} steps" if job.step else "before its first step"
        error = JobError("DEADLINE_EXCEEDED", f"its time limit of {job.spec.time_limit_s:g} s came {begun}")
        self._end(job, JobState.FAILED, StopReason.DEADLINE, error)

    def _tell(self, job_id: str, event: Event) -> None:
        """Write history: an event is shown to the watchers as soon as it is safe."""
        live = self._live[job_id]
        number = live.journal.add(event)

        def show() -> None:
            live.journal.show(number)
            if isinstance(event, Ended):
                live.ended.set()
                self._spawn(self._seal(job_id, live.journal))

        self._store.append(job_id, number, event, show)

    async def _seal(self, job_id: str, journal: Journal) -> None:
        await self._store.seal(job_id, journal.events)
        journal.seal()

    def _end(self, job: Job, state: JobState, reason: StopReason, error: JobError | None = None) -> None:
        job = replace(job, state=state, stop_reason=reason, error=error, ended=time.time())
        self._store.put(job)
        self._scheduler.remove(job.job_id)
        self._admission.release(job)
        self._metrics.job_ended(job)
        self._tracing.job(job)
        live = self._live[job.job_id]
        live.stop()
        live.paused = 0.0
        if live.alarm:
            live.alarm.cancel()
        live.left.set()
        self._drop_checkpoint(job.job_id)
        self._tell(job.job_id, Ended())
        logger.info("job %s %s after %d steps", job.job_id, state.value, job.step, extra=about(job))
        self._dispatch()

    def expire(self) -> None:
        """Forget the ended jobs that were kept long enough, and cancel those that were paused so long."""
        oldest = time.monotonic() - self._config.retention_s
        for job_id, live in list(self._live.items()):
            if live.paused and live.paused < oldest and self._known(job_id).state is JobState.PAUSED:
                logger.info("job %s is cancelled: it was paused for %g s", job_id, self._config.retention_s)
                self._end(self._known(job_id), JobState.CANCELLED, StopReason.CANCELLED)
        for job_id in self._store.expire(time.time()):
            self._live.pop(job_id, None)

    def audit(self) -> list[str]:
        """Return what does not hold though it always must: each job that has not ended is in exactly one place."""
        wrong = []
        for job_id, live in self._live.items():
            job = self._store.get(job_id)
            if job is None or job.state.ended or not live.admitted:
                continue
            waits, worker = self._scheduler.waits(job_id), self._scheduler.worker_of(job_id)
            wanted = {
                JobState.QUEUED: (True, None),
                JobState.RUNNING: (False, job.device),
                JobState.PAUSED: (False, None),
            }[job.state]
            if (waits, worker) != wanted and not live.painted:
                wrong.append(
                    f"job {job_id} is {job.state.value} on {job.device or 'no worker'}: waits {waits}, runs on {worker}"
                )
        return wrong

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
