"""The worker process: one device, one resident network, running batches that jobs join and leave between steps."""

from __future__ import annotations

import itertools
import logging
import math
import os
import queue
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.nn import functional as F

from impasto_engine import painting
from impasto_engine.batch import BatchKey, RunningBatch, Step, default_group_size
from impasto_engine.devices import PeakMemory, auto_precision, describe, free_memory, prepare
from impasto_engine.networks import Network
from impasto_engine.objective import StackedObjectives, to_canvas, to_pixels
from impasto_engine.parameters import Arithmetic, Parameters
from impasto_engine.weights import WeightsError, available, load_network
from impasto_server import checkpoints, images
from impasto_server.checkpoints import Checkpoint
from impasto_server.jobs import JobSpec, Losses, NetworkDescription, Plane, Raster, StopReason, StylePicture
from impasto_server.memory import MemoryModel
from impasto_server.protocol import (
    Cancel,
    CannotStart,
    Checkpointed,
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
    PassMeasured,
    Ready,
    Report,
    Start,
    WorkerSettings,
    checkpoint_files,
)

logger = logging.getLogger(__name__)
WARM_UP_SIDE_PX = 256
WARM_UP_ROUNDS = 6
"""The first pays for what the libraries keep; of the others the least counts, since stray allocations raise some."""
MAX_IDLE_NETWORKS = 3
"""Networks kept that no job uses, beside the default."""
PREVIEW_QUALITY = 85
COST_SHARE = 50
"""A job's state is kept no more often than after so many times what that costs, however short the interval."""
CPU_CONTENTION = 1.5
"""How much longer than its own time a second's work on another thread holds up steps on a CPU, about (measured)."""
_OTHER_ARITHMETIC: dict[Arithmetic, tuple[Arithmetic, float]] = {"bfloat16": ("float32", 2.0), "float32": ("bfloat16", 0.5)}


@dataclass
class _Running:
    spec: JobSpec
    owner: str
    levels: list[painting.Level]
    index: int
    batch: RunningBatch
    began: float
    checkpoint: Path | None
    due: float
    writing: bool = False

    @property
    def level(self) -> painting.Level:
        return self.levels[self.index]

    def remaining_s(self, step: int, elapsed_s: float) -> float:
        """Estimate the time to the last step: a step's time goes with its pixels."""
        done = work = 0.0
        for level in self.levels:
            pixels = level.job.height * level.job.width
            work += (level.last - level.done) * pixels
            done += (min(max(step, level.done), level.last) - level.done) * pixels
        return elapsed_s / done * (work - done) if done else 0.0


