from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from impasto_server.scheduler import Scheduler, Ticket


def ticket(name: str, arrived: float = 0.0, pixels: int = 1) -> Ticket:
    return Ticket(name, pixels, arrived)


def test_first_come_first_served_within_the_slots() -> None:
    """Two slots take the first two; the third follows when one is free."""
    scheduler = Scheduler(10)
    for index, name in enumerate("abc"):
        assert scheduler.submit(ticket(name, index))
    assert scheduler.assign() == []
    scheduler.worker_ready("w", 2)
    assert [assignment.job_id for assignment in scheduler.assign()] == ["a", "b"]
    assert (scheduler.queued, scheduler.running, scheduler.position("c")) == (1, 2, 0)
    scheduler.remove("a")
    assert [assignment.job_id for assignment in scheduler.assign()] == ["c"]


def test_a_full_queue_takes_no_more_until_somebody_leaves() -> None:
    """Admission is bounded, and a cancelled job makes room."""
    scheduler = Scheduler(2)
    assert scheduler.submit(ticket("a"))
    assert scheduler.submit(ticket("b"))
    assert not scheduler.submit(ticket("c"))
    scheduler.remove("a")
    assert scheduler.submit(ticket("c"))
    assert [scheduler.position(name) for name in "bc"] == [0, 1]


def test_the_least_loaded_worker_gets_the_job() -> None:
    """Load is counted in pixels, not in jobs."""
    scheduler = Scheduler(10)
    scheduler.worker_ready("one", 4)
    scheduler.worker_ready("two", 4)
    for index, (name, pixels) in enumerate((("a", 100), ("b", 10), ("c", 10), ("d", 10))):
        scheduler.submit(ticket(name, index, pixels))
    placed = {assignment.job_id: assignment.worker for assignment in scheduler.assign()}
    assert placed["b"] == placed["c"] == placed["d"] != placed["a"]


def test_the_jobs_of_a_lost_worker_wait_again_before_the_others() -> None:
    """In the order in which they came."""
    scheduler = Scheduler(10)
    scheduler.worker_ready("w", 2)
    for index, name in enumerate("abc"):
        scheduler.submit(ticket(name, index))
    scheduler.assign()
    assert set(scheduler.worker_lost("w")) == {"a", "b"}
    assert scheduler.worker_lost("w") == ()
    assert [scheduler.position(name) for name in "abc"] == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), slots=st.integers(1, 4), workers=st.integers(1, 3))
def test_no_job_is_lost_or_runs_twice(seed: int, slots: int, workers: int) -> None:
    """Random arrivals, endings, cancels and losses: every job is in exactly one place, and slots are never exceeded."""
    draw = random.Random(seed)
    scheduler = Scheduler(8)
    accepted: set[str] = set()
    running: dict[str, str] = {}
    up: set[str] = set()
    for now in range(120):
        act = draw.random()
        worker = f"w{draw.randrange(workers)}"
        if act < 0.4 and scheduler.submit(ticket(f"j{now}", now, draw.randint(1, 9))):
            accepted.add(f"j{now}")
        elif act < 0.6 and accepted:
            name = draw.choice(sorted(accepted))
            scheduler.remove(name)
            accepted.discard(name)
            running.pop(name, None)
        elif act < 0.7 and worker in up:
            up.discard(worker)
            lost = scheduler.worker_lost(worker)
            assert set(lost) == {name for name, where in running.items() if where == worker}
            running = {name: where for name, where in running.items() if where != worker}
        elif act < 0.85 and worker not in up:
            up.add(worker)
            scheduler.worker_ready(worker, slots)
        for assignment in scheduler.assign():
            assert assignment.job_id in accepted
            assert assignment.job_id not in running
            assert assignment.worker in up
            running[assignment.job_id] = assignment.worker
        loads = [list(running.values()).count(name) for name in up]
        assert all(load <= slots for load in loads)
        assert scheduler.running == len(running)
        assert scheduler.queued == len(accepted) - len(running)
        if scheduler.queued:
            assert all(load == slots for load in loads)
