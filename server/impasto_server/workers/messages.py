"""Messages between the server and its worker processes: plain frozen dataclasses, pickled over a pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from impasto_engine.parameters import Arithmetic, Pooling
from impasto_engine.results import Losses
from impasto_server.domain.job import JobSpec, JobWarning, NetworkDescription, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.workers.memory import MemoryModel


def checkpoint_files(path: Path) -> tuple[Path, Path]:
    """Return the paths of a job's newest checkpoint and of the previous one."""
    return path, path.with_name(path.name + ".previous")


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of a worker.

    Attributes:
        whole_checkpoints: Whether a checkpoint is one file, as an agent sends it; otherwise only what is new is written.
    """

    device: str
    weights: str
    checkpoint_interval_s: float = 5.0
    cuda_graphs: bool = False
    whole_checkpoints: bool = False


@dataclass(frozen=True)
class Start:
    """Add a job to the running batch at the next step.

    Attributes:
        checkpoint: File to resume from if it exists, and to write the job's state to regularly; empty for neither.
        arithmetic: Arithmetic that the job began with, which a resumed job keeps; None for a new job.
    """

    job_id: str
    spec: JobSpec
    checkpoint: str = ""
    arithmetic: Arithmetic | None = None


@dataclass(frozen=True)
class Cancel:
    """Remove a job before the next step; an unknown job is ignored."""

    job_id: str


@dataclass(frozen=True)
class Park:
    """Write a job's state to its checkpoint and remove the job; an unknown job is ignored."""

    job_id: str


@dataclass(frozen=True)
class Finish:
    """End a job with its current canvas; an unknown job is ignored."""

    job_id: str


@dataclass(frozen=True)
class Inspect:
    """Compute how filters of a layer respond to a picture; the answer has the same number.

    Attributes:
        filters: Numbers of the filters; empty for the strongest.
        count: Number of the strongest filters to return.
    """

    number: int
    picture: Raster
    network: str
    layer: str
    filters: tuple[int, ...]
    count: int
    pooling: Pooling


Command = Start | Cancel | Park | Finish | Inspect


@dataclass(frozen=True)
class Ready:
    """The network is loaded and warm.

    Attributes:
        description: The device's name, from its maker.
        network: The loaded network.
        arithmetic: What precision ``auto`` means here.
        group: Canvases of one shape that are evaluated in one pass.
        memory: Measured memory of the network's passes.
        free_bytes: Memory that jobs may use together; None if unknown.
        available: Other networks that can be loaded by name, ``ARCHITECTURE:WEIGHTS``.
        seconds_per_pixel: Time of a step per pixel of the canvas, from a first measurement; 0 if not measured.
        uuid: The GPU, as its driver names it whatever its number; empty for other devices.
    """

    description: str
    network: NetworkDescription
    arithmetic: Arithmetic
    group: int = 1
    memory: MemoryModel = field(default_factory=MemoryModel)
    free_bytes: int | None = None
    available: tuple[str, ...] = ()
    seconds_per_pixel: float = 0.0
    uuid: str = ""


@dataclass(frozen=True)
class CannotStart:
    """The worker cannot start, and why."""

    message: str


@dataclass(frozen=True)
class JobStarted:
    """A job's targets are ready and its next step starts; ``step`` steps are already done.

    Attributes:
        note: A note for the owner, such as that a checkpoint was damaged.
        network: The network that paints it.
        cache_hits: Styles whose statistics were cached.
        cache_misses: Styles that were evaluated by the network.
        threads: Threads that the worker computes with; they affect sums.
    """

    job_id: str
    arithmetic: Arithmetic
    step: int = 0
    note: str = ""
    network: NetworkDescription | None = None
    cache_hits: int = 0
    cache_misses: int = 0
    threads: int = 0


@dataclass(frozen=True)
class JobStepped:
    """A job finished a step; the preview is an encoded JPEG."""

    job_id: str
    step: int
    losses: Losses
    elapsed_s: float
    remaining_s: float
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PassMeasured:
    """Measured device memory of a pass, for canvases with this many pixels together."""

    arithmetic: Arithmetic
    pixels: int
    taken: int
    share: float = 1.0


@dataclass(frozen=True)
class Alive:
    """A worker's process runs. Sent every second by a separate thread.

    Attributes:
        busy_s: How long its main thread has been in its current round: a step of every batch, or an inspection.
        idle_bytes: Free memory of its device while it has no jobs; None if it has some, or if unknown.
    """

    busy_s: float
    idle_bytes: int | None = None


@dataclass(frozen=True)
class JobParked:
    """A job left, with its state in its checkpoint."""

    job_id: str
    step: int


@dataclass(frozen=True)
class Checkpointed:
    """A job's state was written, with the number of bytes that this took."""

    job_id: str
    size: int


@dataclass(frozen=True)
class JobPainted:
    """A job's canvas is finished.

    Attributes:
        encoded: The picture in its output format, if the worker's host has encoded it; ``picture`` is empty then.
        encode_s: Time that this took.
    """

    job_id: str
    stop_reason: StopReason
    picture: Raster = field(repr=False)
    warnings: tuple[JobWarning, ...] = ()
    encoded: bytes | None = field(default=None, repr=False)
    encode_s: float = 0.0


@dataclass(frozen=True)
class JobFailed:
    """A job cannot continue; the worker and its other jobs can."""

    job_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class FilterResponse:
    """Response of one filter to a picture: its value at each position as a grey PNG, and statistics."""

    filter: int
    picture: bytes = field(repr=False)
    minimum: float
    maximum: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Inspected:
    """Responses of filters to a picture, or an error."""

    number: int
    responses: tuple[FilterResponse, ...] = ()
    network: NetworkDescription | None = None
    error: str = ""


@dataclass(frozen=True)
class Together:
    """Reports that arrived in one message, those of a job in order."""

    reports: tuple[JobReport, ...]


JobReport = JobStarted | JobStepped | Checkpointed | JobParked | JobPainted | JobFailed
Report = Ready | CannotStart | Alive | PassMeasured | Inspected | JobReport | Together
