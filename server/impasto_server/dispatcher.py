"""The heart of the server: takes jobs in, lets the scheduler place them, and turns the workers' reports into history.

Everything here runs on the event loop and returns at once; pictures are encoded on threads, networks live in the workers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from impasto_server import images
from impasto_server.config import ServerConfig
from impasto_server.jobs import (
    Ended,
    Event,
    Heartbeat,
    Job,
    JobError,
    JobSpec,
    JobState,
    NetworkDescription,
    Paused,
    PauseReason,
    ServiceError,
    Started,
    Stepped,
    StopReason,
    invalid,
    not_found,
)
from impasto_server.journal import Journal
from impasto_server.protocol import (
    Cancel,
    CannotStart,
    JobFailed,
    JobPainted,
    JobParked,
    JobStarted,
    JobStepped,
    Park,
    PassMeasured,
    Ready,
    Report,
    Start,
)
from impasto_server.scheduler import Assignment, Capacity, Demand, Scheduler, Ticket
from impasto_server.store import JobStore
from impasto_server.workers import WorkerHandle

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
MEMORY_SHARE = 0.8
"""How much of what is free on a device its jobs may take."""
MIB = 1 << 20
GPU_SLOTS = 16
RESTART_DELAYS_S = (0.1, 1.0, 5.0)
"""A worker that dies is started again after the first delay; one that dies again before it was ready, after the next."""


@dataclass
class _Live:
    """What a job has besides its record while somebody may care: clocks, events and who waits."""

    accepted: float
    journal: Journal = field(default_factory=Journal)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: int = 0
    parked: bool = False


@dataclass
class WorkerStatus:
    """One worker as GetServerInfo tells it."""

    handle: WorkerHandle
    ready: Ready | None = None
    restarts: int = 0
    failures: int = 0


class Dispatcher:
    """Owns the jobs. Create it on a running event loop.

    Args:
        config: The server's settings.
        store: Where jobs are kept.
        workers: Handles of workers that are not started yet.
        folder: Where the states of jobs are kept that make room for others.
    """

    def __init__(self, config: ServerConfig, store: JobStore, workers: Sequence[WorkerHandle], folder: Path) -> None:
        self._config = config
        self._store = store
        self._folder = folder
        self._scheduler = Scheduler(config.max_queued_jobs)
        self._workers = {handle.name: WorkerStatus(handle) for handle in workers}
        self._live: dict[str, _Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._draining = False
        self._stopping = False
        self._impatience = asyncio.Event()
        self.ready = asyncio.Event()
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    # What the service asks.

    @property
    def accepting(self) -> bool:
        """Whether new jobs are taken."""
        return not self._draining and any(status.ready for status in self._workers.values())

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return self._scheduler.queued

    @property
    def running(self) -> int:
        """Jobs that run."""
        return self._scheduler.running

    @property
    def workers(self) -> Collection[WorkerStatus]:
        """All workers."""
        return self._workers.values()

    @property
    def network(self) -> NetworkDescription | None:
        """The network that is resident; every worker has the same."""
        return next((status.ready.network for status in self._workers.values() if status.ready), None)

    def check_admission(self, request_id: str, digest: str) -> Job | None:
        """Say before the expensive part of a request whether it can be taken.

        Returns:
            The job that a repeated request means, or None for a new one.

        Raises:
            ServiceError: If the id stands for another request, the server drains or has no worker, or the queue is full.
        """
        known = self._store.by_request(request_id) if request_id else None
        if known is not None:
            if known.digest != digest:
                raise invalid(("request_id", f"{request_id!r} was used for another request"))
            return known
        if self._draining:
            raise ServiceError("UNAVAILABLE", "DRAINING", "the server is shutting down; try another", retry_s=5.0)
        if not any(status.ready for status in self._workers.values()):
            raise ServiceError("UNAVAILABLE", "STARTING", "no worker is ready yet", retry_s=1.0)
        if self._scheduler.full:
            waiting = self._scheduler.queued
            raise ServiceError(
                "RESOURCE_EXHAUSTED",
                "QUEUE_FULL",
                f"{waiting} jobs wait, which is the limit",
                metadata={"queued": str(waiting), "running": str(self._scheduler.running)},
                retry_s=5.0,
            )
        return None

    def submit(self, spec: JobSpec, request_id: str, digest: str, *, detached: bool) -> Job:
        """Accept a job. Call :meth:`check_admission` first; what it said is checked again, for time has passed.

        Raises:
            ServiceError: As :meth:`check_admission`.
        """
        known = self.check_admission(request_id, digest)
        if known is not None:
            return self.join(known, detached=detached)
        ticket = self._ticket(spec)
        self._expire()
        self._numbers += 1
        job = Job(secrets.token_hex(8), self._numbers, request_id, digest, detached, spec, created=time.time())
        now = time.monotonic()
        self._store.add(job)
        self._live[job.job_id] = _Live(accepted=now)
        self._scheduler.submit(replace(ticket, job_id=job.job_id, arrived=now))
        logger.info("job %s accepted: %d x %d, %d steps", job.job_id, spec.width, spec.height, spec.parameters.steps)
        self._dispatch()
        return self._known(job.job_id)

    def join(self, job: Job, *, detached: bool) -> Job:
        """Let another request share a job. If one of them does not wait, the job goes on without the others."""
        if detached and not job.detached:
            self._store.put(replace(job, detached=True))
        return self._known(job.job_id)

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            ServiceError: If it is not there.
        """
        self._expire()
        return self._known(job_id)

    def by_request(self, request_id: str) -> Job:
        """Return the job that a client named so.

        Raises:
            ServiceError: If there is none.
        """
        job = self._store.by_request(request_id)
        if job is None:
            raise not_found(request_id)
        return job

    def page(self, before: int | None, limit: int, states: Collection[JobState]) -> list[Job]:
        """Return jobs with numbers below ``before``, newest first."""
        self._expire()
        return self._store.page(before, limit, states)

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
            raise ServiceError("FAILED_PRECONDITION", "JOB_HAS_NO_RESULT", message, metadata=metadata)
        return picture

    def cancel(self, job_id: str) -> Job:
        """Stop a job: a waiting one at once, a running one at its next step. One that has ended stays as it is.

        Raises:
            ServiceError: If it is not there.
        """
        job = self.get(job_id)
        if not job.state.ended:
            for status in self._workers.values():
                if status.handle.name == job.device:
                    status.handle.send(Cancel(job_id))
            self._end(job, JobState.CANCELLED, StopReason.CANCELLED)
        return self._known(job_id)

    async def wait(self, job: Job) -> Job:
        """Wait for a job's end. If the last waiter of a job that is not detached goes away, the job is cancelled."""
        live = self._live[job.job_id]
        live.waiters += 1
        try:
            await live.ended.wait()
        finally:
            live.waiters -= 1
            current = self._store.get(job.job_id)
            if current is not None and not current.detached and live.waiters == 0:
                self.cancel(job.job_id)
        return self._known(job.job_id)

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
        current = self._known(job.job_id)
        if current.state.ended:
            # The end is told again to whoever asks after it.
            at = min(at, journal.sequence - 1)
        yield at, current
        while True:
            for number, event in journal.after(at):
                at = number
                yield number, event
                if isinstance(event, Ended):
                    return
            if journal.sequence == at and not await journal.wait(self._config.heartbeat_s):
                yield at, Heartbeat()

    # What the server's life asks.

    def start(self) -> None:
        """Bring the workers to life."""
        for status in self._workers.values():
            self._start(status)

    async def drain(self) -> bool:
        """Take no new jobs, let the others end for the grace time, then cancel what is left.

        Returns:
            Whether there was anything to wait for.
        """
        self._draining = True
        waiting = [live.ended.wait() for live in self._live.values() if not live.ended.is_set()]
        if waiting:
            logger.info("draining: %d jobs have %.0f s to end", len(waiting), self._config.grace_s)
            ended: asyncio.Future[Any] = asyncio.gather(*waiting)
            impatient: asyncio.Future[Any] = asyncio.ensure_future(self._impatience.wait())
            await asyncio.wait({ended, impatient}, timeout=self._config.grace_s, return_when=asyncio.FIRST_COMPLETED)
            impatient.cancel()
            for job_id in list(self._live):
                if not self._known(job_id).state.ended:
                    logger.warning("job %s is cancelled: the server shuts down", job_id)
                    self.cancel(job_id)
            await ended
        return bool(waiting)

    def cut_grace(self) -> None:
        """Cancel at once what is still running while draining."""
        self._impatience.set()

    async def stop(self) -> None:
        """End the workers."""
        self._draining = self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*(status.handle.stop() for status in self._workers.values()))

    # What the workers report.

    def _start(self, status: WorkerStatus) -> None:
        name = status.handle.name
        status.handle.start(lambda report: self._on_report(name, report), lambda cause: self._on_exit(name, cause))

    def _on_report(self, name: str, report: Report) -> None:
        if isinstance(report, Ready):
            status = self._workers[name]
            status.ready, status.failures = report, 0
            self._scheduler.worker_ready(name, self._capacity(name, report))
            self.ready.set()
            logger.info("worker %s ready: %s with %s weights", name, report.network.name, report.network.weights)
            self._dispatch()
            self._give_up_hopeless()
            return
        if isinstance(report, PassMeasured):
            ready = self._workers[name].ready
            if ready:
                learned = ready.memory.learn(report.arithmetic, report.pixels, report.taken)
                self._workers[name].ready = replace(ready, memory=learned)
            return
        if isinstance(report, CannotStart):
            if not self.broken.done():
                self.broken.set_result(f"worker {name}: {report.message}")
            return
        job = self._store.get(report.job_id)
        if job is None or job.state is not JobState.RUNNING or job.device != name:
            if isinstance(report, JobParked):
                self._checkpoint(report.job_id).unlink(missing_ok=True)
            return  # cancelled meanwhile, or given to another worker
        if isinstance(report, JobStarted):
            self._on_started(job, report)
        elif isinstance(report, JobParked):
            self._on_parked(job, report.step)
        elif isinstance(report, JobStepped):
            self._on_step(job, report)
        elif isinstance(report, JobPainted):
            self._spawn(self._finish(job, report))
        elif isinstance(report, JobFailed):
            self._end(job, JobState.FAILED, StopReason.FAILED, JobError(report.reason, report.message))

    def _on_exit(self, name: str, cause: str) -> None:
        if self._stopping:
            return
        status = self._workers[name]
        status.ready = None
        if not any(other.ready for other in self._workers.values()):
            self.ready.clear()
        lost = self._scheduler.worker_lost(name)
        logger.error("worker %s %s; %d jobs start again", name, cause, len(lost))
        for job_id in lost:
            job = self._known(job_id)
            if job.attempts >= MAX_ATTEMPTS:
                error = JobError("WORKER_LOST", f"its worker was lost {job.attempts} times (last: {cause})")
                self._end(job, JobState.FAILED, StopReason.FAILED, error)
            else:
                self._live[job_id].parked = False
                self._store.put(replace(job, state=JobState.QUEUED, device="", step=0, losses=None))
        delay = RESTART_DELAYS_S[min(status.failures, len(RESTART_DELAYS_S) - 1)]
        status.failures += 1
        status.restarts += 1
        self._spawn(self._restart(status, delay))
        self._dispatch()

    async def _restart(self, status: WorkerStatus, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._start(status)

    def _on_started(self, job: Job, report: JobStarted) -> None:
        live = self._live[job.job_id]
        if job.started is None or not report.step:
            waited = time.monotonic() - live.accepted
            job = replace(job, started=time.time(), queue_s=waited, step=0, losses=None)
        self._store.put(replace(job, arithmetic=report.arithmetic))
        live.journal.append(Started(job.device, job.attempts, report.step))

    def _on_parked(self, job: Job, step: int) -> None:
        live = self._live[job.job_id]
        live.parked = True
        preemptions = job.preemptions + 1
        self._store.put(replace(job, state=JobState.QUEUED, device="", preemptions=preemptions))
        live.journal.append(Paused(PauseReason.PREEMPTED, step))
        logger.info("job %s made room after %d steps", job.job_id, step)
        self._scheduler.parked(job.job_id)
        self._dispatch()

    def _on_step(self, job: Job, report: JobStepped) -> None:
        self._store.put(replace(job, step=report.step, losses=report.losses, optimize_s=report.elapsed_s))
        steps = job.spec.parameters.steps
        self._live[job.job_id].journal.append(
            Stepped(report.step, steps, report.losses, report.elapsed_s, report.remaining_s, report.preview)
        )

    async def _finish(self, job: Job, report: JobPainted) -> None:
        self._scheduler.remove(job.job_id)
        self._dispatch()
        output = job.spec.output
        began = time.monotonic()
        picture, error = None, None
        try:
            picture = await asyncio.to_thread(images.encode, report.picture, output.format, output.quality)
        except (OSError, ValueError, MemoryError) as cause:
            error = JobError("ENCODE_ERROR", f"its picture could not be encoded as {output.format}: {cause}")
        job = self._known(job.job_id)
        if job.state.ended:
            return
        if picture is None:
            self._end(job, JobState.FAILED, StopReason.FAILED, error)
        else:
            self._store.put_result(job.job_id, picture)
            job = replace(job, encode_s=time.monotonic() - began)
            self._end(job, JobState.SUCCEEDED, report.stop_reason)

    # Shared.

    def _known(self, job_id: str) -> Job:
        job = self._store.get(job_id)
        if job is None:
            raise not_found(job_id)
        return job

    def _ticket(self, spec: JobSpec) -> Ticket:
        """Return what the scheduler needs to know of a job, except who and when.

        Raises:
            ServiceError: INVALID_ARGUMENT if no device that is there could hold it.
        """
        parameters = spec.parameters
        shape = (spec.height, spec.width, parameters.pooling, parameters.precision)
        demands = []
        for ready in (status.ready for status in self._workers.values() if status.ready):
            arithmetic = ready.arithmetic if parameters.precision == "auto" else parameters.precision
            demands.append(ready.memory.demand(spec, arithmetic))
        demand = max(demands, key=lambda demand: demand.held + demand.passing, default=Demand())
        ticket = Ticket("", spec.width * spec.height, 0.0, spec.priority, shape, demand)
        if not self._scheduler.could_hold(ticket):
            needed = -(-(demand.held + demand.passing) // MIB)
            text = f"a canvas of {spec.width} x {spec.height} px needs about {needed} MiB, which no device here has for jobs"
            raise invalid(("parameters.size_px", f"{text}; a smaller history takes less"))
        return ticket

    def _capacity(self, name: str, ready: Ready) -> Capacity:
        slots = self._config.max_running_jobs or (1 if name == "cpu" else GPU_SLOTS)
        memory = None if ready.free_bytes is None else int(ready.free_bytes * MEMORY_SHARE)
        if self._config.max_memory_mib:
            memory = self._config.max_memory_mib * MIB
        return Capacity(slots, memory, ready.group)

    def _checkpoint(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.checkpoint"

    def _dispatch(self) -> None:
        """Do what the scheduler decides."""
        for decision in self._scheduler.decide():
            job = self._known(decision.job_id)
            status = self._workers[decision.worker]
            path = str(self._checkpoint(job.job_id))
            if not isinstance(decision, Assignment):
                status.handle.send(Park(job.job_id, path))
                continue
            live = self._live[job.job_id]
            parked, live.parked = live.parked, False
            network = status.ready.network if status.ready else None
            attempts = job.attempts + (not parked)
            self._store.put(replace(job, state=JobState.RUNNING, device=decision.worker, network=network, attempts=attempts))
            status.handle.send(Start(job.job_id, job.spec, path if parked else "", job.optimize_s if parked else 0.0))

    def _give_up_hopeless(self) -> None:
        """Fail jobs that waited for a worker which came back with less memory than it had."""
        if all(status.ready for status in self._workers.values()):
            for job_id in self._scheduler.hopeless():
                error = JobError("OUT_OF_MEMORY", "no device has the memory for it any more")
                self._end(self._known(job_id), JobState.FAILED, StopReason.FAILED, error)

    def _end(self, job: Job, state: JobState, reason: StopReason, error: JobError | None = None) -> None:
        self._store.put(replace(job, state=state, stop_reason=reason, error=error, ended=time.time()))
        self._scheduler.remove(job.job_id)
        live = self._live[job.job_id]
        if job.preemptions:
            self._checkpoint(job.job_id).unlink(missing_ok=True)
        live.journal.append(Ended())
        live.ended.set()
        logger.info("job %s %s after %d steps", job.job_id, state.value, job.step)
        self._dispatch()

    def _expire(self) -> None:
        for job_id in self._store.expire(time.time()):
            self._live.pop(job_id, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
