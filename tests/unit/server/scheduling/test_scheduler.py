from __future__ import annotations

from dataclasses import replace

import pytest

from impasto_server.scheduling.scheduler import Assignment, Capacity, Decision, Demand, Preemption, Scheduler, Ticket, memory


def ticket(name: str, arrived: float = 0.0, pixels: int = 1, **more: object) -> Ticket:
    return replace(Ticket(name, pixels, arrived), **more)


def submit(scheduler: Scheduler, *tickets: Ticket) -> None:
    for each in tickets:
        scheduler.submit(each)


def started(decisions: list[Decision]) -> list[str]:
    return [decision.job_id for decision in decisions if isinstance(decision, Assignment)]


def preempted(decisions: list[Decision]) -> list[str]:
    return [decision.job_id for decision in decisions if isinstance(decision, Preemption)]


def test_first_come_first_served_within_the_slots() -> None:
    """Two slots take the first two; the third follows when one is free."""
    scheduler = Scheduler()
    submit(scheduler, *(ticket(name, index) for index, name in enumerate("abc")))
    assert scheduler.decide() == []
    scheduler.worker_ready("w", Capacity(2))
    assert started(scheduler.decide()) == ["a", "b"]
    assert (scheduler.queued, scheduler.running, scheduler.position("c")) == (1, 2, 0)
    scheduler.remove("a")
    assert started(scheduler.decide()) == ["c"]


def test_the_least_loaded_worker_gets_the_job() -> None:
    """Load is counted in pixels, not in jobs."""
    scheduler = Scheduler()
    for name in ("one", "two"):
        scheduler.worker_ready(name, Capacity(4))
    sizes = (("a", 100), ("b", 10), ("c", 10), ("d", 10))
    submit(scheduler, *(ticket(name, index, pixels, shape=name) for index, (name, pixels) in enumerate(sizes)))
    placed = {decision.job_id: decision.worker for decision in scheduler.decide()}
    assert placed["b"] == placed["c"] == placed["d"] != placed["a"]


def test_jobs_of_one_shape_meet_where_loads_are_about_equal() -> None:
    """A worker whose batch the job can share may be more loaded by the job's own work, not by more."""
    scheduler = Scheduler()
    for name in ("one", "two"):
        scheduler.worker_ready(name, Capacity(4))
    submit(
        scheduler, ticket("a", 0, 100, shape="square"), ticket("b", 1, 60, shape="wide"), ticket("c", 2, 100, shape="square")
    )
    placed = {decision.job_id: decision.worker for decision in scheduler.decide()}
    assert placed["c"] == placed["a"] != placed["b"]
    submit(scheduler, ticket("d", 3, 100, shape="square"))
    assert [decision.worker for decision in scheduler.decide()] == [placed["b"]]


def test_priority_goes_first_until_the_others_are_old_enough() -> None:
    """A level is worth a minute of age by default."""
    scheduler = Scheduler()
    submit(scheduler, ticket("plain", 0.0), ticket("urgent", 59.0, priority=1), ticket("late", 61.0, priority=1))
    assert [scheduler.position(name) for name in ("urgent", "plain", "late")] == [0, 1, 2]


def test_memory_is_what_all_hold_and_the_largest_pass() -> None:
    """Batches go through one after the other; within one, a group goes at once."""
    tickets = [
        ticket("a", shape="s", demand=Demand(10, 100)),
        ticket("b", shape="s", demand=Demand(10, 80)),
        ticket("c", shape="t", demand=Demand(10, 150)),
    ]
    assert memory(tickets, group=1) == 30 + 150
    assert memory(tickets, group=2) == 30 + 180
    assert memory([], group=2) == 0


def test_a_job_without_room_keeps_a_worker_free_and_is_not_overtaken_there() -> None:
    """The small one behind it must go elsewhere, however well it would fit."""
    scheduler = Scheduler()
    scheduler.worker_ready("w", Capacity(8, memory=100))
    submit(scheduler, ticket("first", 0, demand=Demand(60)), ticket("large", 1, demand=Demand(90)))
    submit(scheduler, ticket("small", 2, demand=Demand(10)))
    assert started(scheduler.decide()) == ["first"]
    scheduler.worker_ready("v", Capacity(8, memory=50))
    assert scheduler.decide() == [Assignment("small", "v")]
    scheduler.remove("first")
    assert scheduler.decide() == [Assignment("large", "w")]


