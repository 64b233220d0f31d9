"""A worker: one device, its networks, and running batches that jobs join and leave between steps."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from impasto_engine import painting
from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.batch import BatchKey, RunningBatch, Step
from impasto_engine.devices import PeakMemory
from impasto_engine.networks import Network
from impasto_server.domain.job import JobSpec, JobWarning, StopReason
from impasto_server.domain.pictures import PictureLost
from impasto_server.pictures import images
from impasto_server.workers import checkpoints, tensors
from impasto_server.workers.checkpoints import Checkpoint
from impasto_server.workers.messages import (
    Cancel,
    Checkpointed,
    Command,
    Finish,
    Inspect,
    JobFailed,
    JobPainted,
    JobParked,
    JobStarted,
    JobStepped,
    PassMeasured,
    Report,
    Start,
    checkpoint_files,
)
from impasto_server.workers.networks import Residents, described

logger = logging.getLogger(__name__)
PREVIEW_QUALITY = 85
HARDLY_PAINTED = 4.0
"""A warning is given if the root mean square of a picture's change, in 8-bit levels, is below; usual are 20 to 70."""
FEW_STEPS = 30
COST_SHARE = 50
"""Minimum time between checkpoints of a job, as a multiple of the cost of one, however short the interval."""
QUESTION_SHARE = 3
"""After an inspection, the jobs run alone for this multiple of its duration."""
CPU_CONTENTION = 1.5
"""Approximate delay of steps on a CPU by work on another thread, relative to that work's own time (measured)."""


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
        """Estimate the time to the last step: the time of a step is proportional to its pixels."""
        done = work = 0.0
        for level in self.levels:
            pixels = level.job.height * level.job.width
            work += (level.last - level.done) * pixels
            done += (min(max(step, level.done), level.last) - level.done) * pixels
        return elapsed_s / done * (work - done) if done else 0.0


