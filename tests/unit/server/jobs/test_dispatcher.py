from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from impasto_server.config import ServerConfig
from impasto_server.domain.errors import ServiceError
from impasto_server.domain.events import Ended, Heartbeat, Paused, PauseReason, Started, Stepped
from impasto_server.domain.job import Job, JobState, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.jobs.dispatcher import Dispatcher
from impasto_server.jobs.lifecycle import MAX_LOSSES
from impasto_server.store.memory import MemoryStore
from impasto_server.workers.memory import MemoryModel
from impasto_server.workers.messages import Alive, Checkpointed, JobPainted, PassMeasured
from tests.unit.server.fakes import PARTS, FakeWorker, assembled, spec


@asynccontextmanager
async def dispatching(*workers: FakeWorker, **settings: object) -> AsyncIterator[Dispatcher]:
    config = ServerConfig(**{"heartbeat_s": 0.05, "grace_s": 0.5, **settings})
    with tempfile.TemporaryDirectory() as folder:
        store = MemoryStore(config.retention_s, config.max_ended_jobs, Path(folder))
        async with assembled(config, store, *workers) as dispatcher:
            yield dispatcher
        assert os.listdir(folder) == [], "a parked job's file is left behind"


async def submit(dispatcher: Dispatcher, request_id: str = "", digest: str = "d", detached: bool = True, **of_spec: Any) -> Job:
    return await dispatcher.submit(spec(**of_spec), request_id, digest, detached=detached)


async def ended(dispatcher: Dispatcher, job: Job) -> Job:
    return await asyncio.wait_for(dispatcher.wait(job), 60)


async def test_a_job_runs_to_its_picture() -> None:
    """Queued, running, succeeded; with losses, device, network and a PNG."""
    async with dispatching(FakeWorker()) as dispatcher:
        job = await submit(dispatcher)
        assert job.state is JobState.RUNNING
        job = await ended(dispatcher, job)
        assert (job.state, job.stop_reason, job.step, job.attempts) == (JobState.SUCCEEDED, StopReason.STEPS, 3, 1)
        assert job.losses
        assert job.losses.total == pytest.approx(0.5)
        assert job.network
        assert job.network.weights == "builtin"
        assert dispatcher.result(job.job_id).startswith(b"\x89PNG")
        assert dispatcher.running == dispatcher.queued == 0


async def emptied(folder: Path) -> None:
    """Wait until a folder is empty: files of jobs that have ended are removed in a thread."""
    for _ in range(500):
        if not os.listdir(folder):
            return
        await asyncio.sleep(0.01)
    assert os.listdir(folder) == []


async def test_all_files_of_a_checkpoint_go_with_their_job(tmp_path: Path) -> None:
    """The newest, the one before, and their pairs; also those of jobs that an earlier process left behind."""

    def leave(job_id: str) -> None:
        for end in ("", ".previous", ".0123.pairs"):
            (tmp_path / f"{job_id}.checkpoint{end}").write_bytes(b"")

    config = ServerConfig(heartbeat_s=0.05, grace_s=0.5)
    leave("unknown")
    store = MemoryStore(config.retention_s, config.max_ended_jobs, tmp_path)
    async with assembled(config, store, FakeWorker(hang=True)) as dispatcher:
        assert os.listdir(tmp_path) == []
        job = await submit(dispatcher)
        leave(job.job_id)
        dispatcher.cancel(job.job_id)
        await ended(dispatcher, job)
        await emptied(tmp_path)


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_checkpoint_that_was_being_written_when_its_job_was_cancelled_is_removed(tmp_path: Path, deleted: bool) -> None:
    """The worker learns of it after its step, and may have written the file by then; that of a running job stays."""
    config, worker = ServerConfig(heartbeat_s=0.05, grace_s=0.5), FakeWorker(hang=True)
    store = MemoryStore(config.retention_s, config.max_ended_jobs, tmp_path)
    async with assembled(config, store, worker) as dispatcher:
        job = await submit(dispatcher)

        def write() -> None:
            for end in ("", ".0123.pairs"):
                (tmp_path / f"{job.job_id}.checkpoint{end}").write_bytes(b"")
            worker.report(Checkpointed(job.job_id, 9))

        write()
        assert len(os.listdir(tmp_path)) == 2
        dispatcher.cancel(job.job_id)
        await ended(dispatcher, job)
        if deleted:
            dispatcher.delete(job.job_id)
        write()
        await emptied(tmp_path)


