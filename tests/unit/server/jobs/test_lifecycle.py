"""The table of a job's life: every state with every event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impasto_engine.results import Losses
from impasto_server.domain.events import Ended, Paused, PauseReason, Started, Stepped
from impasto_server.domain.job import Job, JobError, JobState, StopReason
from impasto_server.jobs import lifecycle
from impasto_server.jobs.lifecycle import EVENTS, MAX_LOSSES, TRANSITIONS, Intent, Life, apply
from tests.unit.server.fakes import spec

NOW = 1000.0
ERROR = JobError("ENGINE_ERROR", "words")
DONE: dict[type, Any] = {
    lifecycle.Dispatched: lifecycle.Dispatched("cpu"),
    lifecycle.Began: lifecycle.Began("float32", 0, None, "", 1.5),
    lifecycle.StepDone: lifecycle.StepDone(3, Losses(1.0, 2.0, 3.0), 0.5, 1.0, None),
    lifecycle.StepsDone: lifecycle.StepsDone(
        tuple(lifecycle.StepDone(step, Losses(1.0, 2.0, 3.0), 0.5, 1.0, None) for step in (2, 3))
    ),
    lifecycle.Parked: lifecycle.Parked(3),
    lifecycle.Painted: lifecycle.Painted(),
    lifecycle.Encoded: lifecycle.Encoded(StopReason.STEPS, 0.1, ()),
    lifecycle.Failed: lifecycle.Failed(ERROR),
    lifecycle.WorkerLost: lifecycle.WorkerLost("died"),
    lifecycle.Restored: lifecycle.Restored(),
    lifecycle.PauseRequested: lifecycle.PauseRequested(),
    lifecycle.ResumeRequested: lifecycle.ResumeRequested(),
    lifecycle.Cancelled: lifecycle.Cancelled(),
    lifecycle.TimeLimitReached: lifecycle.TimeLimitReached(),
}
Q, R, P = JobState.QUEUED, JobState.RUNNING, JobState.PAUSED
S, F, C = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
TABLE = {
    #                            queued  running  paused
    lifecycle.Dispatched: (R, R, P),
    lifecycle.Began: (Q, R, P),
    lifecycle.StepDone: (Q, R, P),
    lifecycle.StepsDone: (Q, R, P),
    lifecycle.Parked: (Q, Q, P),
    lifecycle.Painted: (Q, R, P),
    lifecycle.Encoded: (Q, S, P),
    lifecycle.Failed: (F, F, P),
    lifecycle.WorkerLost: (Q, Q, P),
    lifecycle.Restored: (Q, Q, P),
    lifecycle.PauseRequested: (P, R, P),
    lifecycle.ResumeRequested: (Q, R, Q),
    lifecycle.Cancelled: (C, C, C),
    lifecycle.TimeLimitReached: (F, F, F),
}


def life(state: JobState = R, intent: Intent = Intent.NONE, **of_job: Any) -> Life:
    of_spec = {name: of_job.pop(name) for name in ("time_limit_s", "return_best") if name in of_job}
    device = "cpu" if state is R else ""
    job = Job("j", 1, "r", "d", True, spec(**{"time_limit_s": 5.0, **of_spec}), created=1.0, state=state, device=device)
    return Life(replace(job, **of_job), intent)


@pytest.mark.parametrize("event", EVENTS)
def test_every_state_with_every_event(event: type) -> None:
    """The state that follows; one end is told for each way to it, and the scheduler forgets whoever ends or pauses."""
    for state, wanted in zip((Q, R, P), TABLE[event], strict=True):
        after, effects = apply(life(state), DONE[event], NOW)
        assert after.job.state is wanted
        ends = [effect for effect in effects if effect == lifecycle.Tell(Ended())]
        assert len(ends) == after.job.state.ended
        assert (after.job.ended == NOW) is after.job.state.ended
        if after.job.state.ended or (after.job.state is P and state is not P):
            assert lifecycle.Dequeue() in effects
        assert after.job.device == ("cpu" if after.job.state is R or (state is R and after.job.state.ended) else "")


def test_the_table_is_whole() -> None:
    """Each state that can change has an answer to each event, and this test knows all of them."""
    assert set(TRANSITIONS) == {(state, event) for state in (Q, R, P) for event in EVENTS}
    assert set(DONE) == set(TABLE) == set(EVENTS)


@pytest.mark.parametrize("state", [S, F, C])
@pytest.mark.parametrize("event", EVENTS)
def test_nothing_happens_to_a_job_that_has_ended(state: JobState, event: type) -> None:
    assert apply(life(state), DONE[event], NOW) == (life(state), ())


def test_a_pause_of_a_running_job_takes_effect_when_it_is_parked_or_its_worker_is_lost() -> None:
    asked, effects = apply(life(), lifecycle.PauseRequested(), NOW)
    assert effects == (lifecycle.Order("park"),)
    for event in (lifecycle.Parked(7), lifecycle.WorkerLost("died")):
        after, effects = apply(asked, event, NOW)
        assert (after.job.state, after.intent) == (P, Intent.NONE)
        assert lifecycle.Tell(Paused(PauseReason.REQUESTED, after.job.step)) in effects
    taken_back, _ = apply(asked, lifecycle.ResumeRequested(), NOW)
    after, _ = apply(taken_back, lifecycle.Parked(7), NOW)
    assert (after.job.state, after.job.step) == (Q, 7)


def test_a_job_that_made_room_resumes_without_another_attempt() -> None:
    parked, effects = apply(life(attempts=1), lifecycle.Parked(7), NOW)
    assert effects == (lifecycle.Tell(Paused(PauseReason.PREEMPTED, 7)),)
    assert parked.job.preemptions == 1
    again, _ = apply(parked, lifecycle.Dispatched("gpu"), NOW)
    assert (again.job.attempts, again.job.device) == (1, "gpu")
    lost, _ = apply(again, lifecycle.WorkerLost("died"), NOW)
    assert apply(lost, lifecycle.Dispatched("gpu"), NOW)[0].job.attempts == 2


def test_leaving_because_the_server_stops_is_no_preemption() -> None:
    parked, effects = apply(life(), lifecycle.Parked(7, shutting_down=True), NOW)
    assert (parked.job.state, parked.job.preemptions, effects) == (Q, 0, ())


def test_the_time_limit_of_a_job_that_returns_its_best() -> None:
    """A running one finishes, a waiting one is dispatched at once and finishes after it began; without a step both fail."""
    running, effects = apply(life(return_best=True, step=4), lifecycle.TimeLimitReached(), NOW)
    assert (running.intent, effects) == (Intent.FINISH, (lifecycle.Order("finish"),))
    assert apply(running, lifecycle.PauseRequested(), NOW) == (running, ())
    for state in (Q, P):
        waiting, effects = apply(life(state, return_best=True, step=4), lifecycle.TimeLimitReached(), NOW)
        assert (waiting.job.state, waiting.intent) == (Q, Intent.FINISH)
        assert effects == (lifecycle.Dequeue(), lifecycle.Enqueue(at_once=True))
        started, _ = apply(waiting, lifecycle.Dispatched("cpu"), NOW)
        _, effects = apply(started, replace(DONE[lifecycle.Began], step=4), NOW)
        assert effects[-1] == lifecycle.Order("finish")
        _, effects = apply(started, DONE[lifecycle.Began], NOW)
        assert effects == (lifecycle.Tell(Started("cpu", 1, 0, "")),)
    for state in (Q, R, P):
        failed, _ = apply(life(state, return_best=True), lifecycle.TimeLimitReached(), NOW)
        assert failed.job.error
        assert (failed.job.stop_reason, failed.job.error.reason) == (StopReason.DEADLINE, "DEADLINE_EXCEEDED")


def test_the_third_loss_of_a_worker_fails_a_job() -> None:
    after, effects = apply(life(losses_of_worker=MAX_LOSSES - 1), lifecycle.WorkerLost("died"), NOW)
    assert after.job.error
    assert (after.job.state, after.job.error.reason) == (F, "WORKER_LOST")
    assert effects == (lifecycle.Dequeue(), lifecycle.Tell(Ended()))


def test_a_loss_without_blame_never_fails_a_job() -> None:
    """However often, also when one more loss with blame would; it waits again, or is paused if that was wanted."""
    now = life(losses_of_worker=MAX_LOSSES - 1)
    for _ in range(MAX_LOSSES):
        now, effects = apply(now, lifecycle.WorkerLost("its host was lost", blame=False), NOW)
        assert (now.job.state, now.job.losses_of_worker, now.job.device, effects) == (Q, MAX_LOSSES - 1, "", ())
        now, _ = apply(now, lifecycle.Dispatched("gpu"), NOW)
    paused, _ = apply(life(intent=Intent.PAUSE), lifecycle.WorkerLost("its host was lost", blame=False), NOW)
    assert (paused.job.state, paused.job.losses_of_worker) == (P, 0)


def test_a_start_is_recorded_with_what_the_picture_depends_on() -> None:
    after, _ = apply(life(), lifecycle.Began("bfloat16", 0, None, "", 1.5, threads=2), NOW)
    job = after.job
    assert (job.started, job.queue_s, job.arithmetic, job.threads) == (NOW, 1.5, "bfloat16", 2)


def test_a_step_is_recorded_and_told() -> None:
    after, effects = apply(life(), DONE[lifecycle.StepDone], NOW)
    assert (after.job.step, after.job.losses, after.job.optimize_s) == (3, Losses(1.0, 2.0, 3.0), 0.5)
    (told,) = effects
    assert isinstance(told, lifecycle.Tell)
    assert told.event == Stepped(3, after.job.spec.parameters.steps, Losses(1.0, 2.0, 3.0), 0.5, 1.0)


def test_steps_reported_together_change_a_job_as_the_last_of_them_and_are_all_told() -> None:
    """In one effect; a job that must finish is told so once."""
    run = DONE[lifecycle.StepsDone]
    after, effects = apply(life(intent=Intent.FINISH), run, NOW)
    alone, _ = apply(life(intent=Intent.FINISH), run.steps[-1], NOW)
    assert after == alone
    steps = after.job.spec.parameters.steps
    told = tuple(Stepped(step, steps, Losses(1.0, 2.0, 3.0), 0.5, 1.0) for step in (2, 3))
    assert effects == (lifecycle.TellRun(told), lifecycle.Order("finish"))


@settings(deadline=None)
@given(st.lists(st.sampled_from(EVENTS), max_size=40), st.booleans())
def test_no_order_of_events_breaks_a_life(order: list[type], return_best: bool) -> None:
    """Told once that it ended, if it did; what runs has a worker and nothing else does."""
    now = life(Q, return_best=return_best)
    ends = 0
    for event in order:
        now, effects = apply(now, DONE[event], NOW)
        ends += effects.count(lifecycle.Tell(Ended()))
        if not now.job.state.ended:
            assert bool(now.job.device) is (now.job.state is R)
        if now.intent in (Intent.PAUSE, Intent.ENCODE):
            assert now.job.state is R
    assert ends == now.job.state.ended