class Worker:
    """Steps the batches on one device. Owns no thread and no pipe, so that tests can drive it by hand.

    Args:
        network: Resident on the device.
        send: Takes each report; must bear being called from the thread that ``later`` uses.
        later: Runs what would hold the device up, such as writing a file; at once by default.
        checkpoint_interval_s: How often each job's state is written.
        graphs: Whether evaluations are recorded as CUDA graphs.
    """

    def __init__(
        self,
        network: Network,
        send: Callable[[Report], None],
        later: Callable[[Callable[[], None]], object] = lambda work: work(),
        checkpoint_interval_s: float = math.inf,
        *,
        graphs: bool = False,
    ) -> None:
        self._network = network
        self._networks = OrderedDict({described(network).id: network})
        self._graphs = graphs
        self._send = send
        self._later = later
        self._interval_s = checkpoint_interval_s
        self._styles = painting.StyleCache()
        self._batches: dict[tuple[str, BatchKey], RunningBatch] = {}
        self._measured: dict[tuple[str, BatchKey], int] = {}
        self._kept: dict[str, Checkpoint] = {}
        self._jobs: dict[str, _Running] = {}
        self._questions: deque[Inspect] = deque()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step or to tell."""
        return not self._jobs and not self._questions

    def handle(self, command: Command) -> None:
        """Let a job join or leave; takes effect before the next step."""
        if isinstance(command, Start):
            with self._failures((command.job_id,)):
                self._join(command)
        elif isinstance(command, Inspect):
            self._questions.append(command)
        elif command.job_id not in self._jobs:
            if isinstance(command, Cancel):
                self._kept.pop(command.job_id, None)
        else:
            with self._failures((command.job_id,)):
                if isinstance(command, Cancel):
                    self._leave(command.job_id)
                elif isinstance(command, Finish):
                    self._finish(command.job_id, StopReason.DEADLINE)
                else:
                    self._park(command.job_id)

    def step(self) -> None:
        """Move every job by one step, batch by batch, and report."""
        for batch in list(self._batches.values()):
            names = tuple(name for name, running in self._jobs.items() if running.batch is batch)
            reports: list[tuple[str, Step]] = []
            with self._failures(names):
                reports = self._measure(batch)
            for job_id, step in reports:
                running = self._jobs.get(job_id)
                # A report may be of a step that was done before the job left for its next level.
                if running is not None and running.batch is batch:
                    with self._failures((job_id,)):
                        self._report(job_id, step)
        if self._questions:
            self._send(self._inspect(self._questions.popleft()))
        for job_id, running in self._jobs.items():
            if running.checkpoint and not running.writing and time.monotonic() >= running.due:
                self._save(job_id, running, running.checkpoint)

    def _measure(self, batch: RunningBatch) -> list[tuple[str, Step]]:
        """Step a batch; where its pass is larger than any before, tell what that took."""
        canvases = batch.largest_pass
        key = _batch_key(batch)
        if canvases <= self._measured.get(key, 0):
            return batch.step()
        with PeakMemory(self._network.device) as peak:
            reports = batch.step()
        self._measured[key] = canvases
        pixels = canvases * batch.key.height * batch.key.width
        self._send(PassMeasured(batch.key.precision, pixels, peak.taken))
        return reports

    def _join(self, command: Start) -> None:
        job = _to_engine(command.spec)
        network = self._resident(command.spec.parameters.network)
        key = job.key(network.device)
        owner = f"{command.job_id} {network.weights.sha256} {key.precision}"
        path = Path(command.checkpoint) if command.checkpoint else None
        found, note = self._kept.pop(command.job_id, None), ""
        if path and found is None:
            found, note = checkpoints.latest(path, owner)
        if note:
            logger.warning("job %s: %s", command.job_id, note)
        state = found.state if found else None
        plan = painting.levels(job)
        done = state.step if state else 0
        index = next((index for index, level in enumerate(plan) if done < level.last), len(plan) - 1)
        batch = self._batch(network, plan[index])
        if state is None:
            painting.join(batch, command.job_id, plan[index], self._styles)
        else:
            painting.resume(batch, command.job_id, plan[index], state, self._styles)
        now = time.monotonic()
        began = now - (found.elapsed_s if found else 0.0)
        due = now + self._interval_s
        self._jobs[command.job_id] = _Running(command.spec, owner, plan, index, batch, began, path, due)
        hits, misses = self._styles.take_counts()
        self._send(JobStarted(command.job_id, key.precision, done, note, described(network), hits, misses))

    def _resident(self, name: str) -> Network:
        """Return a network by its name, loaded if it is not here; those that nobody uses make room in order of last use."""
        if not name:
            return self._network
        if name not in self._networks:
            used = {id(running.batch.network) for running in self._jobs.values()} | {id(self._network)}
            idle = [key for key, network in self._networks.items() if id(network) not in used]
            for key in idle[: max(0, len(idle) - MAX_IDLE_NETWORKS + 1)]:
                del self._networks[key]
            logger.info("loading %s", name)
            self._networks[name] = load_network(name, self._network.device)
        self._networks.move_to_end(name)
        return self._networks[name]

    def _inspect(self, command: Inspect) -> Inspected:
        try:
            network = self._resident(command.network)
            canvas = to_canvas(_pixels(command.picture), network.device)
            seen = network.features(canvas, (command.layer,), command.pooling)[command.layer][0]
            spread = seen.flatten(1).std(dim=1, correction=0)
            strongest = spread.argsort(descending=True, stable=True)[: command.count].tolist()
            responses = tuple(_response(seen[index], index) for index in command.filters or strongest)
        except Exception as error:
            # Whatever it is, the jobs here have nothing to do with it.
            logger.exception("a question about features could not be answered")
            return Inspected(command.number, error=str(error).partition("\n")[0] or type(error).__name__)
        return Inspected(command.number, responses, described(network))

    def _batch(self, network: Network, level: painting.Level) -> RunningBatch:
        batch = RunningBatch(network, level.job.key(network.device), graphs=self._graphs)
        return self._batches.setdefault(_batch_key(batch), batch)

    def _climb(self, job_id: str) -> None:
        """Let a job go on at its next level, from an enlarged canvas."""
        running = self._jobs[job_id]
        before, level = running.batch, running.level
        running.index += 1
        running.batch = self._batch(before.network, running.level)
        painting.climb(before, running.batch, job_id, level, running.level, self._styles)
        self._drop_empty(before)

    def _save(self, job_id: str, running: _Running, path: Path) -> None:
        """Copy a job's state and let it be written meanwhile.

        On a CPU the writing costs the steps too, more than its own time, since they want every core and their threads wait
        for one another. The next time comes no sooner than after :data:`COST_SHARE` times what this one costs.
        """
        began = time.monotonic()
        checkpoint = Checkpoint(running.owner, running.batch.export(job_id), began - running.began)
        copying_s = time.monotonic() - began
        running.writing = True

        def write() -> None:
            before = time.thread_time()
            try:
                size = checkpoints.write(path, checkpoint)
                self._send(Checkpointed(job_id, size))
            except OSError as error:
                logger.warning("no checkpoint of job %s: %s", job_id, error)
            contention = CPU_CONTENTION if self._network.device.type == "cpu" else 0.0
            cost_s = copying_s + contention * (time.thread_time() - before)
            running.due = time.monotonic() + max(self._interval_s, COST_SHARE * cost_s)
            running.writing = False
            if self._jobs.get(job_id) is not running:  # it ended meanwhile, and its files are of no use to anybody
                for file in checkpoint_files(path):
                    file.unlink(missing_ok=True)

        self._later(write)

    def _park(self, job_id: str) -> None:
        running = self._jobs[job_id]
        state = running.batch.export(job_id)
        checkpoint = Checkpoint(running.owner, state, time.monotonic() - running.began)
        self._leave(job_id)

        def write() -> None:
            try:
                checkpoints.write(running.checkpoint or Path(), checkpoint)
            except OSError as error:
                logger.warning("job %s is parked in memory, for there is no room on disk: %s", job_id, error)
                self._kept[job_id] = checkpoint
            self._send(JobParked(job_id, state.step))

        self._later(write)

    def _report(self, job_id: str, step: Step) -> None:
        running = self._jobs.get(job_id)
        if running is None:
            return
        steps = running.spec.parameters.steps
        elapsed = time.monotonic() - running.began
        losses = Losses(step.losses.content, step.losses.style, step.losses.total_variation)
        every = running.spec.output.preview_every_steps
        wanted = bool(every) and step.step % every == 0
        preview = self._preview(running, job_id) if wanted else None
        self._send(JobStepped(job_id, step.step, losses, elapsed, running.remaining_s(step.step, elapsed), preview))
        if not step.last and step.step < running.level.last:
            return
        if running.level is not running.levels[-1]:
            with self._failures((job_id,)):
                self._climb(job_id)
            return
        early = StopReason.CONVERGED if step.converged else StopReason.STALLED
        self._finish(job_id, StopReason.STEPS if step.step >= steps else early)

    def _finish(self, job_id: str, reason: StopReason) -> None:
        """Hand a job's canvas out, enlarged where it has not come to its full size."""
        running = self._jobs[job_id]
        canvas = running.batch.canvas(job_id)[None]
        for before, after in itertools.pairwise(running.levels[running.index :]):
            canvas = painting.next_canvas(canvas[0], before.job, after.job, self._network.device)
        self._leave(job_id)
        picture = painting.finished(canvas[0], running.levels[-1].job)
        self._send(JobPainted(job_id, reason, _raster(picture)))

    def _preview(self, running: _Running, job_id: str) -> bytes:
        canvas = painting.finished(running.batch.canvas(job_id), running.level.job)
        scale = min(1.0, running.spec.output.preview_size_px / max(canvas.shape[1:]))
        if scale < 1:
            size = [max(1, round(side * scale)) for side in canvas.shape[1:]]
            canvas = F.interpolate(canvas[None], size=size, mode="bilinear", antialias=True)[0]
        return images.encode(_raster(canvas), "jpeg", PREVIEW_QUALITY)

    def _leave(self, job_id: str) -> None:
        self._leave_batch(job_id)
        del self._jobs[job_id]

    def _leave_batch(self, job_id: str) -> None:
        batch = self._jobs[job_id].batch
        if job_id in batch:
            batch.leave(job_id)
        self._drop_empty(batch)

    def _drop_empty(self, batch: RunningBatch) -> None:
        if not len(batch):
            self._batches.pop(_batch_key(batch), None)

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
        # One that was made for a job which then could not join is of no use.
        self._batches = {key: batch for key, batch in self._batches.items() if len(batch)}


