"""What the worker does beside its steps, and on a device that fails or has no memory: fakes on the CPU."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from impasto_engine import devices, painting
from impasto_engine.batch import RunningBatch
from impasto_engine.networks import Network
from impasto_engine.objective import StackedObjectives
from impasto_server.domain.job import JobSpec
from impasto_server.workers import main, saving
from impasto_server.workers import worker as worker_module
from impasto_server.workers.failures import DeviceLostError
from impasto_server.workers.lanes import Lanes, TimeShare
from impasto_server.workers.main import DEVICE_LOST, worker_main
from impasto_server.workers.messages import (
    Cancel,
    CannotStart,
    Checkpointed,
    Finish,
    JobFailed,
    JobPainted,
    JobParked,
    JobStarted,
    JobStepped,
    Park,
    PassMeasured,
    Report,
    Start,
    WorkerSettings,
)
from impasto_server.workers.running import Preparation
from impasto_server.workers.worker import Worker
from tests.conftest import ROOT
from tests.unit.server.workers.test_worker import network, run, spec

__all__ = ["network"]
Work = Callable[[], None]


def of_jobs(reports: list[Report]) -> list[Report]:
    return [report for report in reports if not isinstance(report, (PassMeasured, Checkpointed))]


def steps_of(reports: list[Report], job_id: str = "a") -> list[int]:
    return [report.step for report in reports if isinstance(report, JobStepped) and report.job_id == job_id]


def pictures(reports: list[Report]) -> dict[str, object]:
    return {report.job_id: report.picture for report in reports if isinstance(report, JobPainted)}


def alone(network: Network, job: JobSpec) -> object:
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", job))
    run(worker)
    return pictures(reports)["a"]


def dead(*_: object, **__: object) -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_dead_device_ends_the_worker_and_blames_no_job(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later call would fail too: the error leaves the loop, and no job is reported as failed."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", spec()))
    monkeypatch.setattr(StackedObjectives, "evaluate", dead)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        worker.step()
    assert not any(isinstance(report, JobFailed) for report in reports)


@pytest.mark.parametrize("where", ["preview", "picture"])
def test_a_device_that_dies_beside_the_steps_ends_the_worker(
    network: Network, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """While a preview or a picture is made on another thread: the stepping thread is woken, also if it has nothing to do."""
    reports: list[Report] = []
    lane: list[Work] = []
    posted: list[Preparation] = []
    worker = Worker(network, reports.append, Lanes(report=lane.append), post=posted.append)
    worker.handle(Start("a", spec(2, preview_every_steps=1)))
    worker.handle(posted.pop())
    worker.step()
    if where == "picture":
        worker.step()
        assert worker.waiting
    monkeypatch.setattr(painting, "finished", dead)
    for work in lane:
        work()
    (wake,) = posted[:1]
    assert not worker.waiting
    with pytest.raises(DeviceLostError):
        worker.handle(wake)
    with pytest.raises(DeviceLostError):
        worker.step()
    assert not any(isinstance(report, JobFailed) for report in reports)


def test_an_error_after_which_the_device_does_not_answer_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kind it is; without that, and on a CPU, it is an error of the job."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    error = RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    assert not devices.is_lost(error, gpu)
    monkeypatch.setattr(torch.cuda, "synchronize", dead)
    assert devices.is_lost(error, gpu)
    assert not devices.is_lost(error, cpu)


def dying(connection: Connection, settings: WorkerSettings) -> None:
    """Run a worker whose device dies at the first step of a job."""
    prepared = Worker._join

    def join(self: Worker, *args: object) -> None:
        prepared(self, *args)  # type: ignore[arg-type]
        StackedObjectives.evaluate = dead  # type: ignore[method-assign, assignment]

    Worker._join = join  # type: ignore[method-assign, assignment]
    worker_main(connection, settings)


@pytest.mark.slow
def test_the_process_of_a_dead_device_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own status, although its other threads still run; the pool starts it again and its jobs go on."""
    monkeypatch.syspath_prepend(str(ROOT))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=dying, args=(theirs, WorkerSettings("cpu", "builtin")))
    process.start()
    theirs.close()
    ours.send(Start("a", spec()))
    heard = list(received(ours))
    process.join(60)
    assert process.exitcode == DEVICE_LOST
    assert any(isinstance(report, JobStarted) for report in heard)
    assert not any(isinstance(report, JobFailed) for report in heard)


