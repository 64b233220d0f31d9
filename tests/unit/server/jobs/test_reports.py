"""Reports that a worker sends together, through the real table and both stores."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from impasto_engine.results import Losses
from impasto_server.config import ServerConfig
from impasto_server.domain.events import Ended, Event, Heartbeat, Started, Stepped
from impasto_server.domain.job import Job, JobState, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.jobs.dispatcher import Dispatcher
from impasto_server.observability.metrics import Metrics
from impasto_server.store.memory import MemoryStore
from impasto_server.store.sqlite import DurableStore
from impasto_server.workers.messages import JobPainted, JobReport, JobStepped
from tests.unit.server.fakes import PARTS, FakeWorker, assembled, spec


@asynccontextmanager
async def dispatching(folder: Path, durable: bool, worker: FakeWorker) -> AsyncIterator[Dispatcher]:
    store = DurableStore(folder, 3600.0, 100, 1 << 30) if durable else MemoryStore(3600.0, 100, folder)
    async with assembled(ServerConfig(grace_s=0.0, max_running_jobs=4), store, worker) as dispatcher:
        yield dispatcher


def step(job: Job, number: int, preview: bytes | None = None) -> JobStepped:
    losses = Losses(1 / number, 0.1 / number, 1e-9 * number)
    return JobStepped(job.job_id, number, losses, 0.25 * number, 9.0 - number, preview)


def run(job: Job, first: int, last: int) -> list[JobStepped]:
    return [step(job, number) for number in range(first, last + 1)]


def send(dispatcher: Dispatcher, reports: Sequence[JobReport]) -> None:
    PARTS[dispatcher].pool._receiver.on_reports("cpu", reports)


def shown(job: Job, number: int, steps: int = 20) -> Stepped:
    report = step(job, number)
    return Stepped(number, steps, report.losses, report.elapsed_s, report.remaining_s)


async def seen(dispatcher: Dispatcher, job: Job, after: int = 0) -> list[tuple[int, Event]]:
    """Return the events so far with their numbers."""
    await dispatcher.flushed()
    found: list[tuple[int, Event]] = []
    async for number, event in dispatcher.watch(job, after):
        if isinstance(event, (Job, Heartbeat)):
            continue
        found.append((number, event))
        if number == PARTS[dispatcher].table.runtimes[job.job_id].journal.sequence:
            break
    return found


def rows(folder: Path, job: Job) -> list[tuple[int, int]]:
    """Return number of the last event and count of each row."""
    with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite")) as connection, connection:
        return connection.execute(
            "SELECT sequence, count FROM events WHERE job_id = ? ORDER BY sequence", (job.job_id,)
        ).fetchall()


@pytest.mark.parametrize("durable", [False, True])
async def test_watchers_see_every_step_of_a_run_with_its_own_number(tmp_path: Path, durable: bool) -> None:
    """Without a gap, also from the middle of a run, interleaved with single reports; the newest preview is kept."""
    async with dispatching(tmp_path, durable, FakeWorker(hang=True)) as dispatcher:
        job, other = [await dispatcher.submit(spec(steps=20), "", "d", detached=True) for _ in range(2)]
        await asyncio.sleep(0)
        both = [report for pair in zip(run(job, 1, 5), run(other, 1, 5), strict=True) for report in pair]
        send(dispatcher, [*both, step(job, 6, b"preview")])
        PARTS[dispatcher].pool._receiver.on_report("cpu", step(job, 7))
        send(dispatcher, run(job, 8, 8))
        send(dispatcher, run(job, 9, 11))
        found = await seen(dispatcher, job)
        assert [number for number, _ in found] == list(range(1, 13))
        assert [event.step for _, event in found[1:] if isinstance(event, Stepped)] == list(range(1, 12))
        assert [event.preview for _, event in found if isinstance(event, Stepped) and event.preview] == [b"preview"]
        assert await seen(dispatcher, job, 4) == found[4:]
        assert [number for number, _ in await seen(dispatcher, other)] == list(range(1, 7))
        now = dispatcher.get(job.job_id)
        assert (now.step, now.losses, now.optimize_s) == (11, step(job, 11).losses, 2.75)


async def test_a_run_is_one_row_and_comes_back_as_its_steps(tmp_path: Path) -> None:
    """One row and one change of the record for each run; after a restart, and after the end, every step is there as it was."""
    async with dispatching(tmp_path, True, FakeWorker(hang=True)) as dispatcher:
        job = await dispatcher.submit(spec(steps=20), "", "d", detached=True)
        await asyncio.sleep(0)
        puts = []
        store = PARTS[dispatcher].store
        put = store.put
        store.put = lambda job: (puts.append(job.step), put(job))[1]
        send(dispatcher, run(job, 1, 6))
        send(dispatcher, run(job, 7, 7))
        send(dispatcher, run(job, 8, 12))
        assert puts == [6, 7, 12]
        before = await seen(dispatcher, job)
        assert rows(tmp_path, job) == [(1, 1), (7, 6), (8, 1), (13, 5)]
    wanted = [Started("cpu", 1), *(shown(job, number) for number in range(1, 13))]
    assert before == list(enumerate(wanted, start=1))
    worker = FakeWorker(hang=True)
    async with dispatching(tmp_path, True, worker) as dispatcher:
        again = await seen(dispatcher, job)
        assert again[:13] == before
        send(dispatcher, run(job, 13, 20))
        send(dispatcher, [JobPainted(job.job_id, StopReason.STEPS, Raster(32, 24, bytes(32 * 24 * 3)))])
        assert (await asyncio.wait_for(dispatcher.wait(job), 5)).state is JobState.SUCCEEDED
        everything = [(n, e) async for n, e in dispatcher.watch(job, 0) if not isinstance(e, Job)]
    assert [number for number, _ in everything] == list(range(1, len(everything) + 1))
    assert [event for _, event in everything if isinstance(event, Stepped)] == [shown(job, number) for number in range(1, 21)]
    assert isinstance(everything[-1][1], Ended)


async def test_what_follows_a_run_in_its_message_comes_after_it(tmp_path: Path) -> None:
    """The steps before a picture are told before the end; those of a job that has gone elsewhere are not told at all."""
    async with dispatching(tmp_path, True, FakeWorker(hang=True)) as dispatcher:
        job, gone = [await dispatcher.submit(spec(steps=20), "", "d", detached=True) for _ in range(2)]
        await asyncio.sleep(0)
        dispatcher.cancel(gone.job_id)
        painted = JobPainted(job.job_id, StopReason.STEPS, Raster(32, 24, bytes(32 * 24 * 3)))
        send(dispatcher, [*run(gone, 1, 3), *run(job, 1, 20), painted])
        assert (await asyncio.wait_for(dispatcher.wait(job), 5)).step == 20
        kinds = [type(event) for _, event in await seen(dispatcher, job)]
        assert kinds == [Started, *[Stepped] * 20, Ended]
        assert [type(event) for _, event in await seen(dispatcher, gone)] == [Started, Ended]
        PARTS[dispatcher].pool._receiver.on_reports("another", run(job, 1, 3))
        assert PARTS[dispatcher].supervisor.audit() == []


async def test_every_step_of_a_run_is_counted(tmp_path: Path) -> None:
    """The counter and both histograms have as many as with single reports, and the same times."""
    values = []
    for together in (False, True):
        (tmp_path / str(together)).mkdir()
        async with dispatching(tmp_path / str(together), False, FakeWorker(hang=True)) as dispatcher:
            job = await dispatcher.submit(spec(steps=20), "", "d", detached=True)
            await asyncio.sleep(0)
            metrics: Metrics = dispatcher._metrics
            if together:
                send(dispatcher, run(job, 1, 8))
            for report in [] if together else run(job, 1, 8):
                PARTS[dispatcher].pool._receiver.on_report("cpu", report)
            samples = ("impasto_evaluations_total", "impasto_step_seconds_count", "impasto_step_seconds_sum")
            samples += ("impasto_batch_occupancy_count", "impasto_batch_occupancy_sum")
            found = [metrics.registry.get_sample_value(name, {"device": "cpu"}) for name in samples]
            values.append([*found, metrics.registry.get_sample_value("impasto_time_to_first_step_seconds_count")])
    assert values[0] == values[1] == [8.0, 8.0, 2.0, 8.0, 8.0, 1.0]