def test_a_job_that_fits_nowhere_blocks_nobody_and_is_told() -> None:
    """Until a worker comes that could hold it."""
    scheduler = Scheduler()
    scheduler.worker_ready("w", Capacity(8, memory=100))
    submit(scheduler, ticket("huge", 0, demand=Demand(60, 60)), ticket("small", 1, demand=Demand(10)))
    assert started(scheduler.decide()) == ["small"]
    assert scheduler.hopeless() == ("huge",)
    scheduler.worker_ready("big", Capacity(1, memory=120))
    assert scheduler.decide() == [Assignment("huge", "big")]


def test_equal_jobs_go_to_idle_workers_first() -> None:
    """Two jobs of one shape run on two idle GPUs; a third shares a pass."""
    scheduler = Scheduler()
    for name in ("cuda:0", "cuda:1"):
        scheduler.worker_ready(name, Capacity(16, group=64))
    submit(scheduler, *(ticket(name, index) for index, name in enumerate("abcd")))
    found = [decision.worker for decision in scheduler.decide()]
    assert sorted(found[:2]) == ["cuda:0", "cuda:1"]
    assert sorted(found) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]


def test_a_higher_priority_takes_the_place_of_the_last_in_line() -> None:
    """Which waits again at its old place with the same number, and goes on afterwards."""
    scheduler = Scheduler()
    scheduler.worker_ready("w", Capacity(2))
    submit(scheduler, *(ticket(name, index) for index, name in enumerate("abc")))
    scheduler.decide()
    submit(scheduler, ticket("urgent", 3, priority=1))
    assert scheduler.decide() == [Preemption("b", "w")]
    assert scheduler.decide() == [], "b is asked once"
    assert scheduler.parked("b")
    assert scheduler.decide() == [Assignment("urgent", "w")]
    assert [scheduler.position(name) for name in "bc"] == [0, 1]
    scheduler.remove("urgent")
    assert scheduler.decide() == [Assignment("b", "w")]
    assert not scheduler.parked("c"), "it does not run"


@pytest.mark.parametrize(("arrived", "priority"), [(30.0, 0), (90.0, 1)], ids=["equal priority", "so much later"])
def test_nobody_is_preempted_by_one_who_would_stand_behind(arrived: float, priority: int) -> None:
    """Else the two would take each other's place for ever."""
    scheduler = Scheduler()
    scheduler.worker_ready("w", Capacity(1))
    submit(scheduler, ticket("old", 0.0))
    scheduler.decide()
    submit(scheduler, ticket("new", arrived, priority=priority))
    assert scheduler.decide() == []


def test_only_as_many_as_needed_are_preempted() -> None:
    """The small one is spared where the large one alone makes room."""
    scheduler = Scheduler()
    scheduler.worker_ready("w", Capacity(8, memory=100))
    submit(scheduler, ticket("large", 0, demand=Demand(70)), ticket("small", 1, demand=Demand(20)))
    scheduler.decide()
    submit(scheduler, ticket("urgent", 2, priority=1, demand=Demand(75)))
    assert preempted(scheduler.decide()) == ["large"]


def test_the_jobs_of_a_lost_worker_wait_again_at_their_places_and_run_alone() -> None:
    """So that the one that killed it cannot kill the others again."""
    scheduler = Scheduler()
    scheduler.worker_ready("w", Capacity(2))
    submit(scheduler, *(ticket(name, index) for index, name in enumerate("abc")))
    scheduler.decide()
    assert set(scheduler.worker_lost("w")) == {"a", "b"}
    assert scheduler.worker_lost("w") == ()
    assert [scheduler.position(name) for name in "abc"] == [0, 1, 2]
    scheduler.worker_ready("w", Capacity(2))
    assert started(scheduler.decide()) == ["a"]
    scheduler.remove("a")
    assert started(scheduler.decide()) == ["b"]
    scheduler.remove("b")
    submit(scheduler, ticket("d", 9))
    assert started(scheduler.decide()) == ["c", "d"]


def test_the_jobs_of_a_lost_host_wait_again_at_their_places_and_may_share() -> None:
    """They are not the cause; one that ran alone before still does."""
    scheduler = Scheduler()
    scheduler.worker_ready("w", Capacity(2))
    scheduler.worker_ready("v", Capacity(2))
    submit(scheduler, ticket("a", 0, alone=True), *(ticket(name, index) for index, name in enumerate("bcd", start=1)))
    assert len(scheduler.decide()) == 3
    assert {*scheduler.worker_lost("w", suspects=False), *scheduler.worker_lost("v", suspects=False)} == {"a", "b", "c"}
    assert scheduler.waiting() == ["a", "b", "c", "d"]
    for name in ("x", "y"):
        scheduler.worker_ready(name, Capacity(2))
    assert started(scheduler.decide()) == ["a", "b", "c"]
    assert (scheduler.worker_of("b"), scheduler.worker_of("a")) == (scheduler.worker_of("c"), "x")