async def test_a_job_that_ends_while_the_server_stops_leaves_its_checkpoint_to_the_next_start(tmp_path: Path) -> None:
    """The thread that removes files has ended then."""
    store = MemoryStore(3600.0, 1000, tmp_path)
    async with assembled(ServerConfig(grace_s=0.5), store, FakeWorker(hang=True)) as dispatcher:
        job = await submit(dispatcher)
        (tmp_path / f"{job.job_id}.checkpoint").write_bytes(b"")
        PARTS[dispatcher].table.close()
        dispatcher.cancel(job.job_id)
        await ended(dispatcher, job)
        assert os.listdir(tmp_path) == [f"{job.job_id}.checkpoint"]


async def test_files_that_cannot_be_removed_disturb_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The job ends, and a line says which."""
    config = ServerConfig(heartbeat_s=0.05, grace_s=0.5)
    store = MemoryStore(config.retention_s, config.max_ended_jobs, tmp_path)
    async with assembled(config, store, FakeWorker(hang=True)) as dispatcher:
        job = await submit(dispatcher)
        (tmp_path / f"{job.job_id}.checkpoint").mkdir()
        dispatcher.cancel(job.job_id)
        await ended(dispatcher, job)
    assert f"cannot remove {tmp_path / job.job_id}.checkpoint" in caplog.text


async def test_watching_tells_everything_once_and_in_order() -> None:
    """Snapshot, start, every step, the end last; numbers without gap or duplicate, also when watching resumes."""
    async with dispatching(FakeWorker()) as dispatcher:
        job = await submit(dispatcher, steps=5)
        first = [item async for item in dispatcher.watch(job, 0)]
        assert isinstance(first[0][1], Job)
        numbers = [number for number, event in first[1:] if not isinstance(event, Heartbeat)]
        assert numbers == list(range(1, 8))
        assert isinstance(first[1][1], Started)
        assert [event.step for _, event in first if isinstance(event, Stepped)] == [1, 2, 3, 4, 5]
        assert isinstance(first[-1][1], Ended)
        rest = [number async for number, event in dispatcher.watch(job, 4) if not isinstance(event, Job)]
        assert rest == [5, 6, 7]
        late = [event async for _, event in dispatcher.watch(job, None)]
        assert [type(event) for event in late] == [Job, Ended]


async def test_a_worker_whose_end_is_reported_twice_is_restarted_once() -> None:
    """A second start would let the scheduler forget what the first one runs."""
    worker = FakeWorker(step_s=0.01)
    async with dispatching(worker) as dispatcher:
        worker.die()
        worker.die()
        await asyncio.sleep(0.3)
        job = await submit(dispatcher, steps=30)
        assert (worker.births, dispatcher.get(job.job_id).state) == (2, JobState.RUNNING)
        assert PARTS[dispatcher].supervisor.audit() == []
        assert (await ended(dispatcher, job)).state is JobState.SUCCEEDED


async def test_a_worker_that_dies_after_it_painted_loses_nothing() -> None:
    """The picture is here; the job is not painted again, and is encoded once."""
    worker = FakeWorker(hang=True)
    async with dispatching(worker) as dispatcher:
        job = await submit(dispatcher)
        await asyncio.sleep(0)
        painted = JobPainted(job.job_id, StopReason.STEPS, Raster(32, 24, bytes(32 * 24 * 3)))
        worker.report(painted)
        worker.report(painted)
        worker.die()
        job = await ended(dispatcher, job)
        assert (job.state, job.attempts, job.losses_of_worker) == (JobState.SUCCEEDED, 1, 0)
        assert PARTS[dispatcher].supervisor.audit() == []


async def test_a_job_that_is_deleted_right_after_it_was_painted_is_gone() -> None:
    """And its picture's task ends without an error."""
    worker = FakeWorker(hang=True)
    async with dispatching(worker) as dispatcher:
        job = await submit(dispatcher)
        worker.report(JobPainted(job.job_id, StopReason.STEPS, Raster(32, 24, bytes(32 * 24 * 3))))
        tasks = list(PARTS[dispatcher].table.tasks)
        dispatcher.delete(job.job_id)
        assert await asyncio.gather(*tasks) == [None]
        with pytest.raises(ServiceError):
            dispatcher.get(job.job_id)


