"""Writes the states of a worker's jobs to their checkpoints, beside the steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping

import torch

from impasto_engine.samples import Snapshot
from impasto_server.workers import checkpoint_format, checkpoints
from impasto_server.workers.checkpoints import Checkpoint
from impasto_server.workers.lanes import Lane, TimeShare
from impasto_server.workers.messages import Checkpointed, Report
from impasto_server.workers.pairs import Ledger
from impasto_server.workers.running import Running

logger = logging.getLogger(__name__)
COST_SHARE = 50
"""Minimum time between checkpoints, of all jobs together, as a multiple of the cost of one, however short the interval."""
CPU_CONTENTION = 1.5
"""Approximate delay of steps on a CPU by work on another thread, relative to that work's own time (measured)."""


class Saver:
    """Copies and writes states.

    Args:
        device: The device of the states.
        write: Where they are fetched and written.
        send: Receives the reports on written states.
        failed: Called with what failed and why if a state cannot be fetched from the device.
        interval_s: How often each job's state is written.
        whole: Whether a checkpoint is one file, which can be sent to another machine; otherwise only what is new is written.

    Attributes:
        kept: States of parked jobs whose checkpoints could not be written.
    """

    def __init__(
        self,
        device: torch.device,
        write: Lane,
        send: Callable[[Report], None],
        failed: Callable[[str, Exception], object],
        interval_s: float,
        *,
        whole: bool = False,
    ) -> None:
        self._device = device
        self._write = write
        self._send = send
        self._failed = failed
        self._interval_s = interval_s
        self._whole = whole
        self._share = TimeShare(COST_SHARE)
        self.kept: dict[str, Checkpoint] = {}

    def save_due(self, jobs: Mapping[str, Running], preparing: Container[str]) -> None:
        """Write the state of the job that has been due for longest, if the time share of all jobs allows one now.

        Args:
            jobs: The jobs that run, by id.
            preparing: Ids of jobs on their way to their next level.
        """
        now = time.monotonic()
        due = [job_id for job_id, job in jobs.items() if job.checkpoint and not job.writing and now >= job.due]
        if due and self._share.open:
            self._save(min(due, key=lambda job_id: jobs[job_id].due), jobs, preparing)

    def park(self, job_id: str, running: Running, snapshot: Snapshot, then: Callable[[], None]) -> None:
        """Write the state of a job that has left; it is kept in memory if it cannot be written, so it must be complete."""
        now, ledger = time.monotonic(), self._ledger(running)

        def write() -> None:
            self._written(job_id, running, snapshot, ledger, now, parked=True)
            then()

        self._write(write)

    def _save(self, job_id: str, jobs: Mapping[str, Running], preparing: Container[str]) -> None:
        """Copy a job's state, and write it on another thread.

        On a CPU the write also slows the steps, by more than its own time, because both use every core and their threads wait
        for one another.
        """
        running, began = jobs[job_id], time.monotonic()
        running.due = began + self._interval_s
        ledger = self._ledger(running)
        try:
            snapshot = running.batch.snapshot(job_id, ledger.step if ledger else None)
        except torch.OutOfMemoryError:
            logger.warning("no memory to copy the state of job %s: it is written later", job_id)
            return
        copying_s = time.monotonic() - began
        running.writing = True

        def write() -> None:
            before = time.thread_time()
            size = self._written(job_id, running, snapshot, ledger, began, parked=False)
            if size is not None:
                self._send(Checkpointed(job_id, size))
            contention = CPU_CONTENTION if self._device.type == "cpu" else 0.0
            self._share.charge(copying_s + contention * (time.thread_time() - before))
            running.writing = False
            if running.checkpoint and not running.parked and jobs.get(job_id) is not running and job_id not in preparing:
                checkpoint_format.remove(running.checkpoint)  # it ended meanwhile: its files are not needed

        self._write(write)

    def _ledger(self, running: Running) -> Ledger | None:
        return None if self._whole else running.ledger

    def _written(
        self, job_id: str, running: Running, snapshot: Snapshot, ledger: Ledger | None, at: float, *, parked: bool
    ) -> int | None:
        """Write a state, and return how many bytes; None if that failed. The state of a parked job is kept in memory then."""
        try:
            checkpoint = Checkpoint(running.owner, snapshot.fetch(), at - running.began)
        except Exception as error:
            self._failed(f"copying the state of job {job_id}", error)
            return None
        try:
            if running.checkpoint is None:
                raise OSError("it has no file")
            return checkpoints.write(running.checkpoint, checkpoint, ledger)
        except OSError as error:
            logger.warning("cannot write the checkpoint of job %s: %s", job_id, error)
            if parked:
                self.kept[job_id] = checkpoint
            return None
