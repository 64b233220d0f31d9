"""The worker driven by hand, with the real engine at a tiny size."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from impasto_engine import painting
from impasto_engine.networks import Network
from impasto_engine.parameters import Parameters
from impasto_engine.samples import Step
from impasto_engine.weights import load_network
from impasto_server.domain.job import JobSpec, OutputOptions, StopReason, StylePicture
from impasto_server.domain.pictures import Raster
from impasto_server.pictures.images import open_image
from impasto_server.workers.checkpoint_format import MAGIC, MAGIC_PARTS
from impasto_server.workers.lanes import Lanes, TimeShare
from impasto_server.workers.messages import (
    Cancel,
    Finish,
    Inspect,
    Inspected,
    JobFailed,
    JobPainted,
    JobParked,
    JobStarted,
    JobStepped,
    Park,
    PassMeasured,
    Report,
    Start,
    checkpoint_files,
)
from impasto_server.workers.worker import Worker


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network("builtin", torch.device("cpu"))


def raster(seed: int, width: int = 32, height: int = 24) -> Raster:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Raster(width, height, pixels.numpy().tobytes())


def spec(steps: int = 3, **output: object) -> JobSpec:
    parameters = Parameters(steps=steps, precision="float32", size_px=32)
    style = StylePicture(raster(2), 1.0, "digest")
    return JobSpec(32, 24, raster(1), (style,), parameters, OutputOptions(**output))


def run(worker: Worker, limit: int = 30) -> None:
    for _ in range(limit):
        if worker.idle:
            return
        worker.step()
    raise AssertionError("the worker is still busy")


def test_a_job_is_reported_from_start_to_picture(network: Network) -> None:
    """Started, each step with its losses, the picture last and at its size."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", spec()))
    run(worker)
    kinds = [type(report) for report in reports if not isinstance(report, PassMeasured)]
    assert kinds == [JobStarted, JobStepped, JobStepped, JobStepped, JobPainted]
    assert [report.pixels for report in reports if isinstance(report, PassMeasured)] == [32 * 24]
    steps = [report for report in reports if isinstance(report, JobStepped)]
    assert [report.step for report in steps] == [1, 2, 3]
    assert steps[-1].losses.total < steps[0].losses.total
    assert steps[-1].remaining_s == 0
    painted = reports[-1]
    assert isinstance(painted, JobPainted)
    assert painted.stop_reason is StopReason.STEPS
    assert len(painted.picture.rgb) == 32 * 24 * 3


