"""A worker: one device, its networks, and running batches that jobs join and leave between steps."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from impasto_engine import painting
from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.batch import BatchKey, RunningBatch
from impasto_engine.devices import PeakMemory, is_lost, release_cached
from impasto_engine.networks import Network
from impasto_engine.samples import Snapshot, Step
from impasto_engine.streams import Marker, hand_over
from impasto_server.domain.job import StopReason
from impasto_server.domain.pictures import PictureLost
from impasto_server.workers import checkpoints, portraits
from impasto_server.workers.checkpoints import Checkpoint
from impasto_server.workers.lanes import AT_ONCE, Lanes, TimeShare
from impasto_server.workers.messages import (
    Cancel,
    Checkpointed,
    Command,
    Finish,
    Inspect,
    JobFailed,
    JobParked,
    JobStepped,
    PassMeasured,
    Report,
    Start,
    checkpoint_files,
)
from impasto_server.workers.networks import Residents
from impasto_server.workers.preparing import Preparer
from impasto_server.workers.running import Preparation, Ready, Running

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
COST_SHARE = 50
"""Minimum time between checkpoints, of all jobs together, as a multiple of the cost of one, however short the interval."""
QUESTION_SHARE = 3
"""After an inspection, the jobs run alone for this multiple of its duration."""
CPU_CONTENTION = 1.5
"""Approximate delay of steps on a CPU by work on another thread, relative to that work's own time (measured)."""
MEASURED_ANEW = 8
"""The memory of a pass that is no larger than any before is measured again in each so many batches."""


class DeviceLostError(Exception):
    """Nothing more can be computed in this process. It must end, so that it is started again and its jobs go on."""