async def test_silence_is_filled_with_heartbeats() -> None:
    """They repeat the number before them."""
    async with dispatching(FakeWorker(hang=True)) as dispatcher:
        job = await submit(dispatcher)
        seen = []
        async for number, event in dispatcher.watch(job, None):
            seen.append((number, type(event)))
            if len(seen) == 4:
                break
        assert seen[-2:] == [(1, Heartbeat), (1, Heartbeat)]


async def test_cancelling_works_in_every_state_and_only_once() -> None:
    """Waiting and running jobs end; ended ones stay as they are; the worker is told, and the next job starts."""
    worker = FakeWorker(hang=True)
    async with dispatching(worker, max_running_jobs=1) as dispatcher:
        running, waiting, third = [await submit(dispatcher) for _ in range(3)]
        assert dispatcher.get(waiting.job_id).state is JobState.QUEUED
        assert dispatcher.position(third.job_id) == 1
        assert dispatcher.cancel(waiting.job_id).state is JobState.CANCELLED
        assert dispatcher.cancel(running.job_id).stop_reason is StopReason.CANCELLED
        assert dispatcher.get(third.job_id).state is JobState.RUNNING
        ended_at = dispatcher.get(running.job_id).ended
        assert dispatcher.cancel(running.job_id).ended == ended_at
        with pytest.raises(ServiceError, match="cancelled"):
            dispatcher.result(running.job_id)


