"""The lifecycle of a job as a transition table: which event changes which state, and which effects follow. Pure.

`apply` is the only place that changes a job's state. The caller stores the new job and carries
out the effects (:class:`impasto_server.jobs.table.JobTable`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

from impasto_engine.parameters import Arithmetic
from impasto_engine.results import Losses
from impasto_server.domain.events import Ended, Event, Paused, PauseReason, Started, Stepped
from impasto_server.domain.job import Job, JobError, JobState, JobWarning, NetworkDescription, StopReason

MAX_LOSSES = 3
"""A job fails when its worker was lost this often while it ran, and the job may have been the cause."""


class Intent(Enum):
    """What a running job will do once its worker answers."""

    NONE = "none"
    PAUSE = "pause"
    FINISH = "finish"
    """End with the current canvas: its time limit is reached."""
    ENCODE = "encode"
    """End: it has left its worker, and its picture is being encoded."""


@dataclass(frozen=True)
class Life:
    """Everything that decides a job's next transition.

    Attributes:
        job: Its record.
        intent: What it will do next.
        resuming: Whether its next start resumes it, which does not count as an attempt.
    """

    job: Job
    intent: Intent = Intent.NONE
    resuming: bool = False


# Events.


@dataclass(frozen=True)
class Dispatched:
    """The scheduler gave the job to a worker."""

    worker: str


@dataclass(frozen=True)
class Began:
    """Its worker is about to run its next step; ``step`` steps are already done."""

    arithmetic: Arithmetic
    step: int
    network: NetworkDescription | None
    note: str
    queue_s: float
    threads: int = 0


@dataclass(frozen=True)
class StepDone:
    """Its worker finished a step."""

    step: int
    losses: Losses
    elapsed_s: float
    remaining_s: float
    preview: bytes | None


@dataclass(frozen=True)
class StepsDone:
    """Its worker finished several steps, which it reported together, in order."""

    steps: tuple[StepDone, ...]


@dataclass(frozen=True)
class Parked:
    """It left its worker with its state saved.

    Attributes:
        step: Steps done.
        shutting_down: Whether it left because the server stops, which does not count as a preemption.
    """

    step: int
    shutting_down: bool = False


@dataclass(frozen=True)
class Painted:
    """Its canvas is finished."""


@dataclass(frozen=True)
class Encoded:
    """Its picture is encoded and stored."""

    stop_reason: StopReason
    encode_s: float
    warnings: tuple[JobWarning, ...]


@dataclass(frozen=True)
class Failed:
    """It cannot continue."""

    error: JobError


@dataclass(frozen=True)
class WorkerLost:
    """Its worker died or was killed.

    Attributes:
        blame: Whether the job may be the cause; it is not if the worker's whole host was lost.
    """

    cause: str
    blame: bool = True


@dataclass(frozen=True)
class Restored:
    """The server was restarted."""


@dataclass(frozen=True)
class PauseRequested:
    """Its owner wants it paused."""


@dataclass(frozen=True)
class ResumeRequested:
    """Its owner wants it resumed."""


@dataclass(frozen=True)
class Cancelled:
    """Its owner or the server cancels it.

    Attributes:
        abandoned: Whether because the callers that waited for it have left; the same request then starts a new job.
    """

    abandoned: bool = False


@dataclass(frozen=True)
class TimeLimitReached:
    """Its time limit is reached."""


LifeEvent = (
    Dispatched
    | Began
    | StepDone
    | StepsDone
    | Parked
    | Painted
    | Encoded
    | Failed
    | WorkerLost
    | Restored
    | PauseRequested
    | ResumeRequested
    | Cancelled
    | TimeLimitReached
)


# Effects.


@dataclass(frozen=True)
class Order:
    """Send its worker a command."""

    what: Literal["start", "cancel", "park", "finish"]


@dataclass(frozen=True)
class Enqueue:
    """Put it in the queue: at its old place, or before all others."""

    at_once: bool = False


@dataclass(frozen=True)
class Dequeue:
    """Remove it from the scheduler."""


@dataclass(frozen=True)
class Tell:
    """Record an event for its watchers."""

    event: Event


@dataclass(frozen=True)
class TellRun:
    """Record several steps for its watchers, which are stored together."""

    events: tuple[Stepped, ...]


Effect = Order | Enqueue | Dequeue | Tell | TellRun
Change = tuple[Life, tuple[Effect, ...]]
_Transition = Callable[[Life, Any, float], Change]


def apply(life: Life, event: LifeEvent, now: float) -> Change:
    """Return the life after an event, and the effects to carry out.

    An ended job does not change, and a job that has left its worker ignores that worker's events.

    Args:
        life: The life before the event.
        event: What happened or was requested.
        now: Seconds since the epoch, for the record.
    """
    if life.job.state.ended or (life.intent is Intent.ENCODE and isinstance(event, _WORKER_EVENTS)):
        return life, ()
    return TRANSITIONS[life.job.state, type(event)](life, event, now)


_WORKER_EVENTS = (Began, StepDone, StepsDone, Parked, Painted, WorkerLost)


def _ignore(life: Life, event: LifeEvent, now: float) -> Change:
    return life, ()


def _end(life: Life, state: JobState, reason: StopReason, now: float, error: JobError | None = None) -> Life:
    return Life(replace(life.job, state=state, stop_reason=reason, error=error, ended=now))


_ENDING: tuple[Effect, ...] = (Dequeue(), Tell(Ended()))


def _dispatched(life: Life, event: Dispatched, now: float) -> Change:
    attempts = life.job.attempts + (not life.resuming)
    job = replace(life.job, state=JobState.RUNNING, device=event.worker, attempts=attempts)
    return replace(life, job=job, resuming=False), (Order("start"),)


def _began(life: Life, event: Began, now: float) -> Change:
    job = life.job
    if job.started is None:
        job = replace(job, started=now, queue_s=event.queue_s)
    losses = job.losses if event.step else None
    job = replace(
        job,
        arithmetic=event.arithmetic,
        step=event.step,
        losses=losses,
        network=event.network or life.job.network,
        threads=event.threads,
    )
    shown = Tell(Started(job.device, job.attempts, event.step, event.note))
    # Before the first step the canvas is not a picture yet: the job finishes after that step.
    finish: tuple[Effect, ...] = (Order("finish"),) if life.intent is Intent.FINISH and event.step else ()
    return replace(life, job=job), (shown, *finish)


def _stepped(life: Life, event: StepDone, now: float) -> Change:
    return _step_to(life, event, Tell(_shown(life, event)))


def _stepped_on(life: Life, event: StepsDone, now: float) -> Change:
    return _step_to(life, event.steps[-1], TellRun(tuple(_shown(life, step) for step in event.steps)))


def _step_to(life: Life, last: StepDone, shown: Effect) -> Change:
    job = replace(life.job, step=last.step, losses=last.losses, optimize_s=last.elapsed_s)
    # The worker that got the order to finish may be lost; this may be another one.
    finish: tuple[Effect, ...] = (Order("finish"),) if life.intent is Intent.FINISH else ()
    return replace(life, job=job), (shown, *finish)


def _shown(life: Life, step: StepDone) -> Stepped:
    steps = life.job.spec.parameters.steps
    return Stepped(step.step, steps, step.losses, step.elapsed_s, step.remaining_s, step.preview)


def _parked(life: Life, event: Parked, now: float) -> Change:
    if life.intent is Intent.PAUSE:
        return _paused(replace(life, resuming=True), event.step)
    job = replace(life.job, state=JobState.QUEUED, device="", step=event.step)
    if event.shutting_down:
        return replace(life, job=job, resuming=True), ()
    job = replace(job, preemptions=job.preemptions + 1)
    return replace(life, job=job, resuming=True), (Tell(Paused(PauseReason.PREEMPTED, event.step)),)


def _paused(life: Life, step: int) -> Change:
    job = replace(life.job, state=JobState.PAUSED, device="", step=step)
    return replace(life, job=job, intent=Intent.NONE), (Dequeue(), Tell(Paused(PauseReason.REQUESTED, step)))


def _painted(life: Life, event: Painted, now: float) -> Change:
    return replace(life, intent=Intent.ENCODE), (Dequeue(),)


def _encoded(life: Life, event: Encoded, now: float) -> Change:
    ended = _end(life, JobState.SUCCEEDED, event.stop_reason, now)
    return replace(ended, job=replace(ended.job, encode_s=event.encode_s, warnings=event.warnings)), _ENDING


def _failed(life: Life, event: Failed, now: float) -> Change:
    return _end(life, JobState.FAILED, StopReason.FAILED, now, event.error), _ENDING


def _lost(life: Life, event: WorkerLost, now: float) -> Change:
    life = replace(life, job=replace(life.job, losses_of_worker=life.job.losses_of_worker + event.blame))
    if event.blame and life.job.losses_of_worker >= MAX_LOSSES:
        text = f"its worker was lost {life.job.losses_of_worker} times (last: {event.cause})"
        return _failed(life, Failed(JobError("WORKER_LOST", text)), now)
    if life.intent is Intent.PAUSE:
        return _paused(life, life.job.step)
    return replace(life, job=replace(life.job, state=JobState.QUEUED, device="")), ()


def _restored(life: Life, event: Restored, now: float) -> Change:
    state = JobState.PAUSED if life.job.state is JobState.PAUSED else JobState.QUEUED
    # The callers that waited for it are gone with the process: it continues without them.
    job = replace(life.job, state=state, device="", detached=True)
    waits: tuple[Effect, ...] = (Enqueue(),) if state is JobState.QUEUED else ()
    return Life(job, resuming=state is JobState.PAUSED), waits


def _pause_waiting(life: Life, event: PauseRequested, now: float) -> Change:
    return _ignore(life, event, now) if life.intent is Intent.FINISH else _paused(life, life.job.step)


def _pause_running(life: Life, event: PauseRequested, now: float) -> Change:
    if life.intent in (Intent.FINISH, Intent.ENCODE):
        return life, ()  # it is about to end
    return replace(life, intent=Intent.PAUSE), (Order("park"),)


def _keep_running(life: Life, event: ResumeRequested, now: float) -> Change:
    return (replace(life, intent=Intent.NONE) if life.intent is Intent.PAUSE else life), ()


def _resume(life: Life, event: ResumeRequested, now: float) -> Change:
    return replace(life, job=replace(life.job, state=JobState.QUEUED)), (Enqueue(),)


def _cancelled(life: Life, event: Cancelled, now: float) -> Change:
    reason = StopReason.ABANDONED if event.abandoned else StopReason.CANCELLED
    return _end(life, JobState.CANCELLED, reason, now), (*_order(life, "cancel"), *_ENDING)


def _limit(life: Life, event: TimeLimitReached, now: float) -> Change:
    job = life.job
    if life.intent is Intent.ENCODE and job.spec.return_best:
        return life, ()
    if job.spec.return_best and job.step:
        if job.state is JobState.RUNNING:
            return replace(life, intent=Intent.FINISH), (Order("finish"),)
        # Its canvas is in its checkpoint; the next worker with room makes the picture from it.
        waiting = replace(job, state=JobState.QUEUED)
        return replace(life, job=waiting, intent=Intent.FINISH), (Dequeue(), Enqueue(at_once=True))
    begun = f"after {job.step} of {job.spec.parameters.steps} steps" if job.step else "before its first step"
    error = JobError("DEADLINE_EXCEEDED", f"its time limit of {job.spec.time_limit_s:g} s was reached {begun}")
    return _end(life, JobState.FAILED, StopReason.DEADLINE, now, error), (*_order(life, "cancel"), *_ENDING)


def _order(life: Life, what: Literal["cancel"]) -> tuple[Effect, ...]:
    return (Order(what),) if life.job.state is JobState.RUNNING else ()


_QUEUED: Mapping[type[LifeEvent], _Transition] = {
    Dispatched: _dispatched,
    Failed: _failed,
    Restored: _restored,
    PauseRequested: _pause_waiting,
    Cancelled: _cancelled,
    TimeLimitReached: _limit,
}
_RUNNING: Mapping[type[LifeEvent], _Transition] = {
    Began: _began,
    StepDone: _stepped,
    StepsDone: _stepped_on,
    Parked: _parked,
    Painted: _painted,
    Encoded: _encoded,
    Failed: _failed,
    WorkerLost: _lost,
    Restored: _restored,
    PauseRequested: _pause_running,
    ResumeRequested: _keep_running,
    Cancelled: _cancelled,
    TimeLimitReached: _limit,
}
_PAUSED: Mapping[type[LifeEvent], _Transition] = {
    Restored: _restored,
    ResumeRequested: _resume,
    Cancelled: _cancelled,
    TimeLimitReached: _limit,
}
EVENTS: tuple[type[LifeEvent], ...] = LifeEvent.__args__
TRANSITIONS: Mapping[tuple[JobState, type[LifeEvent]], _Transition] = MappingProxyType(
    {
        (state, event): row.get(event, _ignore)  # an event that is not in a row came too late and is ignored
        for state, row in ((JobState.QUEUED, _QUEUED), (JobState.RUNNING, _RUNNING), (JobState.PAUSED, _PAUSED))
        for event in EVENTS
    }
)
