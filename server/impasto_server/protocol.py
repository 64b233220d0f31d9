"""What the server and its worker processes say to each other. Plain frozen dataclasses, pickled over a pipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from impasto_engine.parameters import Arithmetic
from impasto_server.jobs import JobSpec, Losses, NetworkDescription, Raster, StopReason


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is told at its birth."""

    device: str
    weights: str


@dataclass(frozen=True)
class Start:
    """Let a job join the running batch at the next step."""

    job_id: str
    spec: JobSpec


@dataclass(frozen=True)
class Cancel:
    """Take a job out before the next step; a job that is not there is no error."""

    job_id: str


Command = Start | Cancel


@dataclass(frozen=True)
class Ready:
    """The network is resident and warm."""

    description: str
    network: NetworkDescription
    arithmetic: Arithmetic


@dataclass(frozen=True)
class CannotStart:
    """The worker will never be ready, and why."""

    message: str


@dataclass(frozen=True)
class JobStarted:
    """A job's targets are ready and its first step begins."""

    job_id: str
    arithmetic: Arithmetic


@dataclass(frozen=True)
class JobStepped:
    """A job did a step; the preview is an encoded JPEG."""

    job_id: str
    step: int
    losses: Losses
    elapsed_s: float
    remaining_s: float
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class JobPainted:
    """A job's canvas is finished."""

    job_id: str
    stop_reason: StopReason
    picture: Raster = field(repr=False)


@dataclass(frozen=True)
class JobFailed:
    """A job cannot go on; the worker and its other jobs can."""

    job_id: str
    reason: str
    message: str


Report = Ready | CannotStart | JobStarted | JobStepped | JobPainted | JobFailed