async def test_a_job_that_nobody_waits_for_is_cancelled_unless_detached() -> None:
    """A Stylize whose client goes away does not burn the device; a second waiter keeps it alive."""
    async with dispatching(FakeWorker(hang=True)) as dispatcher:
        job = await submit(dispatcher, "r", detached=False)
        first, second = (asyncio.create_task(dispatcher.wait(job)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert dispatcher.get(job.job_id).state is JobState.RUNNING
        second.cancel()
        await asyncio.sleep(0.01)
        assert dispatcher.get(job.job_id).state is JobState.CANCELLED


async def test_a_job_that_was_also_submitted_outlives_the_call_that_waits() -> None:
    """Stylize and SubmitJob under one id: the second was promised that the job goes on."""
    async with dispatching(FakeWorker(hang=True)) as dispatcher:
        job = await submit(dispatcher, "r", detached=False)
        waiting = asyncio.create_task(dispatcher.wait(job))
        await asyncio.sleep(0.01)
        assert (await submit(dispatcher, "r", detached=True)).job_id == job.job_id
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert dispatcher.get(job.job_id).state is JobState.RUNNING


async def test_a_repeated_request_is_the_same_job() -> None:
    """Same id and body: the job that runs; another body: refused with the field's name."""
    async with dispatching(FakeWorker()) as dispatcher:
        job = await submit(dispatcher, "id", "body")
        assert (await submit(dispatcher, "id", "body")).job_id == job.job_id
        with pytest.raises(ServiceError) as caught:
            await submit(dispatcher, "id", "other body")
        assert caught.value.violations[0][0] == "request_id"
        await ended(dispatcher, job)
        assert (await submit(dispatcher, "id", "body")).state is JobState.SUCCEEDED


async def test_a_full_queue_says_so_with_figures() -> None:
    """RESOURCE_EXHAUSTED, how many wait, and when to come back."""
    async with dispatching(FakeWorker(hang=True), max_running_jobs=1, max_queued_jobs=2) as dispatcher:
        for _ in range(3):
            await submit(dispatcher)
        with pytest.raises(ServiceError) as caught:
            await submit(dispatcher)
        assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert caught.value.metadata == {"queued": "2", "running": "1", "limit": "2"}
        assert caught.value.retry_s


async def test_the_jobs_of_a_lost_worker_start_again() -> None:
    """On the next worker, with a new start in the journal; the watcher sees it all."""
    worker = FakeWorker(step_s=0.02)
    async with dispatching(worker) as dispatcher:
        job = await submit(dispatcher)
        await asyncio.sleep(0.03)
        worker.die()
        assert dispatcher.get(job.job_id).state is JobState.QUEUED
        events = [event async for _, event in dispatcher.watch(job, 0)]
        assert [event.attempt for event in events if isinstance(event, Started)] == [1, 2]
        job = dispatcher.get(job.job_id)
        assert (job.state, job.attempts, worker.births) == (JobState.SUCCEEDED, 2, 2)


async def test_a_job_that_kills_its_worker_again_and_again_fails() -> None:
    """After three attempts, with the reason; the server goes on."""
    worker = FakeWorker(hang=True)
    async with dispatching(worker) as dispatcher:
        job = await submit(dispatcher)
        for attempt in range(MAX_LOSSES):
            while dispatcher.get(job.job_id).attempts <= attempt:
                await asyncio.sleep(0.01)
            worker.die("killed by signal 11")
        job = await ended(dispatcher, job)
        assert job.state is JobState.FAILED
        assert job.error
        assert job.error.reason == "WORKER_LOST"
        assert "signal 11" in job.error.message
        worker.hang = False
        while not dispatcher.accepting:
            await asyncio.sleep(0.01)
        assert (await ended(dispatcher, await submit(dispatcher))).state is JobState.SUCCEEDED


async def test_a_lost_host_fails_no_job_however_often() -> None:
    """Its jobs wait again without blame, may share a worker, and end with their picture."""
    worker = FakeWorker(hang=True)
    async with dispatching(worker, max_running_jobs=2) as dispatcher:
        jobs = [await submit(dispatcher) for _ in range(2)]
        reports = PARTS[dispatcher].pool._receiver
        for _ in range(MAX_LOSSES + 1):
            reports.on_lost("cpu", "its host was lost", blame=False)
            assert [dispatcher.get(job.job_id).state for job in jobs] == [JobState.QUEUED] * 2
            worker.hang = False
            await worker.stop()
            reports.on_ready("cpu")
            assert dispatcher.running == 2
            assert PARTS[dispatcher].supervisor.audit() == []
        for job in jobs:
            done = await ended(dispatcher, job)
            assert (done.state, done.losses_of_worker) == (JobState.SUCCEEDED, 0)


async def test_a_failed_job_carries_the_workers_reason() -> None:
    """And leaves no trace in the queue."""
    async with dispatching(FakeWorker(fail_with=("OUT_OF_MEMORY", "too large"))) as dispatcher:
        job = await ended(dispatcher, await submit(dispatcher))
        assert job.state is JobState.FAILED
        assert job.error
        assert (job.error.reason, dispatcher.running) == ("OUT_OF_MEMORY", 0)


async def test_a_picture_that_cannot_be_encoded_fails_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of leaving it running for ever."""

    def refuse(*_: object) -> bytes:
        raise OSError("broken encoder")

    monkeypatch.setattr("impasto_server.pictures.images.encode", refuse)
    async with dispatching(FakeWorker()) as dispatcher:
        job = await ended(dispatcher, await submit(dispatcher))
        assert job.error
        assert (job.state, job.error.reason) == (JobState.FAILED, "ENCODE_ERROR")


async def test_without_a_ready_worker_nothing_is_accepted() -> None:
    """UNAVAILABLE with a time to come back."""
    async with dispatching(FakeWorker(ready=False)) as dispatcher:
        assert not dispatcher.accepting
        with pytest.raises(ServiceError) as caught:
            await submit(dispatcher)
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "STARTING")


async def test_draining_lets_jobs_end_and_cancels_those_that_do_not() -> None:
    """No new ones; what ends within the grace time has its picture, the rest is cancelled."""
    slow = FakeWorker("slow", hang=True)
    async with dispatching(FakeWorker("quick", step_s=0.02), slow, max_running_jobs=1, grace_s=0.3) as dispatcher:
        jobs = [await submit(dispatcher) for _ in range(2)]
        draining = asyncio.create_task(PARTS[dispatcher].shutdown.drain())
        await asyncio.sleep(0.01)
        with pytest.raises(ServiceError, match="shutting down"):
            await submit(dispatcher)
        await asyncio.wait_for(draining, 2)
        states = {dispatcher.get(job.job_id).state for job in jobs}
        assert states == {JobState.SUCCEEDED, JobState.CANCELLED}


async def test_jobs_share_a_device_up_to_its_slots() -> None:
    """Three at once where three may; the others wait."""
    worker = FakeWorker(step_s=0.01)
    async with dispatching(worker, max_running_jobs=3) as dispatcher:
        jobs = [await submit(dispatcher) for _ in range(7)]
        assert dispatcher.queued == 4
        for job in jobs:
            assert (await ended(dispatcher, job)).state is JobState.SUCCEEDED
        assert worker.most_at_once == 3


async def test_a_job_of_higher_priority_takes_the_place_of_a_running_one() -> None:
    """Which waits, goes on at its step afterwards, and tells its watchers; that does not count as another attempt."""
    async with dispatching(FakeWorker(step_s=0.01), max_running_jobs=1) as dispatcher:
        job = await submit(dispatcher, steps=20)
        await asyncio.sleep(0.05)
        urgent = await submit(dispatcher, steps=2, priority=1)
        assert (await ended(dispatcher, urgent)).state is JobState.SUCCEEDED
        waiting = dispatcher.get(job.job_id)
        assert waiting.preemptions == 1
        assert 0 < waiting.step < 20
        events = [event async for _, event in dispatcher.watch(job, 0)]
        assert [event.step for event in events if isinstance(event, Stepped)] == list(range(1, 21))
        paused = next(event for event in events if isinstance(event, Paused))
        starts = [event for event in events if isinstance(event, Started)]
        assert [(start.attempt, start.step) for start in starts] == [(1, 0), (1, paused.step)]
        job = dispatcher.get(job.job_id)
        assert (job.state, job.attempts, job.step) == (JobState.SUCCEEDED, 1, 20)


async def test_a_job_can_be_cancelled_while_it_makes_room() -> None:
    """Between being asked to leave and having left; the other one starts all the same, and no file stays."""
    async with dispatching(FakeWorker(step_s=0.01), max_running_jobs=1) as dispatcher:
        job = await submit(dispatcher, steps=500)
        await asyncio.sleep(0.03)
        urgent = await submit(dispatcher, steps=2, priority=1)
        dispatcher.cancel(job.job_id)
        assert (await ended(dispatcher, urgent)).state is JobState.SUCCEEDED
        again = await submit(dispatcher, steps=500)
        await asyncio.sleep(0.03)
        urgent = await submit(dispatcher, steps=30, priority=1)
        await asyncio.sleep(0.03)
        assert dispatcher.get(again.job_id).state is JobState.QUEUED
        dispatcher.cancel(again.job_id)
        assert (await ended(dispatcher, urgent)).state is JobState.SUCCEEDED


async def test_a_running_job_is_paused_and_goes_on() -> None:
    """It gives its place away, keeps its steps, and does them once."""
    async with dispatching(FakeWorker(step_s=0.01), max_running_jobs=1) as dispatcher:
        job = await submit(dispatcher, steps=20)
        await asyncio.sleep(0.05)
        dispatcher.pause(job.job_id)
        assert (await ended(dispatcher, await submit(dispatcher))).state is JobState.SUCCEEDED
        paused = dispatcher.get(job.job_id)
        assert (paused.state, paused.device) == (JobState.PAUSED, "")
        assert 0 < paused.step < 20
        assert dispatcher.pause(job.job_id).state is JobState.PAUSED
        assert dispatcher.resume(job.job_id).state is JobState.RUNNING
        assert (await ended(dispatcher, job)).state is JobState.SUCCEEDED
        events = [event async for _, event in dispatcher.watch(job, 0)]
        assert [event.step for event in events if isinstance(event, Stepped)] == list(range(1, 21))
        assert [event.reason for event in events if isinstance(event, Paused)] == [PauseReason.REQUESTED]
        assert dispatcher.get(job.job_id).attempts == 1
        assert dispatcher.resume(job.job_id).state is JobState.SUCCEEDED
        assert dispatcher.pause(job.job_id).state is JobState.SUCCEEDED


async def test_a_waiting_job_is_paused_at_once_and_a_paused_one_can_be_cancelled() -> None:
    """Nothing of it runs meanwhile."""
    async with dispatching(FakeWorker(hang=True), max_running_jobs=1) as dispatcher:
        await submit(dispatcher)
        jobs = [await submit(dispatcher) for _ in range(2)]
        assert dispatcher.pause(jobs[0].job_id).state is JobState.PAUSED
        assert dispatcher.queued == 1
        assert dispatcher.resume(jobs[0].job_id).state is JobState.QUEUED
        assert [dispatcher.position(job.job_id) for job in jobs] == [0, 1]
        dispatcher.pause(jobs[0].job_id)
        assert dispatcher.cancel(jobs[0].job_id).state is JobState.CANCELLED


async def test_a_deleted_job_is_gone() -> None:
    """Whatever it did; with its request id and its picture."""
    async with dispatching(FakeWorker(), max_running_jobs=1) as dispatcher:
        job = await submit(dispatcher, "id")
        await ended(dispatcher, job)
        other = await submit(dispatcher, steps=1000)
        for gone in (job, other):
            dispatcher.delete(gone.job_id)
            with pytest.raises(ServiceError, match="there is no job"):
                dispatcher.get(gone.job_id)
        assert (dispatcher.running, dispatcher.queued) == (0, 0)
        assert (await submit(dispatcher, "id", "another body")).job_id != job.job_id


async def test_a_job_can_be_deleted_while_its_picture_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it comes back."""
    encoding, going_on = threading.Event(), threading.Event()

    def slow(*_: object) -> bytes:
        encoding.set()
        going_on.wait(5)
        return b"picture"

    monkeypatch.setattr("impasto_server.pictures.images.encode", slow)
    async with dispatching(FakeWorker()) as dispatcher:
        job = await submit(dispatcher)
        await asyncio.to_thread(encoding.wait, 5)
        dispatcher.delete(job.job_id)
        going_on.set()
        await asyncio.sleep(0.05)
        assert dispatcher.page(None, 10) == []
        assert not PARTS[dispatcher].table.tasks


async def test_a_time_limit_fires_while_a_job_waits() -> None:
    """Not when its turn comes at last."""
    async with dispatching(FakeWorker(hang=True), max_running_jobs=1) as dispatcher:
        await submit(dispatcher)
        job = await submit(dispatcher, time_limit_s=0.05, return_best=True)
        job = await asyncio.wait_for(ended(dispatcher, job), 1)
        assert job.error
        assert (job.state, job.error.reason, job.stop_reason) == (JobState.FAILED, "DEADLINE_EXCEEDED", StopReason.DEADLINE)
        assert "before its first step" in job.error.message


@pytest.mark.parametrize("best", [True, False])
async def test_at_the_time_limit_the_best_picture_is_there_for_who_wants_it(best: bool) -> None:
    """Else the job fails and says how far it was."""
    async with dispatching(FakeWorker(step_s=0.01)) as dispatcher:
        job = await submit(dispatcher, steps=10_000, time_limit_s=0.1, return_best=best)
        job = await asyncio.wait_for(ended(dispatcher, job), 2)
        assert job.stop_reason is StopReason.DEADLINE
        assert 0 < job.step < 10_000
        if best:
            assert job.state is JobState.SUCCEEDED
            assert dispatcher.result(job.job_id)
        else:
            assert job.error
            assert "of 10000 steps" in job.error.message


async def test_a_paused_job_that_has_steps_has_its_best_picture_at_the_time_limit() -> None:
    """Taken from its checkpoint by the next worker with room, before all that wait; one without a step fails."""
    async with dispatching(FakeWorker(step_s=0.01), max_running_jobs=1) as dispatcher:
        job = await submit(dispatcher, steps=10_000, time_limit_s=0.2, return_best=True)
        while not dispatcher.get(job.job_id).step:
            await asyncio.sleep(0.01)
        dispatcher.pause(job.job_id)
        running, waiting = await submit(dispatcher, steps=30), await submit(dispatcher, steps=1, priority=5)
        job = await ended(dispatcher, job)
        assert (job.state, job.stop_reason) == (JobState.SUCCEEDED, StopReason.DEADLINE)
        assert dispatcher.result(job.job_id)
        await ended(dispatcher, running)
        await ended(dispatcher, waiting)


async def test_a_job_that_was_to_pause_or_end_does_so_though_its_worker_dies() -> None:
    """What was asked for is not forgotten with the worker that was asked."""
    worker = FakeWorker(step_s=0.01)
    async with dispatching(worker, max_running_jobs=2) as dispatcher:
        worker.deaf = True
        pausing = await submit(dispatcher, steps=1000)
        ending = await submit(dispatcher, steps=1000, time_limit_s=0.1, return_best=True)
        await asyncio.sleep(0.2)
        dispatcher.pause(pausing.job_id)
        worker.deaf = False
        worker.die()
        assert dispatcher.get(pausing.job_id).state is JobState.PAUSED
        job = await asyncio.wait_for(ended(dispatcher, ending), 2)
        assert (job.state, job.stop_reason) == (JobState.SUCCEEDED, StopReason.DEADLINE)
        dispatcher.cancel(pausing.job_id)


async def test_a_job_that_no_device_could_hold_is_refused_with_figures() -> None:
    """By what the job needs against what the largest device has."""
    async with dispatching(FakeWorker(free_bytes=200 << 20)) as dispatcher:
        await submit(dispatcher)
        with pytest.raises(ServiceError, match=r"640 x 480 px needs about \d+ MiB") as caught:
            await submit(dispatcher, width=640, height=480)
        assert caught.value.violations[0][0] == "parameters.size_px"


async def test_a_moment_of_little_memory_refuses_no_job() -> None:
    """A job is refused if the device could never hold it; one that it could hold waits until there is room."""
    worker = FakeWorker(free_bytes=4 << 30)
    async with dispatching(worker) as dispatcher:
        worker.report(Alive(0.0, 100 << 20))
        job = await submit(dispatcher, width=256, height=256)
        await asyncio.sleep(0.05)
        assert dispatcher.get(job.job_id).state is JobState.QUEUED
        worker.report(Alive(0.0, 4 << 30))
        assert (await ended(dispatcher, job)).state is JobState.SUCCEEDED


async def test_what_a_pass_was_seen_to_take_counts_for_the_next_jobs() -> None:
    """A job that would have fitted by the first guess is refused when the device has shown that it takes more."""
    size = {"width": 256, "height": 256}
    demand = MemoryModel().demand(spec(**size), "float32")
    worker = FakeWorker(free_bytes=round((demand.held + demand.passing) * 1.3))
    async with dispatching(worker) as dispatcher:
        await submit(dispatcher, **size)
        for _ in range(3):
            worker.report(PassMeasured("float32", 256 * 256, round(1.6 * MemoryModel().pass_bytes("float32", 256 * 256))))
        with pytest.raises(ServiceError, match="MiB"):
            await submit(dispatcher, **size)


async def test_ended_jobs_are_forgotten_in_time() -> None:
    """And asking for one says what may have happened."""
    async with dispatching(FakeWorker(), max_ended_jobs=1) as dispatcher:
        first = await ended(dispatcher, await submit(dispatcher))
        await ended(dispatcher, await submit(dispatcher))
        PARTS[dispatcher].supervisor.expire()
        with pytest.raises(ServiceError, match="has expired") as caught:
            dispatcher.get(first.job_id)
        assert caught.value.resource == ("impasto.v1.Job", first.job_id)
