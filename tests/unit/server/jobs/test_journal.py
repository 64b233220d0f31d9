"""The journal, the store and the settings."""

from __future__ import annotations

import asyncio

import pytest

from impasto_engine.results import Losses
from impasto_server.config import ConfigError, ServerConfig
from impasto_server.domain.events import Ended, Event, Started, Stepped
from impasto_server.domain.filters import JobFilter
from impasto_server.domain.job import Job, JobState
from impasto_server.jobs.journal import Journal
from impasto_server.store.memory import MemoryStore
from tests.unit.server.fakes import spec


def step(number: int, preview: bytes | None = None) -> Stepped:
    return Stepped(number, 9, Losses(0.0, 0.0, 0.0), 0, 0, preview)


def tell(journal: Journal, event: Event) -> None:
    journal.show(journal.add(event))


async def test_an_event_is_shown_when_it_is_safe() -> None:
    """What is not kept yet is not told, and what an earlier process told is there with its numbers."""
    journal = Journal([Started("cpu", 1), step(1)])
    assert journal.sequence == 2
    assert journal.add(step(2)) == 3
    assert journal.add(step(3)) == 4
    assert journal.after(1) == [(2, step(1))]
    journal.show(3)
    assert journal.after(1) == [(2, step(1)), (3, step(2))]
    assert journal.sequence == 3


async def test_events_are_numbered_from_one_without_gaps() -> None:
    """Whoever reads after a number gets exactly what follows."""
    journal = Journal()
    for event in (Started("cpu", 1), step(1), step(2), Ended()):
        tell(journal, event)
    assert [number for number, _ in journal.after(0)] == [1, 2, 3, 4]
    assert journal.after(2) == [(3, step(2)), (4, Ended())]
    assert journal.after(4) == []


async def test_only_the_newest_preview_is_kept_and_no_step_is_lost() -> None:
    """A slow reader finds every step, and one preview."""
    journal = Journal()
    for number in range(1, 6):
        tell(journal, step(number, b"p%d" % number if number != 5 else None))
    found = [event for _, event in journal.after(0)]
    assert [event.step for event in found if isinstance(event, Stepped)] == [1, 2, 3, 4, 5]
    assert [event.preview for event in found if isinstance(event, Stepped) and event.preview] == [b"p4"]


async def test_watchers_wake_when_something_happens_and_only_then() -> None:
    """A wait ends with the next event, or says that none came."""
    journal = Journal()
    assert not await journal.wait(0.01)
    waiting = asyncio.create_task(journal.wait(60))
    await asyncio.sleep(0)
    tell(journal, step(1))
    assert await asyncio.wait_for(waiting, 30)


def job(number: int, state: JobState = JobState.QUEUED, ended: float | None = None, request: str = "") -> Job:
    return Job(f"j{number}", number, request, "digest", True, spec(), created=0.0, state=state, ended=ended)


def test_pages_go_from_new_to_old_and_filter() -> None:
    """Below a number, at most so many, only in these states."""
    store = MemoryStore(100, 100)
    for number in range(1, 7):
        store.add(job(number, JobState.RUNNING if number % 2 else JobState.QUEUED))
    assert [item.number for item in store.page(None, 3)] == [6, 5, 4]
    assert [item.number for item in store.page(4, 3)] == [3, 2, 1]
    assert [item.number for item in store.page(None, 9, JobFilter({JobState.RUNNING}))] == [5, 3, 1]


def test_ended_jobs_expire_with_their_pictures_and_request_ids() -> None:
    """By age, and by number where there are too many; running jobs never."""
    store = MemoryStore(retention_s=10, max_ended=2)
    store.add(job(1, JobState.RUNNING))
    for number in (2, 3, 4):
        store.add(job(number, JobState.SUCCEEDED, ended=float(number), request=f"r{number}"))
        store.put_result(f"j{number}", b"picture")
    assert store.expire(now=5.0) == ["j2"]
    assert store.result("j2") is None
    assert store.by_request("", "r2") is None
    assert store.expire(now=13.5) == ["j3"]
    assert [item.job_id for item in store.page(None, 9)] == ["j4", "j1"]


def test_an_ended_job_lets_its_pictures_go() -> None:
    """They are of no use any more, and large."""
    store = MemoryStore(10, 10)
    store.add(job(1))
    store.put(job(1, JobState.SUCCEEDED, ended=1.0))
    kept = store.get("j1")
    assert kept
    assert kept.spec.content is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "nowhere"),
        ("listen", "host:99999"),
        ("listen", ":50051"),
        ("max_queued_jobs", 0),
        ("max_running_jobs", -1),
        ("max_size_px", 4),
        ("heartbeat_s", 0.0),
        ("grace_s", -1.0),
        ("retention_s", float("nan")),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: object) -> None:
    """At start, not at the first job."""
    with pytest.raises(ConfigError, match=name):
        ServerConfig(**{name: value})