def test_previews_come_when_asked_for_and_no_larger(network: Network) -> None:
    """Every second step, at most 20 px."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", spec(4, preview_every_steps=2, preview_size_px=20)))
    run(worker)
    previews = [report.preview for report in reports if isinstance(report, JobStepped)]
    assert [bool(preview) for preview in previews] == [False, True, False, True]
    assert previews[1]
    assert max(open_image(previews[1], 10_000).size) == 20


def test_jobs_join_and_leave_between_steps(network: Network) -> None:
    """A cancelled job does nothing more; another size runs beside; the pictures are those of jobs alone."""
    alone: list[Report] = []
    worker = Worker(network, alone.append)
    worker.handle(Start("a", spec(4)))
    run(worker)
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    wide = replace(spec(2), width=48, height=24, content=raster(3, 48, 24))
    worker.handle(Start("a", spec(4)))
    worker.step()
    worker.handle(Start("b", spec(9)))
    worker.handle(Start("wide", wide))
    worker.step()
    worker.handle(Cancel("b"))
    worker.handle(Cancel("never heard of"))
    run(worker)
    assert max(report.step for report in reports if isinstance(report, JobStepped) and report.job_id == "b") == 1
    pictures = {report.job_id: report.picture for report in reports if isinstance(report, JobPainted)}
    assert pictures.keys() == {"a", "wide"}
    assert pictures["a"] == next(report.picture for report in alone if isinstance(report, JobPainted))


@pytest.mark.parametrize("disk", ["well", "full", "damaged"])
def test_a_parked_job_goes_on_at_its_step(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str) -> None:
    """And ends in the same picture as one left alone; without a disk its state is kept in memory, a bad file starts it over."""
    alone: list[Report] = []
    worker = Worker(network, alone.append)
    worker.handle(Start("a", spec(5)))
    run(worker)
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    path = tmp_path / "a"
    worker.handle(Start("a", spec(5), str(path)))
    worker.step()
    worker.step()
    with monkeypatch.context() as patch:
        if disk == "full":
            patch.setattr("impasto_server.workers.checkpoints.write", full_disk)
        worker.handle(Park("a"))
        worker.handle(Park("never heard of"))
    assert reports[-1] == JobParked("a", 2)
    assert worker.idle
    assert path.exists() is (disk != "full")
    if disk == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    reports.clear()
    worker.handle(Start("a", spec(5), str(path)))
    run(worker)
    first = 0 if disk == "damaged" else 2
    assert isinstance(reports[0], JobStarted)
    assert reports[0].step == first
    assert ("damaged" in reports[0].note) is (disk == "damaged")
    steps = [report for report in reports if isinstance(report, JobStepped)]
    assert [report.step for report in steps] == list(range(first + 1, 6))
    pictures = [report.picture for report in (*alone, *reports) if isinstance(report, JobPainted)]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_the_state_of_a_running_job_is_written_now_and_then(network: Network, tmp_path: Path) -> None:
    """The newest and the one before; whoever goes on from either ends in the same picture; nothing is left at the end."""
    path = tmp_path / "a"
    reports: list[Report] = []
    worker = Worker(network, reports.append, checkpoint_interval_s=0.0)
    worker.handle(Start("a", spec(8), str(path)))
    for _ in range(6):
        time.sleep(0.4)  # it may take a fiftieth of the time
        worker.step()
    newest, before = (file.read_bytes() for file in checkpoint_files(path))
    pictures = []
    for found in (newest, before, newest[:-1]):
        path.write_bytes(found)
        again: list[Report] = []
        other = Worker(network, again.append)
        other.handle(Start("a", spec(8), str(path)))
        run(other)
        assert isinstance(again[0], JobStarted)
        assert 0 < again[0].step < 8
        assert bool(again[0].note) is (found == newest[:-1])
        pictures.append(again[-1])
    run(worker)
    assert pictures == [reports[-1]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("parameters", [{"history": 2}, {"history": 2, "levels": 2}, {"history": 50}, {"optimizer": "adam"}])
def test_two_resumptions_in_a_row_change_nothing(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], *, whole: bool
) -> None:
    """A job whose state is written at each step, whose worker is lost twice, ends in the picture of one left alone."""
    monkeypatch.setattr(TimeShare, "open", True)
    job = replace(spec(11), parameters=replace(spec(11).parameters, **parameters))
    alone: list[Report] = []
    worker = Worker(network, alone.append)
    worker.handle(Start("a", job))
    run(worker)
    path = tmp_path / "a"
    for first, steps in ((0, 4), (4, 4), (8, 9)):
        reports: list[Report] = []
        worker = Worker(network, reports.append, checkpoint_interval_s=0.0, whole_checkpoints=whole)
        worker.handle(Start("a", job, str(path)))
        for _ in range(steps):
            worker.step()
        started = next(report for report in reports if isinstance(report, JobStarted))
        assert (started.step, started.note) == (first, "")
        magic = MAGIC if whole or "optimizer" in parameters else MAGIC_PARTS
        assert path.read_bytes().startswith(magic)
        files = [2] if magic == MAGIC else [3, 4]  # the one before may be of another level, with pairs of its own
        assert len(list(tmp_path.iterdir())) in files
    painted = [report for report in (*alone, *reports) if isinstance(report, JobPainted)]
    assert painted[0].picture == painted[1].picture


def test_a_job_that_is_parked_while_its_state_is_written_goes_on_from_there(network: Network, tmp_path: Path) -> None:
    """The state that is written first is not needed then, but the pairs in it are."""
    work: list[Callable[[], None]] = []
    path = tmp_path / "a"
    reports: list[Report] = []
    worker = Worker(network, reports.append, Lanes(write=work.append), checkpoint_interval_s=0.0)
    worker.handle(Start("a", spec(5), str(path)))
    worker.step()
    worker.step()
    worker.handle(Park("a"))
    assert len(work) == 2
    for write in work:
        write()
        assert path.exists()
    assert reports[-1] == JobParked("a", 2)
    worker.handle(Start("a", spec(5), str(path)))
    assert isinstance(reports[-1], JobStarted)
    assert (reports[-1].step, reports[-1].note) == (2, "")


def test_no_state_is_left_of_a_job_that_ended_while_it_was_written(network: Network, tmp_path: Path) -> None:
    """As when the disk is slower than the last steps."""
    work: list[Callable[[], None]] = []
    path = tmp_path / "a"
    worker = Worker(network, lambda _: None, Lanes(write=work.append), checkpoint_interval_s=0.0)
    worker.handle(Start("a", spec(3), str(path)))
    run(worker)
    for write in work:
        write()
    assert work
    assert list(tmp_path.iterdir()) == []


def test_a_job_can_be_finished_as_it_stands(network: Network) -> None:
    """At any level, at its full size, with the reason."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", replace(spec(10), parameters=replace(spec(10).parameters, levels=2))))
    worker.step()
    worker.handle(Finish("a"))
    worker.handle(Finish("never heard of"))
    assert worker.idle
    painted = reports[-1]
    assert isinstance(painted, JobPainted)
    assert (painted.stop_reason, painted.picture.width, painted.picture.height) == (StopReason.DEADLINE, 32, 24)


