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
from impasto_engine.samples import Step
from impasto_engine.streams import Marker, hand_over
from impasto_server.domain.job import StopReason
from impasto_server.workers import portraits
from impasto_server.workers.failures import DeviceLostError, job_failed
from impasto_server.workers.lanes import AT_ONCE, Lanes
from impasto_server.workers.messages import (
    Cancel,
    Command,
    Finish,
    Inspect,
    JobParked,
    JobStepped,
    PassMeasured,
    Report,
    Start,
)
from impasto_server.workers.networks import Residents
from impasto_server.workers.preparing import Preparer
from impasto_server.workers.running import Preparation, Ready, Running
from impasto_server.workers.saving import Saver

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
QUESTION_SHARE = 3
"""After an inspection, the jobs run alone for this multiple of its duration."""
MEASURED_ANEW = 8
"""The memory of a pass that is no larger than any before is measured again in each so many batches."""


class Worker:
    """Steps the batches on one device. It owns no thread and no pipe, so that tests can drive it directly.

    Args:
        network: Loaded on the device.
        send: Receives each report; must be safe to call from the threads of the lanes.
        lanes: Where the work beside the steps is done; at once by default.
        checkpoint_interval_s: How often each job's state is written.
        post: Passes a job that has been prepared to :meth:`handle` on the stepping thread; at once by default.
        graphs: Whether evaluations are recorded as CUDA graphs.
        whole_checkpoints: Whether a checkpoint is one file; otherwise only what is new is written.
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
        whole_checkpoints: bool = False,
    ) -> None:
        self._network = network
        self._networks = Residents(network)
        self._graphs = graphs
        self._send = send
        self._lanes = lanes
        self._post = post or self.handle
        self._saver = Saver(
            network.device, lanes.write, send, self._lane_failed, checkpoint_interval_s, whole=whole_checkpoints
        )
        self._preparer = Preparer(self._networks, self._saver.kept, checkpoint_interval_s)
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
                self._saver.kept.pop(command.job_id, None)
            else:
                self._preparing[command.job_id].commands.append(command)
        elif command.job_id not in self._jobs:
            if isinstance(command, Cancel):
                self._saver.kept.pop(command.job_id, None)
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
        self._saver.save_due(self._jobs, self._preparing)

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
        hand_over((*entrant.state.values(), *entrant.objective.tensors(), *running.network.tensors()))
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

    def _park(self, job_id: str) -> None:
        running = self._jobs[job_id]
        self._flush(job_id, running)
        running.parked = True
        snapshot = self._with_room(lambda: running.batch.snapshot(job_id))
        self._leave(job_id)
        self._saver.park(job_id, running, snapshot, lambda: self._emit(JobParked(job_id, snapshot.step)))

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
        for job_id in job_ids:
            self._emit(job_failed(job_id, error))


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