def received(connection: Connection) -> Iterator[Report]:
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield connection.recv()


def test_a_device_that_cannot_be_set_up_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, with its message: a process that ended without a word would be started again for ever."""
    monkeypatch.setattr(main, "prepare", dead)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    ours, theirs = multiprocessing.Pipe()
    worker_main(theirs, WorkerSettings("cpu", "builtin"))
    report = ours.recv()
    assert isinstance(report, CannotStart)
    assert "illegal memory access" in report.message


@pytest.mark.parametrize("end", ["park", "finish", "next level"])
def test_no_step_is_missing_when_reports_are_late(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """As on a GPU: every step is reported once and in order, also those that were not read when the job left its batch."""
    monkeypatch.setattr(worker_module, "RunningBatch", partial(RunningBatch, lag=1))
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    levels = 2 if end == "next level" else 1
    job = replace(spec(8), parameters=replace(spec(8).parameters, levels=levels))
    worker.handle(Start("a", job, str(tmp_path / "a")))
    for _ in range(3):
        worker.step()
    if end == "park":
        worker.handle(Park("a"))
        assert steps_of(reports) == [1, 2, 3]
        assert reports[-1] == JobParked("a", 3)
        worker.handle(Start("a", job, str(tmp_path / "a")))
    elif end == "finish":
        worker.handle(Finish("a"))
        assert steps_of(reports) == [1, 2, 3]
        assert isinstance(reports[-1], JobPainted)
        return
    run(worker)
    assert steps_of(reports) == list(range(1, 9))
    monkeypatch.undo()
    assert pictures(reports)["a"] == alone(network, job)


def test_late_previews_show_the_step_that_they_come_with(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """With reports a step late, they are the same files as with reports on time."""
    found = []
    for lag in (0, 1):
        monkeypatch.setattr(worker_module, "RunningBatch", partial(RunningBatch, lag=lag))
        reports: list[Report] = []
        worker = Worker(network, reports.append)
        worker.handle(Start("a", spec(5, preview_every_steps=2, preview_size_px=32)))
        run(worker)
        found.append([report.preview for report in reports if isinstance(report, JobStepped)])
    assert found[0] == found[1]
    assert [preview is not None for preview in found[0]] == [False, True, False, True, False]


def test_others_step_on_while_a_job_is_prepared(network: Network) -> None:
    """Its targets are computed on another thread; it joins between two steps, and all pictures are those of jobs alone."""
    reports: list[Report] = []
    lane: list[Work] = []
    posted: list[Preparation] = []
    worker = Worker(network, reports.append, Lanes(prepare=lane.append), post=posted.append)
    worker.handle(Start("a", spec(4)))
    assert worker.waiting
    assert not worker.idle
    lane.pop()()
    worker.handle(posted.pop())
    worker.step()
    worker.handle(Start("b", spec(3)))
    worker.step()
    worker.step()
    assert steps_of(reports) == [1, 2, 3]
    lane.pop()()
    assert steps_of(reports, "b") == []
    worker.handle(posted.pop())
    run(worker)
    assert steps_of(reports, "b") == [1, 2, 3]
    assert pictures(reports) == {"a": alone(network, spec(4)), "b": alone(network, spec(3))}


@pytest.mark.parametrize("command", [Cancel, Park, Finish])
def test_commands_for_a_job_that_is_being_prepared_are_kept(
    network: Network, tmp_path: Path, command: type[Cancel] | type[Park] | type[Finish]
) -> None:
    """A cancelled job never joins; one that must leave or end does so once it has joined, and nobody waits for an answer."""
    reports: list[Report] = []
    lane: list[Work] = []
    posted: list[Preparation] = []
    worker = Worker(network, reports.append, Lanes(prepare=lane.append), post=posted.append)
    worker.handle(Start("a", spec(4), str(tmp_path / "a")))
    worker.handle(command("a"))
    lane.pop()()
    worker.handle(posted.pop())
    assert worker.idle
    kinds = [type(report) for report in reports]
    assert kinds == {Cancel: [], Park: [JobStarted, JobParked], Finish: [JobStarted, JobPainted]}[command]


def test_previews_and_pictures_wait_for_no_step_and_stay_in_order(network: Network) -> None:
    """On a thread of their own: the steps go on; a preview is left out while the one before is being made."""
    reports: list[Report] = []
    lane: list[Work] = []
    worker = Worker(network, reports.append, Lanes(report=lane.append))
    worker.handle(Start("a", spec(4, preview_every_steps=1, preview_size_px=32)))
    for _ in range(4):
        worker.step()
    assert worker.idle
    assert of_jobs(reports) == []
    for work in lane:
        work()
    found = of_jobs(reports)
    assert [type(report) for report in found] == [JobStarted, *[JobStepped] * 4, JobPainted]
    assert steps_of(found) == [1, 2, 3, 4]
    assert [bool(report.preview) for report in found if isinstance(report, JobStepped)] == [True, False, False, False]
    painted = found[-1]
    assert isinstance(painted, JobPainted)
    assert painted.picture == alone(network, spec(4))


def test_all_jobs_share_the_time_for_checkpoints(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen jobs do not take sixteen times as much: one is written at a time, the one that waited longest first."""
    written: list[str] = []
    share = [TimeShare(0.0)]
    monkeypatch.setattr(saving, "TimeShare", lambda _factor: share[0])
    monkeypatch.setattr(TimeShare, "open", property(lambda _: len(written) < 4))
    monkeypatch.setattr(saving.checkpoints, "write", lambda path, *_: written.append(Path(path).name) or 1)
    worker = Worker(network, lambda _: None, checkpoint_interval_s=0.0)
    for name in ("a", "b", "c"):
        worker.handle(Start(name, spec(9), str(tmp_path / name)))
    for number in range(1, 7):
        worker.step()
        assert len(written) == min(number, 4)
    assert sorted(written[:3]) == ["a", "b", "c"]