@pytest.mark.slow
@pytest.mark.parametrize("parked_after", [None, 2, 4, 6])
def test_a_job_is_painted_from_coarse_to_fine(network: Network, tmp_path: Path, parked_after: int | None) -> None:
    """Also when it is parked at any level, or at the step between two; time left counts pixels, not steps."""
    job = replace(spec(10), parameters=replace(spec(10).parameters, levels=2))
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", job, str(tmp_path / "a")))
    for step in range(1, 11):
        worker.step()
        if step == parked_after:
            worker.handle(Park("a"))
            assert worker.idle
            worker.handle(Start("a", job, str(tmp_path / "a")))
    steps = [report for report in reports if isinstance(report, JobStepped)]
    assert [report.step for report in steps] == list(range(1, 11))
    if parked_after is None:
        assert steps[0].remaining_s > 12 * steps[0].elapsed_s
    (painted,) = (report for report in reports if isinstance(report, JobPainted))
    assert (painted.picture.width, painted.picture.height) == (32, 24)
    alone: list[Report] = []
    worker = Worker(network, alone.append)
    worker.handle(Start("a", job))
    run(worker)
    assert painted == alone[-1]


@pytest.mark.parametrize("parked_after", [2, 5, 8])
def test_a_job_goes_on_at_its_size_though_another_version_divides_its_steps_otherwise(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parked_after: int
) -> None:
    """At the coarse size, at the fine size before the new end of the coarse one, and after it."""
    job = replace(spec(10), parameters=replace(spec(10).parameters, levels=2))
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    monkeypatch.setattr("impasto_engine.parameters.COARSE_SHARE", 0.4)
    worker.handle(Start("a", job, str(tmp_path / "a")))
    for _ in range(parked_after):
        worker.step()
    worker.handle(Park("a"))
    monkeypatch.setattr("impasto_engine.parameters.COARSE_SHARE", 0.6)
    worker.handle(Start("a", job, str(tmp_path / "a")))
    run(worker)
    assert [report.step for report in reports if isinstance(report, JobStepped)] == list(range(1, 11))
    painted = reports[-1]
    assert isinstance(painted, JobPainted)
    assert (painted.picture.width, painted.picture.height) == (32, 24)


@pytest.mark.parametrize("parked_after", [2, 5, 8])
def test_a_job_with_several_levels_of_one_size_goes_on_at_its_own(network: Network, tmp_path: Path, parked_after: int) -> None:
    """An exact size and a schedule of others: rounded, the last two are one."""
    parameters = replace(spec(9).parameters, schedule=((100, 3), (300, 3), (302, 3)), size_px=302)
    job = replace(spec(9), parameters=parameters)
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", job, str(tmp_path / "a")))
    for _ in range(parked_after):
        worker.step()
    worker.handle(Park("a"))
    worker.handle(Start("a", job, str(tmp_path / "a")))
    run(worker)
    assert [report.step for report in reports if isinstance(report, JobStepped)] == list(range(1, 10))


