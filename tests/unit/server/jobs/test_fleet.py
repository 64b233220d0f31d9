"""Twenty devices with gathered reports through the real dispatcher, table, scheduler and durable store."""

from __future__ import annotations

import asyncio
from pathlib import Path

from impasto_server.domain.events import Ended, Stepped
from impasto_server.domain.job import Job, JobState
from impasto_server.store.sqlite import DurableStore
from tests.unit.server.fleet import Fleet

DEVICES, SLOTS, STEPS = 20, 3, 12


async def trouble(fleet: Fleet) -> None:
    """One random thing that happens to a fleet."""
    draw, dispatcher = fleet.draw, fleet.parts.dispatcher
    job = draw.choice(fleet.jobs)
    worker = draw.choice(fleet.workers)
    what = draw.choice(("submit", "submit", "pause", "resume", "cancel", "host", "die", "nothing"))
    if what == "submit":
        await fleet.submit(steps=STEPS, priority=draw.choice((-1, 0, 0, 2)))
    elif what == "host":
        fleet.lose_host(worker)
    elif what == "die" and worker.paintings and draw.random() < 0.3:
        worker.paintings.clear()
        worker.die()
    elif what in ("pause", "resume", "cancel"):
        getattr(dispatcher, what)(job.job_id)


async def test_a_fleet_keeps_its_books(tmp_path: Path) -> None:
    """Each job is in one place after every message and trouble; every job ends, and its steps are numbered without gap."""
    fleet = Fleet(DurableStore(tmp_path, 3600.0, 1000, 1 << 30), DEVICES, SLOTS, seed=1)
    parts = fleet.parts
    await fleet.start()
    for _ in range(DEVICES * SLOTS + 30):
        await fleet.submit(steps=STEPS)
    for _ in range(150):
        await trouble(fleet)
        assert parts.supervisor.audit() == []
        fleet.turn(fleet.draw.choice(fleet.workers), fleet.draw.randint(1, 5))
        assert parts.supervisor.audit() == []
        parts.supervisor.look()
        parts.gauges.measure()
        await asyncio.sleep(0)
    for job in fleet.jobs:
        parts.dispatcher.resume(job.job_id)
    for _ in range(3000):
        if not any(True for _ in parts.table.unended()):
            break
        for worker in fleet.workers:
            fleet.turn(worker, 5)
        assert parts.supervisor.audit() == []
        await asyncio.sleep(0.001)
    await parts.dispatcher.flushed()
    states = [parts.dispatcher.get(job.job_id).state for job in fleet.jobs]
    assert set(states) == {JobState.SUCCEEDED, JobState.CANCELLED}
    assert (parts.scheduler.queued, parts.scheduler.running) == (0, 0)
    for job, state in zip(fleet.jobs, states, strict=True):
        told = [(number, event) async for number, event in parts.dispatcher.watch(job, 0) if not isinstance(event, Job)]
        assert [number for number, _ in told] == list(range(1, len(told) + 1))
        assert isinstance(told[-1][1], Ended)
        if state is JobState.SUCCEEDED:
            assert {event.step for _, event in told if isinstance(event, Stepped)} == set(range(1, STEPS + 1))
    await parts.shutdown.stop()
