"""A worker's jobs: while they are prepared, and while they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from impasto_engine import painting
from impasto_engine.batch import RunningBatch
from impasto_engine.networks import Network
from impasto_engine.samples import Entrant
from impasto_server.domain.job import JobSpec
from impasto_server.workers.messages import Command, JobStarted
from impasto_server.workers.pairs import Ledger


@dataclass
class Running:
    """A job on a worker.

    Attributes:
        owner: Owner of its checkpoints.
        levels: The job at each of its sizes.
        index: Its current level.
        network: The network that paints it.
        began: When its steps began, from ``time.monotonic()``; earlier by the time of those before a resumption.
        checkpoint: Where its state is written; None for nowhere.
        ledger: What is stored of it at its current level.
        due: When its state is written next.
        writing: Whether its state is being written.
        showing: Whether a preview of it is being made.
        parked: Whether it leaves, to go on later: its checkpoint is needed.
    """

    spec: JobSpec
    owner: str
    levels: list[painting.Level]
    index: int
    network: Network
    began: float
    checkpoint: Path | None
    ledger: Ledger | None
    due: float
    writing: bool = False
    showing: bool = False
    parked: bool = False
    _batch: RunningBatch | None = None

    @property
    def level(self) -> painting.Level:
        """The level that it is at."""
        return self.levels[self.index]

    @property
    def batch(self) -> RunningBatch:
        """The batch that it is in."""
        assert self._batch is not None  # noqa: S101 - set when it joins
        return self._batch

    @batch.setter
    def batch(self, batch: RunningBatch) -> None:
        self._batch = batch

    def remaining_s(self, step: int, elapsed_s: float) -> float:
        """Estimate the time to the last step: the time of a step is proportional to its pixels."""
        done = work = 0.0
        for level in self.levels:
            pixels = level.job.height * level.job.width
            work += (level.last - level.done) * pixels
            done += (min(max(step, level.done), level.last) - level.done) * pixels
        return elapsed_s / done * (work - done) if done else 0.0


@dataclass
class Ready:
    """A job that is ready to join its batch.

    Attributes:
        started: The report to send when it has joined; None at the later levels of a job.
    """

    running: Running
    entrant: Entrant
    started: JobStarted | None = None


@dataclass
class Preparation:
    """A job that is being prepared on another thread, and then handed back to the stepping thread.

    Attributes:
        work: Prepares the job.
        commands: What arrived for it meanwhile, in order.
        tried: Whether it was tried before, and there was no memory.
        ready: The result.
        error: Why there is none.
    """

    job_id: str
    work: Callable[[], Ready]
    commands: list[Command] = field(default_factory=list)
    tried: bool = False
    ready: Ready | None = None
    error: Exception | None = None
