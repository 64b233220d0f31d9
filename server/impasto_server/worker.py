"""The worker process: one device, one resident network, running batches that jobs join and leave between steps."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from torch.nn import functional as F

from impasto_engine import painting
from impasto_engine.batch import BatchKey, RunningBatch, Step
from impasto_engine.devices import auto_precision, describe, prepare
from impasto_engine.networks import Network
from impasto_engine.objective import to_pixels
from impasto_engine.weights import WeightsError, load_network
from impasto_server import images
from impasto_server.jobs import JobSpec, Losses, NetworkDescription, Raster, StopReason
from impasto_server.protocol import (
    Cancel,
    CannotStart,
    Command,
    JobFailed,
    JobPainted,
    JobStarted,
    JobStepped,
    Ready,
    Report,
    Start,
    WorkerSettings,
)

logger = logging.getLogger(__name__)
WARM_UP_SIDE_PX = 64
PREVIEW_QUALITY = 85


@dataclass
class _Running:
    spec: JobSpec
    batch: RunningBatch
    began: float


class Worker:
    """Steps the batches on one device. Owns no thread and no pipe, so that tests can drive it by hand.

    Args:
        network: Resident on the device.
        send: Takes each report.
    """

    def __init__(self, network: Network, send: Callable[[Report], None]) -> None:
        self._network = network
        self._send = send
        self._styles = painting.StyleCache()
        self._batches: dict[BatchKey, RunningBatch] = {}
        self._jobs: dict[str, _Running] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step."""
        return not self._jobs

    def handle(self, command: Command) -> None:
        """Let a job join or leave; takes effect before the next step."""
        if isinstance(command, Cancel):
            if command.job_id in self._jobs:
                self._leave(command.job_id)
            return
        with self._failures((command.job_id,)):
            self._join(command)

    def step(self) -> None:
        """Move every job by one step, batch by batch, and report."""
        for batch in list(self._batches.values()):
            names = tuple(name for name, running in self._jobs.items() if running.batch is batch)
            with self._failures(names):
                for job_id, step in batch.step().items():
                    self._report(job_id, step)

    def _join(self, command: Start) -> None:
        job = _to_engine(command.spec)
        key = job.key(self._network.device)
        batch = self._batches.setdefault(key, RunningBatch(self._network, key))
        painting.join(batch, command.job_id, job, self._styles)
        self._jobs[command.job_id] = _Running(command.spec, batch, time.monotonic())
        self._send(JobStarted(command.job_id, key.precision))

    def _report(self, job_id: str, step: Step) -> None:
        running = self._jobs[job_id]
        steps = running.spec.parameters.steps
        elapsed = time.monotonic() - running.began
        losses = Losses(step.losses.content, step.losses.style, step.losses.total_variation)
        remaining = elapsed / step.step * (steps - step.step)
        every = running.spec.output.preview_every_steps
        wanted = bool(every) and step.step % every == 0
        preview = self._preview(running, job_id) if wanted else None
        self._send(JobStepped(job_id, step.step, losses, elapsed, remaining, preview))
        if step.stalled or step.step >= steps:
            picture = _raster(running.batch.canvas(job_id))
            self._leave(job_id)
            self._send(JobPainted(job_id, StopReason.STEPS if step.step >= steps else StopReason.STALLED, picture))

    def _preview(self, running: _Running, job_id: str) -> bytes:
        canvas = running.batch.canvas(job_id)
        scale = min(1.0, running.spec.output.preview_size_px / max(canvas.shape[1:]))
        if scale < 1:
            size = [max(1, round(side * scale)) for side in canvas.shape[1:]]
            canvas = F.interpolate(canvas[None], size=size, mode="bilinear", antialias=True)[0]
        return images.encode(_raster(canvas), "jpeg", PREVIEW_QUALITY)

    def _leave(self, job_id: str) -> None:
        running = self._jobs.pop(job_id)
        if job_id in running.batch:
            running.batch.leave(job_id)
        if not len(running.batch):
            self._batches.pop(running.batch.key, None)

    def _failures(self, job_ids: tuple[str, ...]) -> _Failures:
        return _Failures(self, job_ids)

    def fail(self, job_ids: tuple[str, ...], error: Exception) -> None:
        """Take jobs out that cannot go on, and say why."""
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        reason = "OUT_OF_MEMORY" if memory else "ENGINE_ERROR"
        logger.error("jobs %s failed: %s", ", ".join(job_ids), error, exc_info=error)
        for job_id in job_ids:
            if job_id in self._jobs:
                self._leave(job_id)
            self._send(JobFailed(job_id, reason, str(error).splitlines()[0] if str(error) else type(error).__name__))


class _Failures:
    """Turns an exception of the engine into failed jobs instead of a dead worker."""

    def __init__(self, worker: Worker, job_ids: tuple[str, ...]) -> None:
        self._worker = worker
        self._job_ids = job_ids

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._worker.fail(self._job_ids, error)
        return True


def worker_main(connection: Connection, settings: WorkerSettings) -> None:
    """Run a worker until its pipe closes. The entry point of the spawned process."""
    # The server decides when to stop: it closes the pipe. A Ctrl-C at the terminal reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    device = torch.device(settings.device)
    prepare(device)
    try:
        network = load_network(settings.weights, device)
        ready = _warm_up(network)
    except (WeightsError, RuntimeError) as error:
        connection.send(CannotStart(str(error)))
        return
    connection.send(ready)
    commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, commands), daemon=True).start()
    worker = Worker(network, connection.send)
    while True:
        for command in _drain(commands, wait=worker.idle):
            worker.handle(command)
        worker.step()


def _receive(connection: Connection, commands: queue.SimpleQueue[Command]) -> None:
    try:
        while True:
            commands.put(connection.recv())
    except (EOFError, OSError):
        # The server is gone or wants us gone; whatever is being computed is of no use to anybody.
        os._exit(0)


def _drain(commands: queue.SimpleQueue[Command], *, wait: bool) -> Iterator[Command]:
    try:
        yield commands.get(block=wait)
        while True:
            yield commands.get_nowait()
    except queue.Empty:
        return


def _warm_up(network: Network) -> Ready:
    """Put a small picture through the network, so that the first job does not pay for the libraries' first calls."""
    arithmetic = auto_precision(network.device)
    canvas = torch.zeros(1, 3, WARM_UP_SIDE_PX, WARM_UP_SIDE_PX, device=network.device)
    network.features(canvas, (network.layers[-1],), precision=arithmetic)
    weights = network.weights
    description = NetworkDescription(network.name, weights.name, weights.sha256, network.layers)
    return Ready(describe(network.device), description, arithmetic)


def _to_engine(spec: JobSpec) -> painting.Job:
    return painting.Job(
        spec.height,
        spec.width,
        _pixels(spec.content) if spec.content else None,
        tuple(painting.Style(_pixels(style.picture), style.weight, style.digest) for style in spec.styles),
        spec.parameters,
    )


def _pixels(picture: Raster) -> torch.Tensor:
    return torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8).view(picture.height, picture.width, 3)


def _raster(canvas: torch.Tensor) -> Raster:
    pixels = to_pixels(canvas)
    return Raster(pixels.shape[1], pixels.shape[0], pixels.numpy().tobytes())