def _batch_key(batch: RunningBatch) -> tuple[str, BatchKey]:
    return f"{batch.network.name} {batch.network.weights.sha256}", batch.key


def described(network: Network) -> NetworkDescription:
    """Return what jobs are told of a network."""
    return NetworkDescription(network.name, network.weights.name, network.weights.sha256, network.layers)


def _response(values: torch.Tensor, index: int) -> FilterResponse:
    low, high = float(values.min()), float(values.max())
    grey = (((values - low) / max(high - low, 1e-12)).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    picture = images.encode_grey(Plane(grey.shape[1], grey.shape[0], grey.numpy().tobytes()))
    return FilterResponse(index, picture, low, high, float(values.mean()), float(values.std(correction=0)))


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
    sending = threading.Lock()

    def send(report: Report) -> None:
        try:
            with sending:
                connection.send(report)
        except (BrokenPipeError, OSError):
            os._exit(0)  # the server is gone; see _receive

    send(ready)
    commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, commands), daemon=True).start()
    writer = ThreadPoolExecutor(1, "writer")
    worker = Worker(network, send, writer.submit, settings.checkpoint_interval_s, graphs=settings.cuda_graphs)
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
    """Evaluate a canvas, so that the first job does not pay for the libraries' first calls, and measure what it takes."""
    device = network.device
    arithmetic = auto_precision(device)
    side = WARM_UP_SIDE_PX
    grey = torch.full((side, side, 3), 128, dtype=torch.uint8)
    job = painting.Job(side, side, grey, (painting.Style(grey),), Parameters(size_px=side))
    canvas = painting.first_canvas(job, device)
    takes, seconds = [], math.inf
    for _ in range(WARM_UP_ROUNDS):
        with PeakMemory(device) as preparing:
            objectives = StackedObjectives([painting.objective(network, job)], network)
        with PeakMemory(device) as passing:
            began = time.perf_counter()
            objectives.evaluate(network, canvas, job.parameters.pooling, arithmetic).terms.tolist()
            seconds = min(seconds, time.perf_counter() - began)
        takes.append((passing.taken, preparing.taken))
    memory = MemoryModel()
    # The first time the libraries also take what they keep for good; of the others a stray allocation can raise one.
    evaluated, prepared = (min(column) / side**2 for column in zip(*takes[1:], strict=True))
    if evaluated:
        other, factor = _OTHER_ARITHMETIC[arithmetic]
        figures = {arithmetic: max(evaluated, prepared), other: max(evaluated * factor, prepared)}
        memory = MemoryModel({**figures, "tf32": figures["float32"]})
    group = default_group_size(device)
    names = available()
    pace = seconds / side**2
    return Ready(describe(device), described(network), arithmetic, group, memory, free_memory(device), names, pace)


def _to_engine(spec: JobSpec) -> painting.Job:
    return painting.Job(
        spec.height,
        spec.width,
        _pixels(spec.content) if spec.content else None,
        tuple(_style(style) for style in spec.styles),
        spec.parameters,
        _mask(spec.mask),
        _pixels(spec.init_image) if spec.init_image else None,
    )


def _style(style: StylePicture) -> painting.Style:
    # Statistics of a part of a picture are not worth keeping: masks seldom come twice.
    digest = "" if style.mask else style.digest
    return painting.Style(_pixels(style.picture), style.weight, digest, _mask(style.mask), _mask(style.region))


def _mask(plane: Plane | None) -> torch.Tensor | None:
    if plane is None:
        return None
    return torch.frombuffer(bytearray(plane.values), dtype=torch.uint8).view(plane.height, plane.width)


def _pixels(picture: Raster) -> torch.Tensor:
    return torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8).view(picture.height, picture.width, 3)


def _raster(canvas: torch.Tensor) -> Raster:
    pixels = to_pixels(canvas)
    return Raster(pixels.shape[1], pixels.shape[0], pixels.numpy().tobytes())