def test_a_checkpoint_of_a_size_that_the_job_does_not_have_is_not_used(network: Network, tmp_path: Path) -> None:
    """As one of a version that divides jobs into other sizes: the job starts over and says so."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    worker.handle(Start("a", replace(spec(), width=48, content=raster(3, 48, 24)), str(tmp_path / "a")))
    worker.step()
    worker.handle(Park("a"))
    worker.handle(Start("a", spec(), str(tmp_path / "a")))
    run(worker)
    started = [report for report in reports if isinstance(report, JobStarted)][-1]
    assert (started.step, "a canvas of (24, 48)" in started.note) == (0, True)
    assert isinstance(reports[-1], JobPainted)


def full_disk(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_job_that_cannot_start_fails_alone(network: Network) -> None:
    """An error of the engine is that job's; the worker and the others go on."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    broken = replace(spec(), parameters=replace(spec().parameters, style_layers={"relu9_9": 1.0}))
    worker.handle(Start("good", spec()))
    worker.handle(Start("broken", broken))
    run(worker)
    failed = [report for report in reports if isinstance(report, JobFailed)]
    assert [(report.job_id, report.reason) for report in failed] == [("broken", "ENGINE_ERROR")]
    assert "relu9_9" in failed[0].message
    assert [report.job_id for report in reports if isinstance(report, JobPainted)] == ["good"]


def test_running_out_of_memory_is_told_apart(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job fails with its own reason, and the next one runs."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)

    def explode(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("impasto_engine.objective.StackedObjectives.evaluate", explode)
        worker.handle(Start("big", spec()))
        worker.step()
    assert isinstance(reports[-1], JobFailed)
    assert reports[-1].reason == "OUT_OF_MEMORY"
    worker.handle(Start("next", spec()))
    run(worker)
    assert isinstance(reports[-1], JobPainted)


def test_a_late_report_does_not_move_a_job_that_has_climbed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU reports may come two at once: one that is flagged converged ends its level, not the next one too."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    job = spec(steps=8)
    worker.handle(Start("a", replace(job, parameters=replace(job.parameters, levels=2))))
    (batch,) = worker._batches.values()
    step = batch.step

    def twice(*_: object) -> list[tuple[str, Step]]:
        ((name, report),) = step()
        flagged = replace(report, converged=True)
        return [(name, flagged), (name, replace(flagged, step=2))]

    monkeypatch.setattr(batch, "step", twice)
    worker.step()
    running = worker._jobs["a"]
    assert running.index == 1
    assert not any(isinstance(report, JobPainted) for report in reports)


def test_what_goes_wrong_over_a_question_or_an_end_harms_nobody_else(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question is answered with an error, the job that cannot be finished fails, the others go on."""
    reports: list[Report] = []
    worker = Worker(network, reports.append)
    for name in ("a", "b"):
        worker.handle(Start(name, spec(steps=3)))
    picture = raster(1)
    worker.handle(Inspect(7, picture, "vgg16:/nowhere.pth", "conv1_1", (), 5, "average"))
    worker.handle(Inspect(8, picture, "", "conv1_1", (), 5, "average"))
    worker.step()
    worker.step()
    answers = [report for report in reports if isinstance(report, Inspected)]
    assert [answer.number for answer in answers] == [7, 8]
    assert "no such file" in answers[0].error
    assert len(answers[1].responses) == 5
    monkeypatch.setattr(painting, "finished", lambda canvas, job: 1 / 0)
    worker.handle(Finish("a"))
    monkeypatch.undo()
    assert [report.job_id for report in reports if isinstance(report, JobFailed)] == ["a"]
    while not worker.idle:
        worker.step()
    assert [report.job_id for report in reports if isinstance(report, JobPainted)] == ["b"]
