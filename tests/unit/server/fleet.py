"""Many workers that gather their reports: each message has the steps of all jobs of a worker. Driven by turns, not by time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_engine.results import Losses
from impasto_server.config import ServerConfig
from impasto_server.domain.job import Job, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.jobs.assembly import Assembly, assemble
from impasto_server.store.base import JobStore
from impasto_server.workers.messages import (
    Cancel,
    Command,
    Finish,
    JobPainted,
    JobParked,
    JobReport,
    JobStarted,
    JobStepped,
    Park,
    Report,
    Start,
)
from tests.unit.server.fakes import NETWORK, FakeWorker, spec, steps_in


@dataclass
class _Painting:
    start: Start
    step: int
    told: bool = False
    leaving: bool = False
    finishing: bool = False


class GatheringWorker(FakeWorker):
    """Does steps only when it is asked for its next message."""

    def start(self, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        self.paintings: dict[str, _Painting] = {}
        super().start(on_report, on_exit)

    def send(self, command: Command) -> None:
        if isinstance(command, Start):
            self.paintings[command.job_id] = _Painting(command, steps_in(command.checkpoint))
        elif isinstance(command, Cancel):
            self.paintings.pop(command.job_id, None)
        elif isinstance(command, (Park, Finish)) and command.job_id in self.paintings:
            painting = self.paintings[command.job_id]
            painting.leaving, painting.finishing = isinstance(command, Park), isinstance(command, Finish)

    def message(self, steps: int) -> list[JobReport]:
        """Do so many steps of each job, and return the reports on them."""
        reports: list[JobReport] = []
        for job_id, painting in list(self.paintings.items()):
            reports += self._go_on(job_id, painting, steps)
        return reports

    def _go_on(self, job_id: str, painting: _Painting, steps: int) -> list[JobReport]:
        reports: list[JobReport] = []
        if not painting.told:
            painting.told = True
            reports.append(JobStarted(job_id, "float32", painting.step, "", NETWORK))
        last = painting.start.spec.parameters.steps
        if painting.leaving:
            del self.paintings[job_id]
            Path(painting.start.checkpoint).write_text(str(painting.step))
            return [*reports, JobParked(job_id, painting.step)]
        first, painting.step = painting.step + 1, min(last, painting.step + steps)
        for step in range(first, painting.step + 1):
            losses = Losses(1.2345678 / step, 0.5123456 / step, 1.23e-7)
            reports.append(JobStepped(job_id, step, losses, step * 0.1234567, (last - step) * 0.1234567))
        if painting.step == last or (painting.finishing and painting.step):
            del self.paintings[job_id]
            width, height = painting.start.spec.width, painting.start.spec.height
            reports.append(JobPainted(job_id, StopReason.STEPS, Raster(width, height, bytes(width * height * 3))))
        return reports


class Fleet:
    """A real dispatcher, table, scheduler and store with gathering workers. Create it on a running event loop.

    Args:
        store: Where jobs are kept.
        devices: How many workers there are.
        slots: Jobs that each runs.
        seed: Of what is drawn.
    """

    def __init__(self, store: JobStore, devices: int, slots: int, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.workers = [GatheringWorker(f"gpu-{number}", seconds_per_pixel=1e-6) for number in range(devices)]
        config = ServerConfig(grace_s=0.0, max_running_jobs=slots, max_queued_jobs=devices * slots + 1000)
        self.parts: Assembly = assemble(config, store, self.workers)
        self.jobs: list[Job] = []

    async def start(self) -> None:
        """Start the workers, and wait until all are ready."""
        self.parts.pool.start()
        while not self.parts.pool.all_ready:
            await asyncio.sleep(0)

    async def submit(self, **of_spec: Any) -> Job:
        """Submit a job of one of some sizes."""
        of_spec = {"width": self.draw.choice((24, 32, 48)), **of_spec}
        job = await self.parts.dispatcher.submit(spec(**of_spec), "", "d", detached=True)
        self.jobs.append(job)
        return job

    def turn(self, worker: GatheringWorker, steps: int) -> int:
        """Handle the next message of a worker; return how many steps it had."""
        reports = worker.message(steps)
        self.parts.pool._receiver.on_reports(worker.name, reports)
        return sum(isinstance(report, JobStepped) for report in reports)

    def lose_host(self, worker: GatheringWorker) -> None:
        """The host of a worker is lost, and another takes its name."""
        receiver = self.parts.pool._receiver
        worker.paintings.clear()
        receiver.on_lost(worker.name, "its host was lost", blame=False)
        receiver.on_ready(worker.name)
