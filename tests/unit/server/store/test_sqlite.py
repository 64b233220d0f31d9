"""Jobs that survive their server: the store by itself, and a dispatcher that is started again on what another one left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from impasto_engine.results import Losses
from impasto_server.config import ServerConfig
from impasto_server.domain.errors import ServiceError
from impasto_server.domain.events import Ended, Event, Paused, PauseReason, Started, Stepped
from impasto_server.domain.job import Job, JobError, JobState, NetworkDescription, StopReason, StylePicture
from impasto_server.jobs.dispatcher import Dispatcher
from impasto_server.store import sqlite as durable
from impasto_server.store.codec import (
    decode_event,
    decode_job,
    decode_spec,
    digest,
    encode_event,
    encode_job,
    encode_spec,
    laid_down,
)
from impasto_server.store.sqlite import DataError, DurableStore
from impasto_server.workers.messages import JobStepped
from tests.unit.server.fakes import PARTS, FakeWorker, assembled, spec

FULL = replace(
    spec(time_limit_s=3.5, return_best=True, ttl_s=9.0, priority=-2),
    styles=(StylePicture(spec(width=20, height=18).content, 0.3, "digest"),),
)


@asynccontextmanager
async def opened(folder: Path, max_bytes: int = 1 << 30, retention_s: float = 3600.0) -> AsyncIterator[DurableStore]:
    store = DurableStore(folder, retention_s, 100, max_bytes)
    yield store
    await store.close()


@asynccontextmanager
async def serving(folder: Path, worker: FakeWorker, **settings: Any) -> AsyncIterator[Dispatcher]:
    config = ServerConfig(**{"grace_s": 0.0, "max_running_jobs": 1, **settings})
    async with assembled(config, DurableStore(folder, 3600.0, 100, 1 << 30), worker) as dispatcher:
        yield dispatcher


def record(number: int = 1, created: float = 1.0, **more: Any) -> Job:
    return Job(f"j{number}", number, f"r{number}", "digest", True, more.pop("spec", spec()), created=created, **more)


def test_a_job_comes_back_from_its_record_as_it_was() -> None:
    """With everything that is known of it, its pictures by their names."""
    job = record(
        spec=FULL,
        state=JobState.FAILED,
        losses=Losses(1.0, 2.0, 3.0),
        network=NetworkDescription("vgg16", "builtin", "00", ("conv1_1",)),
        stop_reason=StopReason.DEADLINE,
        error=JobError("REASON", "words"),
        arithmetic="bfloat16",
        losses_of_worker=2,
    )
    folder = Path("/pictures")
    assert decode_job(encode_job(job), decode_spec(encode_spec(job.spec), folder)) == replace(job, spec=laid_down(FULL, folder))
    assert encode_spec(laid_down(FULL, folder)) == encode_spec(FULL)
    bare = decode_spec(encode_spec(job.spec), None)
    assert (bare.content, bare.styles, bare.parameters) == (None, (), FULL.parameters)


@pytest.mark.parametrize(
    "event",
    [
        Started("cuda:0", 2, 7, "a note"),
        Stepped(3, 9, Losses(0.1, 0.2, 0.3), 1.5, 2.5),
        Paused(PauseReason.REQUESTED, 4),
        Ended(),
    ],
)
def test_an_event_comes_back_from_its_record_as_it_was(event: Event) -> None:
    """All kinds."""
    assert decode_event(encode_event(event)) == event


async def test_the_folder_is_one_servers_alone(tmp_path: Path) -> None:
    """The second one is told so; afterwards the folder is free."""
    async with opened(tmp_path):
        with pytest.raises(DataError, match="another server uses"):
            DurableStore(tmp_path, 1.0, 1, 1)
    async with opened(tmp_path):
        pass


async def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    """Jobs with their pictures, events, results; ended ones keep only their result, and blobs nobody wants are gone."""
    async with opened(tmp_path) as store:
        store.add(record(1, spec=FULL))
        store.add(record(2, spec=FULL))
        await store.committed("j2")
        shown: list[int] = []
        for number, event in enumerate((Started("cpu", 1), Ended()), start=1):
            store.append("j2", number, event, lambda number=number: shown.append(number))
        store.put_result("j2", b"picture")
        store.put(replace(record(2, spec=FULL), state=JobState.SUCCEEDED, ended=time.time()))
    await asyncio.sleep(0)
    assert shown == [1, 2]
    assert len(os.listdir(tmp_path / "blobs")) == 3
    async with opened(tmp_path) as store:
        (first, second) = store.restore()
        assert first.job == record(1, spec=laid_down(FULL, tmp_path / "blobs"), created=first.job.created)
        assert (second.job.state, second.events, second.told, second.closed) == (JobState.SUCCEEDED, [], 2, True)
        assert await store.events("j2") == [Started("cpu", 1), Ended()]
        assert store.result("j2") == b"picture"
        assert store.by_request("", "r2") == second.job
        store.forget(["j1", "j2"])
    assert os.listdir(tmp_path / "blobs") == []
    assert store.bytes_kept == 0


async def test_a_sick_disk_refuses_new_jobs_keeps_the_others_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of running jobs are shown meanwhile, and everything is on the disk when it is well again."""
    monkeypatch.setattr(durable, "RETRY_S", 0.02)
    async with opened(tmp_path) as store:
        store.add(record(1))
        await store.committed("j1")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            store.add(record(2, spec=spec(width=40)))
            with pytest.raises(ServiceError, match="No space left") as caught:
                await store.committed("j2")
            assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "STORAGE_FAILED")
            assert store.get("j2") is None
            with pytest.raises(ServiceError, match="cannot store new jobs"):
                store.check()
            store.put_result("j1", b"picture")
            shown = asyncio.Event()
            store.append("j1", 1, Ended(), shown.set)
            await asyncio.wait_for(shown.wait(), 1)
            assert store.result("j1") == b"picture"
        for _ in range(100):
            await asyncio.sleep(0.02)
            try:
                store.check()
                break
            except ServiceError:
                continue
        store.check()
    async with opened(tmp_path) as store:
        (one,) = store.restore()
        assert (one.told, one.closed) == (1, True)
        assert await store.events("j1") == [Ended()]
        assert store.result("j1") == b"picture"