class Worker:
    """Steps the batches on one device. It owns no thread and no pipe, so that tests can drive it directly.

    Args:
        network: Loaded on the device.
        send: Receives each report; must be safe to call from the threads of the lanes.
        lanes: Where the work beside the steps is done; at once by default.
        checkpoint_interval_s: How often each job's state is written.
        post: Passes a job that has been prepared to :meth:`handle` on the stepping thread; at once by default.
        graphs: Whether evaluations are recorded as CUDA graphs.
    """

    def __init__(
        self,
        network: Network,
        send: Callable[[Report], None],
        lanes: Lanes = AT_ONCE,
        checkpoint_interval_s: float = math.inf,
        post: Callable[[Preparation], None] | None = None,
        *,
        graphs: bool = False,
    ) -> None:
        self._network = network
        self._networks = Residents(network)
        self._graphs = graphs
        self._send = send
        self._lanes = lanes
        self._post = post or self.handle
        self._interval_s = checkpoint_interval_s
        self._share = TimeShare(COST_SHARE)
        self._kept: dict[str, Checkpoint] = {}
        self._preparer = Preparer(self._networks, self._kept, checkpoint_interval_s)
        self._batches: dict[tuple[str, BatchKey], RunningBatch] = {}
        self._measured: dict[tuple[str, BatchKey], int] = {}
        self._preparing: dict[str, Preparation] = {}
        self._jobs: dict[str, Running] = {}
        self._questions: deque[Inspect] = deque()
        self._next_question = 0.0
        self._lost: Exception | None = None
        self._opened = 0

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self._network.device

    @property
    def idle(self) -> bool:
        """Whether it has no job and no question."""
        return self.waiting and not self._preparing

    @property
    def waiting(self) -> bool:
        """Whether there is nothing to step or to answer: the next thing to do comes to :meth:`handle`."""
        return not self._jobs and not self._questions and self._lost is None

    def handle(self, command: Command | Preparation) -> None:
        """Handle a command, or add a job that has been prepared; both take effect before the next step.

        Raises:
            DeviceLostError: If the device cannot be used any more.
        """
        self._check()
        if isinstance(command, Preparation):
            self._prepared(command)
        elif isinstance(command, Start):
            used = [running.network for running in self._jobs.values()]
            self._prepare(Preparation(command.job_id, lambda: self._preparer.start(command, used)))
        elif isinstance(command, Inspect):
            self._questions.append(command)
        elif command.job_id in self._preparing:
            if isinstance(command, Cancel):
                del self._preparing[command.job_id]
                self._kept.pop(command.job_id, None)
            else:
                self._preparing[command.job_id].commands.append(command)
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
        """Advance every job by one step, batch by batch, and report.

        Raises:
            DeviceLostError: If the device cannot be used any more.
        """
        self._check()
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
                        self._on_step(job_id, running, step)
        if self._questions and (not self._jobs or time.monotonic() >= self._next_question):
            began = time.monotonic()
            used = [running.network for running in self._jobs.values()]
            self._send(self._networks.inspect(self._questions.popleft(), used))
            ended = time.monotonic()
            self._next_question = ended + QUESTION_SHARE * (ended - began)
        self._save_one()

    def _check(self) -> None:
        if self._lost is not None:
            raise DeviceLostError(str(self._lost)) from self._lost

    def _measure(self, batch: RunningBatch) -> list[tuple[str, Step]]:
        """Step a batch; report the memory of its pass if it is larger than any before, and now and then otherwise."""
        canvases, key = batch.largest_pass, _batch_key(batch)
        if canvases <= self._measured.get(key, 0) or self._preparing:
            return batch.step()
        peak = PeakMemory(self.device)
        reports = batch.step(lambda: peak)
        self._measured[key] = canvases
        pixels = canvases * batch.key.height * batch.key.width
        share = ARCHITECTURES[batch.network.name].memory
        self._send(PassMeasured(batch.key.precision, pixels, peak.taken, share))
        return reports

    def _prepare(self, preparation: Preparation) -> None:
        self._preparing[preparation.job_id] = preparation
        marker = Marker(self.device)

        def work() -> None:
            try:
                with marker.beside():
                    preparation.ready = preparation.work()
            except Exception as error:
                preparation.error = error
            self._post(preparation)

        self._lanes.prepare(work)

    def _prepared(self, preparation: Preparation) -> None:
        """Add a job to its batch, unless it was cancelled meanwhile; then handle what arrived for it."""
        job_id = preparation.job_id
        if self._preparing.get(job_id) is not preparation:
            return
        del self._preparing[job_id]
        if isinstance(preparation.error, torch.OutOfMemoryError) and not preparation.tried:
            preparation.tried, preparation.error = True, None
            self._make_room()
            self._prepare(preparation)
            return
        with self._failures((job_id,)):
            if preparation.ready is None:
                raise preparation.error or RuntimeError("nothing was prepared")
            self._join(job_id, preparation.ready)
        for command in preparation.commands:
            self.handle(command)

    def _join(self, job_id: str, ready: Ready) -> None:
        running, entrant = ready.running, ready.entrant
        hand_over((*entrant.state.values(), *entrant.objective.tensors()))
        batch = self._batch(running.network, running.level)
        self._with_room(lambda: batch.add(job_id, entrant))
        batch.show(job_id, running.spec.output.preview_every_steps)
        running.batch = batch
        self._jobs[job_id] = running
        if ready.started is not None:
            self._emit(ready.started)

    def _with_room(self, act: Callable[[], Result]) -> Result:
        """Do something; if there is no memory for it, free what can be freed, and try once more."""
        with contextlib.suppress(torch.OutOfMemoryError):
            return act()
        self._make_room()
        return act()

    def _make_room(self) -> None:
        """Free what is held for jobs that have left."""
        for batch in self._batches.values():
            batch.compact()
        release_cached(self.device)

    def _batch(self, network: Network, level: painting.Level) -> RunningBatch:
        batch = RunningBatch(network, level.job.key(network.device), graphs=self._graphs)
        key = _batch_key(batch)
        if key not in self._batches:
            self._batches[key] = batch
            self._opened += 1
            if self._opened % MEASURED_ANEW == 0:
                self._measured.pop(key, None)
        return self._batches[key]

    def _climb(self, job_id: str) -> None:
        """Move a job to its next level, with an enlarged canvas."""
        running = self._jobs[job_id]
        batch, level = running.batch, running.levels[running.index + 1]
        canvas, carried = batch.canvas(job_id), batch.carried(job_id, level.job.height, level.job.width)
        self._leave(job_id)
        self._prepare(Preparation(job_id, lambda: self._preparer.climb(running, canvas, lambda _height, _width: carried)))

    def _save_one(self) -> None:
        """Write the state of the job that has been due for longest, if the time share of all jobs allows one now."""
        now = time.monotonic()
        due = [job_id for job_id, job in self._jobs.items() if job.checkpoint and not job.writing and now >= job.due]
        if due and self._share.open:
            job_id = min(due, key=lambda job_id: self._jobs[job_id].due)
            with self._failures((job_id,)):
                self._save(job_id, self._jobs[job_id])

    def _save(self, job_id: str, running: Running) -> None:
        """Copy a job's state, and write it on another thread.

        On a CPU the write also slows the steps, by more than its own time, because both use every core and their threads wait
        for one another.
        """
        began = time.monotonic()
        running.due = began + self._interval_s
        try:
            snapshot = running.batch.snapshot(job_id)
        except torch.OutOfMemoryError:
            logger.warning("no memory to copy the state of job %s: it is written later", job_id)
            return
        copying_s = time.monotonic() - began
        running.writing = True

        def write() -> None:
            before = time.thread_time()
            path = running.checkpoint
            size = self._written(job_id, running, snapshot, began, parked=False)
            if size is not None:
                self._send(Checkpointed(job_id, size))
            contention = CPU_CONTENTION if self.device.type == "cpu" else 0.0
            self._share.charge(copying_s + contention * (time.thread_time() - before))
            running.writing = False
            if path and self._jobs.get(job_id) is not running and job_id not in self._preparing:
                for file in checkpoint_files(path):  # it ended meanwhile: its files are not needed
                    file.unlink(missing_ok=True)

        self._lanes.write(write)

    def _written(self, job_id: str, running: Running, snapshot: Snapshot, at: float, *, parked: bool) -> int | None:
        """Write a state, and return its size; None if that failed. The state of a parked job is kept in memory then."""
        try:
            checkpoint = Checkpoint(running.owner, snapshot.fetch(), at - running.began)
        except Exception as error:
            self._lane_failed(f"copying the state of job {job_id}", error)
            return None
        try:
            if running.checkpoint is None:
                raise OSError("it has no file")
            return checkpoints.write(running.checkpoint, checkpoint)
        except OSError as error:
            logger.warning("cannot write the checkpoint of job %s: %s", job_id, error)
            if parked:
                self._kept[job_id] = checkpoint
            return None

    def _park(self, job_id: str) -> None:
        running = self._jobs[job_id]
        self._flush(job_id, running)
        snapshot = self._with_room(lambda: running.batch.snapshot(job_id))
        self._leave(job_id)
        now = time.monotonic()

        def write() -> None:
            self._written(job_id, running, snapshot, now, parked=True)
            self._emit(JobParked(job_id, snapshot.step))

        self._lanes.write(write)

    def _flush(self, job_id: str, running: Running) -> None:
        """Report the steps of a job that were not read yet: it is about to leave its batch."""
        for step in running.batch.flush(job_id):
            self._report(job_id, running, step)

    def _on_step(self, job_id: str, running: Running, step: Step) -> None:
        """Report a step; at the end of a level go on to the next one, at the end of the last one finish."""
        self._report(job_id, running, step)
        if not step.last and step.step < running.level.last:
            return
        if running.level is not running.levels[-1]:
            self._flush(job_id, running)
            self._climb(job_id)
            return
        early = StopReason.CONVERGED if step.converged else StopReason.STALLED
        self._finish(job_id, StopReason.STEPS if step.step >= running.spec.parameters.steps else early)

    def _report(self, job_id: str, running: Running, step: Step) -> None:
        elapsed = time.monotonic() - running.began
        stepped = partial(JobStepped, job_id, step.step, step.losses, elapsed, running.remaining_s(step.step, elapsed))
        canvas, job, output = step.canvas, running.level.job, running.spec.output
        if canvas is None or running.showing:  # a preview is left out while the one before is being made
            self._emit(stepped(None))
            return
        running.showing = True
        marker = Marker(self.device)

        def show() -> None:
            made = None
            try:
                with marker.beside():
                    made = portraits.preview(canvas, job, output)
            except Exception as error:
                self._lane_failed(f"a preview of job {job_id}", error)
            running.showing = False
            self._send(stepped(made))

        self._lanes.report(show)

    def _finish(self, job_id: str, reason: StopReason) -> None:
        """Report a job's finished canvas, enlarged if it has not reached its full size."""
        running = self._jobs[job_id]
        self._flush(job_id, running)
        canvas, levels, steps = running.batch.canvas(job_id), running.levels[running.index :], running.spec.parameters.steps
        self._leave(job_id)
        marker = Marker(self.device)

        def show() -> None:
            try:
                with marker.beside():
                    made = portraits.painted(job_id, canvas, levels, steps, reason)
            except Exception as error:
                if not self._lane_failed(f"the picture of job {job_id}", error):
                    self._tell((job_id,), error)
            else:
                self._send(made)

        self._lanes.report(show)

    def _emit(self, report: Report) -> None:
        """Send a report on a job, after those before it."""
        self._lanes.report(lambda: self._send(report))

    def _leave(self, job_id: str) -> None:
        batch = self._jobs[job_id].batch
        if job_id in batch:
            self._with_room(lambda: batch.leave(job_id))
        if not len(batch):
            self._batches.pop(_batch_key(batch), None)
        del self._jobs[job_id]

    def _failures(self, job_ids: tuple[str, ...]) -> _Failures:
        return _Failures(self, job_ids)

    def _lane_failed(self, what: str, error: Exception) -> bool:
        """Note an error of work beside the steps. If the device is lost, wake the stepping thread; return whether it is."""
        lost = is_lost(error, self.device)
        if lost:
            self._lost = error
            self._post(Preparation("", _nothing))
        else:
            logger.error("%s failed: %s", what, error, exc_info=error)
        return lost

    def fail(self, job_ids: tuple[str, ...], error: Exception) -> None:
        """Remove failed jobs, and report why.

        Raises:
            DeviceLostError: If the device cannot be used any more. The jobs are not at fault, and are not reported.
        """
        if is_lost(error, self.device):
            raise DeviceLostError(str(error)) from error
        for job_id in job_ids:
            if job_id in self._jobs:
                self._leave(job_id)
        self._tell(job_ids, error)
        # A batch that was created for a job that could not join is not needed.
        self._batches = {key: batch for key, batch in self._batches.items() if len(batch)}

    def _tell(self, job_ids: tuple[str, ...], error: Exception) -> None:
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
            self._emit(JobFailed(job_id, reason, str(error).splitlines()[0] if str(error) else type(error).__name__))


def _nothing() -> Ready:
    raise AssertionError("this is only posted to wake the stepping thread")


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
        if not isinstance(error, Exception) or isinstance(error, DeviceLostError):
            return False
        self._worker.fail(self._job_ids, error)
        return True
