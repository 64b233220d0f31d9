"""What the server and its worker processes say to each other. Plain frozen dataclasses, pickled over a pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from impasto_engine.parameters import Arithmetic, Pooling
from impasto_engine.results import Losses
from impasto_server.domain.job import JobSpec, JobWarning, NetworkDescription, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.workers.memory import MemoryModel


def checkpoint_files(path: Path) -> tuple[Path, Path]:
    """Return where a job's newest state lies and where the one before it."""
    return path, path.with_name(path.name + ".previous")


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is told at its birth."""

    device: str
    weights: str
    checkpoint_interval_s: float = 5.0
    cuda_graphs: bool = False


@dataclass(frozen=True)
class Start:
    """Let a job join the running batch at the next step.

    Attributes:
        checkpoint: File to go on from if it is there, and to write the job's state to now and then; empty for neither.
    """

    job_id: str
    spec: JobSpec
    checkpoint: str = ""


@dataclass(frozen=True)
class Cancel:
    """Take a job out before the next step; a job that is not there is no error."""

    job_id: str


@dataclass(frozen=True)
class Park:
    """Write a job's state to its checkpoint and take it out; a job that is not there is no error."""

    job_id: str


@dataclass(frozen=True)
class Finish:
    """Let a job end with its canvas as it stands; a job that is not there is no error."""

    job_id: str


@dataclass(frozen=True)
class Inspect:
    """Tell how filters of a layer see a picture; the answer carries the number.

    Attributes:
        filters: Which; none for those that answer most.
        count: How many of those.
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
    """The network is resident and warm.

    Attributes:
        description: The device's name by its maker.
        network: What is resident.
        arithmetic: What precision ``auto`` stands for here.
        group: Canvases of one shape that go through the network in one pass.
        memory: What the network was measured to take for each canvas.
        free_bytes: Memory that jobs may take together; None if unknown.
        available: Other networks that can be loaded by name, ``ARCHITECTURE:WEIGHTS``.
        seconds_per_pixel: What a step takes for each pixel of the canvas, by a first look; 0 if nobody looked.
    """

    description: str
    network: NetworkDescription
    arithmetic: Arithmetic
    group: int = 1
    memory: MemoryModel = field(default_factory=MemoryModel)
    free_bytes: int | None = None
    available: tuple[str, ...] = ()
    seconds_per_pixel: float = 0.0


@dataclass(frozen=True)
class CannotStart:
    """The worker will never be ready, and why."""

    message: str


@dataclass(frozen=True)
class JobStarted:
    """A job's targets are ready and its next step begins; ``step`` steps are done already.

    Attributes:
        note: What is worth knowing, such as that a checkpoint was damaged.
        network: What paints it.
        cache_hits: Styles whose statistics were there already.
        cache_misses: Styles that had to be put through the network.
    """

    job_id: str
    arithmetic: Arithmetic
    step: int = 0
    note: str = ""
    network: NetworkDescription | None = None
    cache_hits: int = 0
    cache_misses: int = 0


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
class PassMeasured:
    """What a pass through the network took of the device's memory, for canvases of so many pixels together."""

    arithmetic: Arithmetic
    pixels: int
    taken: int
    share: float = 1.0


@dataclass(frozen=True)
class Alive:
    """A worker's process runs. Sent every second by a thread of its own.

    Attributes:
        busy_s: How long its main thread has been in its present turn: a step of every batch, or a question.
        idle_bytes: What its device has free while it has no jobs; None if it has some, or nobody knows.
    """

    busy_s: float
    idle_bytes: int | None = None


@dataclass(frozen=True)
class JobParked:
    """A job left with its state in its checkpoint."""

    job_id: str
    step: int


@dataclass(frozen=True)
class Checkpointed:
    """A job's state was written, of so many bytes."""

    job_id: str
    size: int


@dataclass(frozen=True)
class JobPainted:
    """A job's canvas is finished."""

    job_id: str
    stop_reason: StopReason
    picture: Raster = field(repr=False)
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True)
class JobFailed:
    """A job cannot go on; the worker and its other jobs can."""

    job_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class FilterResponse:
    """How one filter sees a picture: its response at each position as a grey PNG, and figures."""

    filter: int
    picture: bytes = field(repr=False)
    minimum: float
    maximum: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Inspected:
    """How filters see a picture, or why that cannot be told."""

    number: int
    responses: tuple[FilterResponse, ...] = ()
    network: NetworkDescription | None = None
    error: str = ""


JobReport = JobStarted | JobStepped | Checkpointed | JobParked | JobPainted | JobFailed
Report = Ready | CannotStart | Alive | PassMeasured | Inspected | JobReport