async def test_what_comes_after_a_job_was_forgotten_disturbs_nobody(tmp_path: Path) -> None:
    """Its late events and result are dropped; the others' are kept."""
    async with opened(tmp_path) as store:
        store.add(record(1))
        store.add(record(2))
        store.forget(["j1"])
        store.append("j1", 1, Ended(), lambda: None)
        store.put_result("j1", b"late")
        store.append("j2", 1, Started("cpu", 1), lambda: None)
        await store.committed("j2")
    async with opened(tmp_path) as store:
        (one,) = store.restore()
        assert (one.job.job_id, one.events) == ("j2", [Started("cpu", 1)])
        store.check()


async def test_a_full_folder_refuses_new_jobs(tmp_path: Path) -> None:
    """By the operator's limit."""
    async with opened(tmp_path, max_bytes=100) as store:
        store.check()
        store.add(record(1))
        await store.committed("j1")
        with pytest.raises(ServiceError, match="which is the limit") as caught:
            store.check()
        assert caught.value.reason == "STORAGE_FULL"


@pytest.mark.parametrize("damage", ["page", "header", "newer"])
async def test_a_bad_database_is_refused_with_what_to_do(tmp_path: Path, damage: str) -> None:
    """And nothing in it is touched."""
    async with opened(tmp_path) as store:
        for number in range(1, 60):
            store.add(record(number))
            await store.committed(f"j{number}")
    path = tmp_path / "jobs.sqlite"
    if damage == "newer":
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        data = bytearray(path.read_bytes())
        start = 0 if damage == "header" else 4096 * (len(data) // 4096 // 2)
        data[start : start + 2048] = b"\xaa" * 2048
        path.write_bytes(data)
    before = path.read_bytes()
    with pytest.raises(DataError, match="newer impasto" if damage == "newer" else "move it away"):
        DurableStore(tmp_path, 1.0, 1, 1)
    assert path.read_bytes() == before


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Here because it is a file."""
    target = tmp_path / "file"
    target.write_text("")
    with pytest.raises(DataError, match="cannot use the data folder"):
        DurableStore(target, 1.0, 1, 1)


async def test_a_lost_picture_fails_its_job_alone(tmp_path: Path) -> None:
    """The others go on; a lost result says so."""
    async with opened(tmp_path) as store:
        store.add(record(1, spec=FULL))
        store.add(record(2, spec=spec(width=30)))
        await store.committed("j2")
        store.add(record(3, spec=spec(width=31)))
        store.put_result("j3", b"result")
        store.put(replace(record(3, spec=spec(width=31)), state=JobState.SUCCEEDED, ended=time.time()))
    blobs = tmp_path / "blobs"
    (blobs / digest(FULL.styles[0].picture.rgb)).write_bytes(b"something else")
    (blobs / digest(b"result")).unlink()
    async with opened(tmp_path) as store:
        found = {restored.job.job_id: restored for restored in store.restore()}
        assert [found[name].lost is None for name in ("j1", "j2", "j3")] == [False, True, True]
        with pytest.raises(ServiceError, match="is lost"):
            store.result("j3")
    for _ in range(2):  # the second time it is read as it was recorded
        async with serving(tmp_path, FakeWorker()) as dispatcher:
            lost = await asyncio.wait_for(dispatcher.wait(dispatcher.get("j1")), 2)
            assert lost.error
            assert (lost.state, lost.error.reason) == (JobState.FAILED, "DATA_LOST")
            assert (await asyncio.wait_for(dispatcher.wait(dispatcher.get("j2")), 2)).state is JobState.SUCCEEDED


async def test_a_drain_does_not_wait_for_a_job_whose_worker_was_lost(tmp_path: Path) -> None:
    """The next server resumes it; in this one nothing starts any more."""
    worker = FakeWorker(hang=True)
    async with serving(tmp_path, worker, grace_s=60) as dispatcher:
        job = await dispatcher.submit(spec(steps=30), "r", "d", detached=False)
        await asyncio.sleep(0.05)
        draining = asyncio.create_task(PARTS[dispatcher].shutdown.drain())
        await asyncio.sleep(0.05)
        assert not draining.done()
        worker.die()
        await asyncio.wait_for(draining, 10)
        assert dispatcher.get(job.job_id).state is JobState.QUEUED


async def test_a_server_that_stops_keeps_its_jobs_for_the_next(tmp_path: Path) -> None:
    """Running ones with their steps, waiting and paused ones in their places; watchers go on without gap or duplicate."""
    async with serving(tmp_path, FakeWorker(step_s=0.01)) as dispatcher:
        jobs = [await dispatcher.submit(spec(steps=30), f"r{n}", "d", detached=False) for n in range(3)]
        await asyncio.sleep(0.1)
        dispatcher.pause(jobs[2].job_id)
        await asyncio.wait_for(PARTS[dispatcher].shutdown.drain(), 2)
        parked = dispatcher.get(jobs[0].job_id)
        seen = [(number, event) async for number, event in _until_now(dispatcher, parked)]
    assert (parked.state, dispatcher.get(jobs[1].job_id).state) == (JobState.QUEUED, JobState.QUEUED)
    async with serving(tmp_path, FakeWorker(step_s=0.001)) as dispatcher:
        await dispatcher.flushed()
        assert dispatcher.get(jobs[0].job_id).state is JobState.RUNNING
        assert dispatcher.get(jobs[2].job_id).state is JobState.PAUSED
        assert (await dispatcher.submit(spec(steps=30), "r1", "d", detached=True)).job_id == jobs[1].job_id
        last = seen[-1][0]
        rest = [(n, e) async for n, e in dispatcher.watch(parked, last) if not isinstance(e, Job)]
        assert [number for number, _ in rest] == list(range(last + 1, last + 1 + len(rest)))
        steps = [event.step for _, event in (*seen, *rest) if isinstance(event, Stepped)]
        assert steps == list(range(1, 31))
        assert (await asyncio.wait_for(dispatcher.wait(jobs[1]), 2)).state is JobState.SUCCEEDED
        dispatcher.resume(jobs[2].job_id)
        assert (await asyncio.wait_for(dispatcher.wait(jobs[2]), 2)).state is JobState.SUCCEEDED
    async with serving(tmp_path, FakeWorker()) as dispatcher:
        assert all(dispatcher.result(job.job_id).startswith(b"\x89PNG") for job in jobs)
        again = [event async for _, event in dispatcher.watch(parked, 0)]
        assert [event.step for event in again if isinstance(event, Stepped)] == list(range(1, 31))


async def _until_now(dispatcher: Dispatcher, job: Job) -> AsyncIterator[tuple[int, Event]]:
    async for number, event in dispatcher.watch(job, 0):
        if isinstance(event, (Started, Stepped, Paused)):
            yield number, event
            if number == PARTS[dispatcher].table.runtimes[job.job_id].journal.sequence:
                return


async def test_what_jobs_take_is_known_again_after_a_restart(tmp_path: Path) -> None:
    """They are taken up before a worker has measured anything, and must not all start at once for that."""
    async with serving(tmp_path, FakeWorker(hang=True)) as dispatcher:
        for _ in range(3):
            await dispatcher.submit(spec(width=256, height=256), "", "d", detached=True)
    worker = FakeWorker(hang=True, free_bytes=550 << 20)
    async with serving(tmp_path, worker, max_running_jobs=8) as dispatcher:
        assert (dispatcher.running, dispatcher.queued) == (2, 1)


async def test_a_job_is_acknowledged_only_when_it_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot keep it refuses it, and nothing of it is left; two requests of one id share the answer."""
    async with serving(tmp_path, FakeWorker()) as dispatcher:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            pair = [dispatcher.submit(spec(), "r", "d", detached=True) for _ in range(2)]
            answers = await asyncio.gather(*pair, return_exceptions=True)
        assert all(isinstance(answer, ServiceError) for answer in answers)
        assert (dispatcher.queued, dispatcher.running) == (0, 0)
        assert dispatcher.page(None, 10) == []


@pytest.mark.parametrize("detached", [True, False])
async def test_a_caller_that_goes_away_while_its_job_is_accepted_harms_nothing(tmp_path: Path, detached: bool) -> None:
    """A submitted job runs, one that only it waited for is cancelled; the store goes on writing."""
    async with serving(tmp_path, FakeWorker(), max_running_jobs=4) as dispatcher:
        leaving = asyncio.create_task(dispatcher.submit(spec(), "gone", "d", detached=detached))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        job = await asyncio.wait_for(dispatcher.submit(spec(), "", "d", detached=True), 2)
        assert (await asyncio.wait_for(dispatcher.wait(job), 2)).state is JobState.SUCCEEDED
        gone = await asyncio.wait_for(dispatcher.wait(dispatcher.by_request("", "gone")), 2)
        assert gone.state is (JobState.SUCCEEDED if detached else JobState.CANCELLED)


async def test_a_time_limit_goes_on_over_a_restart(tmp_path: Path) -> None:
    """It counts from the acceptance, whatever happened since."""
    async with serving(tmp_path, FakeWorker(hang=True)) as dispatcher:
        job = await dispatcher.submit(spec(time_limit_s=0.3), "", "d", detached=True)
    await asyncio.sleep(0.3)
    async with serving(tmp_path, FakeWorker(hang=True)) as dispatcher:
        ended = await asyncio.wait_for(dispatcher.wait(job), 1)
        assert ended.error
        assert ended.error.reason == "DEADLINE_EXCEEDED"


async def test_a_folder_of_an_earlier_version_opens(tmp_path: Path) -> None:
    """Made at commit 755bac8, before the server's modules moved into packages: every job is there, and the others end."""
    with tarfile.open(Path(__file__).with_name("folder-755bac8.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    async with serving(tmp_path, FakeWorker()) as dispatcher:
        by_name = {job.request_id: job for job in dispatcher.page(None, 10)}
        assert by_name.keys() == {"done", "running", "waiting", "paused", "cancelled"}
        assert {job.owner for job in by_name.values()} == {"ann", "bob"}
        assert dispatcher.result(by_name["done"].job_id).startswith(b"\x89PNG")
        assert by_name["running"].step == 9
        assert by_name["cancelled"].state is JobState.CANCELLED
        assert by_name["paused"].state is JobState.PAUSED
        dispatcher.resume(by_name["paused"].job_id)
        for name in ("running", "waiting", "paused"):
            assert (await asyncio.wait_for(dispatcher.wait(by_name[name]), 5)).state is JobState.SUCCEEDED
        told = [event async for _, event in dispatcher.watch(by_name["done"], 0)]
        assert [type(event) for event in told[1:]] == [Started, Stepped, Stepped, Ended]


async def test_runs_of_steps_go_on_in_a_folder_of_an_earlier_version(tmp_path: Path) -> None:
    """Its single events and the runs of this version make one sequence, of a new schema version."""
    with tarfile.open(Path(__file__).with_name("folder-755bac8.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")

    def look(query: str, *values: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection, connection:
            return connection.execute(query, values).fetchall()

    assert look("PRAGMA user_version") == [(1,)]
    async with serving(tmp_path, FakeWorker(hang=True)) as dispatcher:
        job = next(job for job in dispatcher.page(None, 10) if job.request_id == "running")
        await asyncio.sleep(0)
        losses = Losses(0.5, 0.25, 0.125)
        run = [JobStepped(job.job_id, step, losses, step / 8, 1.0) for step in range(10, 15)]
        PARTS[dispatcher].pool._receiver.on_reports("cpu", run)
        await dispatcher.flushed()
        assert dispatcher.get(job.job_id).step == 14
    assert look("PRAGMA user_version") == [(len(durable.MIGRATIONS),)]
    counts = look("SELECT count FROM events WHERE job_id = ? ORDER BY sequence", job.job_id)
    assert counts[-1] == (5,)
    assert set(counts[:-1]) == {(1,)}
    async with opened(tmp_path) as store:
        (found,) = [restored for restored in store.restore() if restored.job.job_id == job.job_id]
    assert found.told == len(found.events) == len(counts) + 4
    assert [event.step for event in found.events if isinstance(event, Stepped)][-6:] == [9, 10, 11, 12, 13, 14]
