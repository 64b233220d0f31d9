"""The table of jobs: the only way to change a job, and the effects of a change.

Everything here runs on the event loop and returns at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from impasto_server.domain.errors import not_found
from impasto_server.domain.events import Ended, Event, Stepped
from impasto_server.domain.job import Job, JobState
from impasto_server.jobs import lifecycle
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.journal import Journal
from impasto_server.jobs.lifecycle import Life, LifeEvent
from impasto_server.jobs.runtime import Runtime
from impasto_server.observability.logs import about
from impasto_server.observability.metrics import Metrics
from impasto_server.observability.tracing import Tracing
from impasto_server.scheduling.scheduler import Assignment, Scheduler
from impasto_server.store.base import JobStore
from impasto_server.workers import checkpoint_format
from impasto_server.workers.messages import Cancel, Finish, Park, Start
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

_COMMANDS: Mapping[str, type[Cancel | Park | Finish]] = {"cancel": Cancel, "park": Park, "finish": Finish}


class JobTable:
    """Records, runtimes and places of all known jobs.

    Args:
        store: Where jobs are kept.
        scheduler: Decides which job runs where.
        pool: The workers.
        admission: Notified when a job ends.
        runtimes: Runtime state of jobs; admission reads it too.
        metrics: The metrics.
        tracing: Where spans of jobs go.

    Attributes:
        draining: Whether the server is shutting down.
        fault: Why no more jobs start; empty while the scheduler works.
    """

    def __init__(
        self,
        store: JobStore,
        scheduler: Scheduler,
        pool: WorkerPool,
        admission: Admission,
        runtimes: dict[str, Runtime],
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._store, self._scheduler, self._pool, self._admission = store, scheduler, pool, admission
        self._runtimes, self._metrics, self._tracing = runtimes, metrics, tracing
        self._tasks: set[asyncio.Task[None]] = set()
        self._removing = ThreadPoolExecutor(1, "checkpoints")  # one thread: in the order of the jobs' ends
        self._unmeasured: set[str] = set()
        self.draining = False
        self.fault = ""

    @property
    def runtimes(self) -> Mapping[str, Runtime]:
        """Runtime state of jobs."""
        return self._runtimes

    @property
    def keeps_waiting(self) -> bool:
        """Whether the server is shutting down and the next one resumes the waiting jobs."""
        return self.draining and self._store.durable

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        """Background tasks of jobs."""
        return self._tasks

    def known(self, job_id: str) -> Job:
        """Return a job's newest record, committed or not: for decisions, not for callers.

        Raises:
            ServiceError: If it does not exist.
        """
        job = self._store.get(job_id)
        if job is None:
            raise not_found(job_id)
        return job

    def unended(self) -> Iterator[tuple[Job, Runtime]]:
        """Yield the jobs that have not ended."""
        for job_id, runtime in list(self._runtimes.items()):
            job = self._store.get(job_id)
            if job is not None and not job.state.ended:
                yield job, runtime

    def add(self, job_id: str, runtime: Runtime) -> None:
        """Add a new or restored job's runtime."""
        self._runtimes[job_id] = runtime

    def drop(self, job_id: str) -> None:
        """Remove a job's runtime."""
        self._runtimes.pop(job_id, None)

    def change(self, job_id: str, event: LifeEvent) -> Job:
        """Apply an event to a job, store the new record and carry out the effects. The only place that changes a job's state.

        Returns:
            The new record.

        Raises:
            ServiceError: If the job does not exist.
        """
        before, runtime = self.known(job_id), self._runtimes[job_id]
        life, effects = lifecycle.apply(Life(before, runtime.intent, runtime.resuming), event, time.time())
        self._follow(runtime, before, life)
        if life.job is not before:
            self._store.put(life.job)
        if life.job.state.ended and not before.state.ended:
            self._close(life.job, runtime)
        for effect in effects:
            self._carry_out(effect, life.job, life.job.device or before.device)
        return life.job

    def _follow(self, runtime: Runtime, before: Job, life: Life) -> None:
        """Update the runtime after a change."""
        now, state = time.monotonic(), life.job.state
        if life.intent is lifecycle.Intent.FINISH and runtime.intent is not lifecycle.Intent.FINISH:
            runtime.overdue_since = now
        runtime.intent, runtime.resuming = life.intent, life.resuming
        if state is not JobState.RUNNING:
            runtime.stop()
            if self.draining and before.state is JobState.RUNNING:
                runtime.left.set()
        if state is not JobState.PAUSED:
            runtime.paused = 0.0
        elif not runtime.paused:
            runtime.paused = now

    def _carry_out(self, effect: lifecycle.Effect, job: Job, worker: str) -> None:
        if isinstance(effect, lifecycle.Tell):
            self.tell(job.job_id, effect.event)
        elif isinstance(effect, lifecycle.TellRun):
            self._tell_run(job.job_id, effect.events)
        elif isinstance(effect, lifecycle.Enqueue):
            self.enqueue(job, at_once=effect.at_once)
        elif isinstance(effect, lifecycle.Dequeue):
            self._scheduler.remove(job.job_id)
        elif effect.what == "start":
            self._runtimes[job.job_id].dispatched = time.monotonic()
            begun = job.arithmetic if job.step else None
            spec = replace(job.spec, labels={}, webhook="")  # of its owner; a worker needs neither
            self._pool.send(worker, Start(job.job_id, spec, str(self._checkpoint(job.job_id)), begun))
        else:
            self._pool.send(worker, _COMMANDS[effect.what](job.job_id))

    def _close(self, job: Job, runtime: Runtime) -> None:
        self._admission.release(job)
        self._metrics.job_ended(job)
        self._tracing.job(job)
        runtime.close()
        self.drop_checkpoint(job.job_id)
        logger.info("job %s %s after %d steps", job.job_id, job.state.value, job.step, extra=about(job))

    # Places.

    def enqueue(self, job: Job, *, at_once: bool = False) -> None:
        """Queue a job that was accepted earlier, at its old place or before all others, even if the queue is full."""
        if not self._pool.any_ready:
            self._unmeasured.add(job.job_id)  # its memory demand is known once a worker is ready
        arrived = 0.0 if at_once else self._runtimes[job.job_id].accepted
        ticket = replace(self._pool.ticket(job.spec), job_id=job.job_id, arrived=arrived)
        self._scheduler.submit(replace(ticket, alone=job.losses_of_worker > 0))

    def measured(self) -> None:
        """Compute the memory demand of waiting jobs that were queued before a worker was ready."""
        unmeasured, self._unmeasured = self._unmeasured, set()
        for job_id in unmeasured:
            job = self._store.get(job_id)
            if job is not None and job.state is JobState.QUEUED:
                self._scheduler.remove(job_id)
                self.enqueue(job)

    def dispatch(self) -> None:
        """Carry out the scheduler's decisions."""
        if self.fault or self.keeps_waiting:
            return
        try:
            decisions = self._scheduler.decide()
        except Exception as error:
            # A scheduler that failed once fails at every call: no job would ever start, so none may be submitted.
            logger.exception("the scheduler failed: no job starts until the server is restarted")
            self.fault = f"its scheduler failed ({type(error).__name__})"
            self._metrics.faults.labels("scheduler").inc()
            return
        for decision in decisions:
            if isinstance(decision, Assignment):
                self.change(decision.job_id, lifecycle.Dispatched(decision.worker))
            else:
                self._pool.send(decision.worker, Park(decision.job_id))

    def set_alarm(self, job: Job) -> None:
        """Set the timer of a job's time limit, which counts from acceptance."""
        limit = job.spec.time_limit_s
        if limit is not None:
            runtime = self._runtimes[job.job_id]
            left = limit - (time.monotonic() - runtime.accepted)
            runtime.alarm = asyncio.get_running_loop().call_later(max(0.0, left), self._on_time_limit, job.job_id)

    def _on_time_limit(self, job_id: str) -> None:
        if self._store.get(job_id) is not None:
            self.change(job_id, lifecycle.TimeLimitReached())
            self.dispatch()

    # Events.

    def tell(self, job_id: str, event: Event) -> None:
        """Record an event; watchers see it once it is committed."""
        runtime = self._runtimes[job_id]
        number = runtime.journal.add(event)

        def show() -> None:
            runtime.journal.show(number)
            if isinstance(event, Ended):
                runtime.ended.set()
                self.spawn(self._seal(job_id, runtime.journal))

        self._store.append(job_id, number, event, show)

    def _tell_run(self, job_id: str, steps: Sequence[Stepped]) -> None:
        """Record steps that were reported together; they are numbered one by one, stored in one row, and shown at once."""
        journal = self._runtimes[job_id].journal
        last = [journal.add(step) for step in steps][-1]
        self._store.append_run(job_id, last, steps, lambda: journal.show(last))

    async def _seal(self, job_id: str, journal: Journal) -> None:
        await self._store.seal(job_id, journal.events)
        journal.seal()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a background task for a job; it is cancelled when the server stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Checkpoints.

    def _checkpoint(self, job_id: str) -> Path:
        return self._store.checkpoints / f"{job_id}.checkpoint"

    def drop_checkpoint(self, job_id: str) -> None:
        """Remove a job's checkpoint from the disk. A thread does: listing the folder takes long with thousands of jobs."""
        with contextlib.suppress(RuntimeError):  # closed: the next start of the server removes it
            self._removing.submit(_remove, self._checkpoint(job_id))

    def drop_stray_checkpoints(self) -> None:
        """Remove checkpoints of jobs that do not exist or have ended."""
        known = {self._checkpoint(job.job_id).name for job, _ in self.unended()}
        for path in self._store.checkpoints.glob("*.checkpoint*"):
            if path.name.split(".checkpoint")[0] + ".checkpoint" not in known:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Cancel the background tasks and the timers; remove the checkpoints of ended jobs."""
        self._removing.shutdown()
        for task in list(self._tasks):
            task.cancel()
        for runtime in self._runtimes.values():
            if runtime.alarm:
                runtime.alarm.cancel()


def _remove(checkpoint: Path) -> None:
    try:
        checkpoint_format.remove(checkpoint)
    except OSError as error:  # the next start of the server removes it
        logger.warning("cannot remove %s: %s", checkpoint, error)
