"""A worker without a network: it counts steps, so that tests of the service take milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.parameters import Parameters
from impasto_engine.results import Losses
from impasto_server.config import ServerConfig
from impasto_server.domain.job import JobSpec, NetworkDescription, OutputOptions, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.jobs.assembly import Assembly, assemble
from impasto_server.jobs.dispatcher import Dispatcher
from impasto_server.store.base import JobStore
from impasto_server.workers.memory import MemoryModel
from impasto_server.workers.messages import (
    Alive,
    Command,
    FilterResponse,
    Finish,
    Inspect,
    Inspected,
    JobFailed,
    JobPainted,
    JobParked,
    JobStarted,
    JobStepped,
    Park,
    Ready,
    Report,
    Start,
)

NETWORK = NetworkDescription("vgg16", "builtin", "00", ARCHITECTURES["vgg16"].layer_names)


def spec(steps: int = 3, preview_every: int = 0, width: int = 32, height: int = 24, **more: Any) -> JobSpec:
    picture = Raster(width, height, bytes(width * height * 3))
    output = OutputOptions(preview_every_steps=preview_every)
    return JobSpec(width, height, picture, (), Parameters(steps=steps), output, **more)


def steps_in(checkpoint: str) -> int:
    path = Path(checkpoint)
    return int(path.read_text()) if path.exists() else 0


@dataclass
class FakeWorker:
    """Does each job's steps at its own pace; can be told to fail, to hang, to hear only Start, to say nothing, to die."""

    name: str = "cpu"
    device: str = "cpu"
    host: str = ""
    step_s: float = 0.001
    ready: bool = True
    fail_with: tuple[str, str] | None = None
    hang: bool = False
    deaf: bool = False
    silent: bool = False
    free_bytes: int | None = None
    seconds_per_pixel: float = 0.0
    commands: list[Command] = field(default_factory=list)
    births: int = 0
    most_at_once: int = 0

    def start(self, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        self.births += 1
        self._on_report, self._on_exit = on_report, on_exit
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._steps: dict[str, int] = {}
        self._paths: dict[str, Path] = {}
        self._living = None if self.silent else asyncio.get_running_loop().create_task(self._live())
        if self.ready:
            asyncio.get_running_loop().call_soon(
                on_report, Ready("a fake", NETWORK, "float32", 1, MemoryModel(), self.free_bytes, (), self.seconds_per_pixel)
            )

    def send(self, command: Command) -> None:
        self.commands.append(command)
        if isinstance(command, Inspect):
            response = FilterResponse(command.filters[0] if command.filters else 0, b"grey", 0.0, 1.0, 0.5, 0.25)
            if not self.deaf:
                asyncio.get_running_loop().call_soon(self._on_report, Inspected(command.number, (response,), NETWORK))
        elif isinstance(command, Start):
            # Known at once: the job may be parked before its first step.
            self._paths[command.job_id] = Path(command.checkpoint)
            self._steps[command.job_id] = steps_in(command.checkpoint)
            self._tasks[command.job_id] = asyncio.get_running_loop().create_task(self._paint(command))
            self.most_at_once = max(self.most_at_once, sum(not task.done() for task in self._tasks.values()))
        elif command.job_id in self._tasks and not self.deaf:
            self._tasks[command.job_id].cancel()
            if isinstance(command, Finish):
                size = (command.job_id, StopReason.DEADLINE, Raster(32, 24, bytes(32 * 24 * 3)))
                asyncio.get_running_loop().call_soon(self._on_report, JobPainted(*size))
            if isinstance(command, Park):
                self._paths[command.job_id].write_text(str(self._steps[command.job_id]))
                parked = JobParked(command.job_id, self._steps[command.job_id])
                asyncio.get_running_loop().call_soon(self._on_report, parked)

    def forget(self) -> None:
        """Let go of what is over."""
        self.commands.clear()
        for job_id in [job_id for job_id, task in self._tasks.items() if task.done()]:
            del self._tasks[job_id]
            self._steps.pop(job_id, None)
            self._paths.pop(job_id, None)

    async def _live(self) -> None:
        """Report every second that it is alive, as a real worker does."""
        while True:
            await asyncio.sleep(1)
            self._on_report(Alive(0.0))

    def report(self, report: Report) -> None:
        self._on_report(report)

    def kill(self) -> None:
        self.die()

    async def stop(self) -> None:
        self._end_life()
        for task in self._tasks.values():
            task.cancel()

    def _end_life(self) -> None:
        if self._living is not None:
            self._living.cancel()

    def die(self, cause: str = "killed by signal 9") -> None:
        self._end_life()
        for task in self._tasks.values():
            task.cancel()
        self._on_exit(cause)

    async def _paint(self, command: Start) -> None:
        done = self._steps[command.job_id]
        self._on_report(JobStarted(command.job_id, "float32", done, "", NETWORK))
        parameters, output = command.spec.parameters, command.spec.output
        if self.fail_with:
            self._on_report(JobFailed(command.job_id, *self.fail_with))
            return
        for step in range(done + 1, parameters.steps + 1):
            await asyncio.sleep(3600 if self.hang else self.step_s)
            wanted = output.preview_every_steps and step % output.preview_every_steps == 0
            preview = b"preview %d" % step if wanted else None
            losses = Losses(1 / step, 0.5 / step, 0.0)
            left = (parameters.steps - step) * self.step_s
            self._steps[command.job_id] = step
            self._on_report(JobStepped(command.job_id, step, losses, step * self.step_s, left, preview))
        picture = Raster(command.spec.width, command.spec.height, bytes(command.spec.width * command.spec.height * 3))
        # After this task has ended: a worker reports a picture when the job has left it.
        asyncio.get_running_loop().call_soon(self._on_report, JobPainted(command.job_id, StopReason.STEPS, picture))


PARTS: WeakKeyDictionary[Dispatcher, Assembly] = WeakKeyDictionary()
"""What belongs to the dispatchers that tests made."""


@asynccontextmanager
async def assembled(config: ServerConfig, store: JobStore, *workers: FakeWorker) -> AsyncIterator[Dispatcher]:
    """Build what has to do with jobs, start it, and stop it at the end."""
    parts = assemble(config, store, workers)
    PARTS[parts.dispatcher] = parts
    parts.pool.start()
    if any(worker.ready for worker in workers):
        await asyncio.wait_for(parts.pool.ready.wait(), 1)
    yield parts.dispatcher
    await parts.shutdown.stop()