class Worker:
    """Steps the batches on one device. It owns no thread and no pipe, so that tests can drive it directly.

    Args:
        network: Loaded on the device.
        send: Receives each report; must be safe to call from the thread that ``later`` uses.
        later: Runs work that would block the device, such as writing a file; immediately by default.
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
        self._networks = Residents(network)
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
        self._next_question = 0.0

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self._network.device

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step or to answer."""
        return not self._jobs and not self._questions

    def handle(self, command: Command) -> None:
        """Handle a command; it takes effect before the next step."""
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
        """Advance every job by one step, batch by batch, and report."""
        for batch in list(self._batches.values()):
            names = tuple(name for name, running in self._jobs.items() if running.batch is batch)
            reports: list[tuple[str, Step]] = []
            with self._failures(names):
                reports = self._measure(batch)
            for job_id, step in reports:
                running = self._jobs.get(job_id)
                # The report may be for a step that was done before the job moved to its next level.
                if running is not None and running.batch is batch:
                    with self._failures((job_id,)):
                        self._report(job_id, step)
        if self._questions and (not self._jobs or time.monotonic() >= self._next_question):
            began = time.monotonic()
            self._send(self._networks.inspect(self._questions.popleft(), self._used()))
            ended = time.monotonic()
            self._next_question = ended + QUESTION_SHARE * (ended - began)
        for job_id, running in self._jobs.items():
            if running.checkpoint and not running.writing and time.monotonic() >= running.due:
                self._save(job_id, running, running.checkpoint)

    def _measure(self, batch: RunningBatch) -> list[tuple[str, Step]]:
        """Step a batch; if its pass is larger than any before, report its memory."""
        canvases = batch.largest_pass
        key = _batch_key(batch)
        if canvases <= self._measured.get(key, 0):
            return batch.step()
        with PeakMemory(self._network.device) as peak:
            reports = batch.step()
        self._measured[key] = canvases
        pixels = canvases * batch.key.height * batch.key.width
        share = ARCHITECTURES[batch.network.name].memory
        self._send(PassMeasured(batch.key.precision, pixels, peak.taken, share))
        return reports

    def _join(self, command: Start) -> None:
        job = tensors.to_engine(self._pinned(command))
        network = self._networks.get(command.spec.parameters.network, self._used())
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
        self._send(
            JobStarted(command.job_id, key.precision, done, note, described(network), hits, misses, torch.get_num_threads())
        )

    def _pinned(self, command: Start) -> JobSpec:
        """Return a job's spec with the arithmetic that it began with, if this device has it."""
        spec, begun = command.spec, command.arithmetic
        if begun is None or spec.parameters.precision != "auto" or (begun == "tf32" and self.device.type != "cuda"):
            return spec
        return replace(spec, parameters=replace(spec.parameters, precision=begun))

    def _used(self) -> list[Network]:
        return [running.batch.network for running in self._jobs.values()]

    def _batch(self, network: Network, level: painting.Level) -> RunningBatch:
        batch = RunningBatch(network, level.job.key(network.device), graphs=self._graphs)
        return self._batches.setdefault(_batch_key(batch), batch)

    def _climb(self, job_id: str) -> None:
        """Move a job to its next level, with an enlarged canvas."""
        running = self._jobs[job_id]
        before, level = running.batch, running.level
        running.index += 1
        running.batch = self._batch(before.network, running.level)
        painting.climb(before, running.batch, job_id, level, running.level, self._styles)
        self._drop_empty(before)

    def _save(self, job_id: str, running: _Running, path: Path) -> None:
        """Copy a job's state and write it in the background.

        On a CPU the write also slows the steps, by more than its own time, because both use every core and their threads wait
        for one another. The next write starts no sooner than :data:`COST_SHARE` times the cost of this one later.
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
                logger.warning("cannot write the checkpoint of job %s: %s", job_id, error)
            contention = CPU_CONTENTION if self._network.device.type == "cpu" else 0.0
            cost_s = copying_s + contention * (time.thread_time() - before)
            running.due = time.monotonic() + max(self._interval_s, COST_SHARE * cost_s)
            running.writing = False
            if self._jobs.get(job_id) is not running:  # it ended meanwhile: its files are not needed
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
                logger.warning("job %s is parked in memory, because its checkpoint cannot be written: %s", job_id, error)
                self._kept[job_id] = checkpoint
            self._send(JobParked(job_id, state.step))

        self._later(write)

    def _report(self, job_id: str, step: Step) -> None:
        running = self._jobs.get(job_id)
        if running is None:
            return
        steps = running.spec.parameters.steps
        elapsed = time.monotonic() - running.began
        losses = step.losses
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
        """Report a job's finished canvas, enlarged if it has not reached its full size."""
        running = self._jobs[job_id]
        canvas = running.batch.canvas(job_id)[None]
        for before, after in itertools.pairwise(running.levels[running.index :]):
            canvas = painting.next_canvas(canvas[0], before.job, after.job, self._network.device)
        self._leave(job_id)
        job = running.levels[-1].job
        picture = painting.finished(canvas[0], job)
        warnings = _hardly_painted(painting.change(picture, job), running.spec.parameters.steps)
        self._send(JobPainted(job_id, reason, tensors.raster(picture), warnings))

    def _preview(self, running: _Running, job_id: str) -> bytes:
        canvas = painting.finished(running.batch.canvas(job_id), running.level.job)
        scale = min(1.0, running.spec.output.preview_size_px / max(canvas.shape[1:]))
        if scale < 1:
            size = [max(1, round(side * scale)) for side in canvas.shape[1:]]
            canvas = F.interpolate(canvas[None], size=size, mode="bilinear", antialias=True)[0]
        return images.encode(tensors.raster(canvas), "jpeg", PREVIEW_QUALITY)

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
        """Remove failed jobs, and report why."""
        lost = isinstance(error, PictureLost)
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        reason = "DATA_LOST" if lost else "OUT_OF_MEMORY" if memory else "ENGINE_ERROR"
        # A picture is missing if its job was just deleted; otherwise the server reports it.
        logger.log(
            logging.INFO if lost else logging.ERROR,
            "jobs %s failed: %s",
            ", ".join(job_ids),
            error,
            exc_info=None if lost else error,
        )
        for job_id in job_ids:
            if job_id in self._jobs:
                self._leave(job_id)
            self._send(JobFailed(job_id, reason, str(error).splitlines()[0] if str(error) else type(error).__name__))
        # A batch that was created for a job that could not join is not needed.
        self._batches = {key: batch for key, batch in self._batches.items() if len(batch)}


def _hardly_painted(change: float, steps: int) -> tuple[JobWarning, ...]:
    """Warn about a picture that is nearly what it started from, which no loss and no stop reason shows."""
    if change >= HARDLY_PAINTED:
        return ()
    more = ", or use more steps" if steps < FEW_STEPS else ""
    text = f"the canvas changed by only {change:.1f} of 255 levels; raise the style weight or lower the content weight{more}"
    return (JobWarning("HARDLY_PAINTED", text),)


def _batch_key(batch: RunningBatch) -> tuple[str, BatchKey]:
    return f"{batch.network.name} {batch.network.weights.sha256}", batch.key


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