def test_the_share_of_time_holds_for_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs add up, whoever caused them."""
    now = [100.0]
    monkeypatch.setattr("impasto_server.workers.lanes.time.monotonic", lambda: now[0])
    share = TimeShare(50)
    assert share.open
    share.charge(0.1)
    share.charge(0.2)
    now[0] = 114.9
    assert not share.open
    now[0] = 115.1
    assert share.open


@pytest.mark.parametrize("times", [1, 2])
def test_a_job_without_memory_for_its_targets_is_prepared_once_more(
    network: Network, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """After what can be freed has been freed; if that does not help, it fails alone."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("stays", spec(3)))
    features = Network.features
    left = [times]

    def scarce(self: Network, *args: object, **more: object) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "features", scarce)
    worker.handle(Start("a", spec(3)))
    run(worker)
    failed = [(report.job_id, report.reason) for report in reports if isinstance(report, JobFailed)]
    assert failed == ([("a", "OUT_OF_MEMORY")] if times == 2 else [])
    assert set(pictures(reports)) == ({"stays"} if times == 2 else {"stays", "a"})


def test_a_preview_has_the_colours_of_its_canvas(network: Network) -> None:
    """The last preview of a job is nearly its picture."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", spec(2, preview_every_steps=2, preview_size_px=64)))
    run(worker)
    last = [report for report in reports if isinstance(report, JobStepped)][-1]
    painted = reports[-1]
    assert isinstance(painted, JobPainted)
    assert isinstance(painted.picture.rgb, bytes)
    picture = np.frombuffer(painted.picture.rgb, np.uint8).reshape(24, 32, 3).astype(float)
    with Image.open(io.BytesIO(last.preview or b"")) as opened:
        shown = np.asarray(opened.convert("RGB")).astype(float)
    assert abs(shown.mean(axis=(0, 1)) - picture.mean(axis=(0, 1))).max() < 6


def test_what_another_thread_made_is_handed_over(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a job brings with it: else its memory could be used again while steps still read it."""
    given: set[int] = set()
    monkeypatch.setattr(worker_module, "hand_over", lambda tensors: given.update(tensor.data_ptr() for tensor in tensors))
    lane: list[Work] = []
    posted: list[Preparation] = []
    worker = Worker(network, lambda _: None, Lanes(prepare=lane.append), post=posted.append)
    worker.handle(Start("a", spec()))
    lane.pop()()
    (preparation,) = posted
    assert preparation.ready is not None
    entrant = preparation.ready.entrant
    worker.handle(preparation)
    content = [target.features for target in entrant.objective.content.values()]
    style = [target.value for region in entrant.objective.style for target in region.values()]
    filters = [part for parts in network._filters["float32"].values() for part in parts]
    assert content
    assert style
    assert {tensor.data_ptr() for tensor in (*content, *style, *filters, *entrant.state.values())} <= given
