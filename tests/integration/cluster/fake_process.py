"""A worker's process without a network, with known step times: its picture is the end of a chain of hashes, one per step.

A step that is left out or done twice gives another picture. Run as a program, it is a whole host: an agent with this process.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.results import Losses
from impasto_server.domain.job import NetworkDescription, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.workers.checkpoint_format import MAGIC, keep, newest_whole
from impasto_server.workers.memory import MemoryModel
from impasto_server.workers.messages import (
    Alive,
    Checkpointed,
    Command,
    Finish,
    JobPainted,
    JobParked,
    JobStarted,
    JobStepped,
    Park,
    Ready,
    Report,
    Start,
    WorkerSettings,
)


def network(weights: str) -> NetworkDescription:
    return NetworkDescription(
        "vgg16", "builtin", hashlib.sha256(weights.encode()).hexdigest(), ARCHITECTURES["vgg16"].layer_names
    )


def chain(spec_digest: bytes, steps: int) -> bytes:
    state = spec_digest
    for _ in range(steps):
        state = hashlib.sha256(state).digest()
    return state


def picture_of(state: bytes, width: int, height: int) -> bytes:
    size = 3 * width * height
    return (state * (size // len(state) + 1))[:size]


class FakeProcess:
    """See the module; step time and size of a checkpoint come from the environment."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.name = self.device = settings.device
        self.host = ""
        self._settings = settings
        self._step_s = float(os.environ.get("FAKE_STEP_S", "0.01"))
        self._padding = int(os.environ.get("FAKE_CHECKPOINT_BYTES", "1000"))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._jobs: dict[str, tuple[Start, int, bytes]] = {}

    def start(self, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        self._on_report, self._on_exit = on_report, on_exit
        loop = asyncio.get_running_loop()
        ready = Ready("a fake", network(self._settings.weights), "float32", 1, MemoryModel(), None, (), 0.0)
        loop.call_soon(on_report, ready)
        self._alive = loop.create_task(self._live())

    async def _live(self) -> None:
        while True:
            self._on_report(Alive(0.0))
            await asyncio.sleep(1)

    def send(self, command: Command) -> None:
        if isinstance(command, Start):
            self._tasks[command.job_id] = asyncio.get_running_loop().create_task(self._paint(command))
            return
        task = self._tasks.pop(getattr(command, "job_id", ""), None)
        if task is None or task.done():
            return
        task.cancel()
        start, step, state = self._jobs[command.job_id]
        if isinstance(command, Finish):
            self._painted(start, state, StopReason.DEADLINE)
        elif isinstance(command, Park):
            self._save(start, step, state)
            self._on_report(JobParked(command.job_id, step))

    def kill(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._alive.cancel()
        self._on_exit("killed by signal 9")

    async def stop(self) -> None:
        for task in [*self._tasks.values(), self._alive]:
            task.cancel()

    def _save(self, start: Start, step: int, state: bytes) -> None:
        body = step.to_bytes(8, "big") + state + bytes(self._padding)
        fresh = Path(start.checkpoint + ".fresh")
        fresh.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
        keep(Path(start.checkpoint), fresh)
        self._on_report(Checkpointed(start.job_id, self._padding))

    async def _paint(self, start: Start) -> None:
        step, state = 0, hashlib.sha256(start.spec.content.rgb.read_bytes()).digest()
        if (path := newest_whole(Path(start.checkpoint))) is not None:
            body = path.read_bytes()[len(MAGIC) + 32 :]
            step, state = int.from_bytes(body[:8], "big"), body[8:40]
        self._jobs[start.job_id] = (start, step, state)
        about = network(self._settings.weights)
        self._on_report(JobStarted(start.job_id, start.arithmetic or "float32", step, "", about, threads=1))
        steps, saved = start.spec.parameters.steps, asyncio.get_running_loop().time()
        began = saved
        while step < steps:
            await asyncio.sleep(self._step_s)
            step, state = step + 1, hashlib.sha256(state).digest()
            self._jobs[start.job_id] = (start, step, state)
            now = asyncio.get_running_loop().time()
            left = (steps - step) * self._step_s
            self._on_report(JobStepped(start.job_id, step, Losses(1 / step, 0.5 / step, 0.0), now - began, left))
            if now - saved > self._settings.checkpoint_interval_s:
                self._save(start, step, state)
                saved = now
        self._painted(start, state, StopReason.STEPS)

    def _painted(self, start: Start, state: bytes, reason: StopReason) -> None:
        spec = start.spec
        picture = Raster(spec.width, spec.height, picture_of(state, spec.width, spec.height))
        self._on_report(JobPainted(start.job_id, reason, picture))


if __name__ == "__main__":
    from impasto_server.cluster.program import ProgramError, run_worker
    from impasto_server.observability import logs

    logs.set_up("info", "console")
    parser = argparse.ArgumentParser()
    for option in ("--join", "--name", "--host", "--device", "--weights", "--token-file"):
        parser.add_argument(option)
    parser.add_argument("--once", action="store_true")
    given = parser.parse_args()
    about = {"name": given.name, "host": given.host, "weights": given.weights or "same", "once": given.once}
    try:
        run_worker([given.device or "cpu"], server=given.join, make=FakeProcess, **about)
    except ProgramError as error:
        sys.exit(f"Error: {error}")
