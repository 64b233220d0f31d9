"""Jobs as the server knows them: frozen dataclasses, no protobuf, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from impasto_engine.parameters import Arithmetic, Parameters
from impasto_engine.results import Losses
from impasto_server.domain.pictures import ImageFormat, Plane, Raster


class JobState(Enum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)


class StopReason(Enum):
    """Why a job's optimization ended."""

    STEPS = "steps"
    STALLED = "stalled"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DEADLINE = "deadline"
    CONVERGED = "converged"


@dataclass(frozen=True)
class StylePicture:
    """One style at its size on the canvas; the digest names its pixels.

    Attributes:
        mask: Which part of it makes the style, of its size.
        region: Where on the canvas it goes, of the canvas's size.
    """

    picture: Raster
    weight: float
    digest: str
    mask: Plane | None = None
    region: Plane | None = None


@dataclass(frozen=True)
class Source:
    """A file that a job was made from.

    Attributes:
        role: The field it was given in: ``content``, ``styles[0].image``, ``styles[0].mask``, ...
        name: The file's, if the client told it.
        sha256: Of its bytes.
    """

    role: str
    name: str
    sha256: str


@dataclass(frozen=True)
class OutputOptions:
    """How pictures are encoded for the client; ``metadata`` says whether the file tells what made it."""

    format: ImageFormat = "png"
    quality: int = 95
    preview_every_steps: int = 0
    preview_size_px: int = 256
    metadata: bool = True


@dataclass(frozen=True)
class JobSpec:
    """Everything a worker needs: pictures at canvas size, and how to paint. What follows ``output`` is the server's affair.

    Attributes:
        priority: Higher goes first.
        time_limit_s: From acceptance to the end; None for no limit.
        return_best: Whether the picture as it stands is what is wanted at the limit.
        ttl_s: How long an ended job is kept; None for the server's retention.
        mask: What of the content is painted, of the canvas's size.
        init_image: What the canvas starts from, of its size.
        sources: The files that the pictures came from.
    """

    width: int
    height: int
    content: Raster | None
    styles: tuple[StylePicture, ...]
    parameters: Parameters
    output: OutputOptions
    priority: int = 0
    time_limit_s: float | None = None
    return_best: bool = False
    ttl_s: float | None = None
    mask: Plane | None = None
    init_image: Raster | None = None
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class NetworkDescription:
    """Which filters painted a picture."""

    name: str
    weights: str
    weights_sha256: str
    layers: tuple[str, ...]

    @property
    def id(self) -> str:
        """What jobs call it."""
        return f"{self.name}:{self.weights}"


@dataclass(frozen=True)
class JobError:
    """Why a job failed: a stable reason, and words for a person."""

    reason: str
    message: str


@dataclass(frozen=True)
class JobWarning:
    """Something about a picture that its owner should know: a stable reason, and words for a person."""

    reason: str
    message: str


@dataclass(frozen=True)
class Job:
    """A job as it stands. Times are seconds since the epoch; spans are measured by a monotonic clock.

    Attributes:
        number: Counts accepted jobs; orders pages.
        own_number: Counts those of its owner; orders the owner's pages, and tells nothing of others' jobs.
        digest: Hash of the request's spec: the same ``request_id`` with another one is refused.
        detached: Whether the job goes on when nobody waits for it.
        losses_of_worker: How often its worker died under it.
        owner: Who handed it in; empty where nobody is told apart.
        trace: The call that handed it in, as a ``traceparent``; empty without traces.
        warnings: What is worth knowing about its picture.
    """

    job_id: str
    number: int
    request_id: str
    digest: str
    detached: bool
    spec: JobSpec
    created: float
    state: JobState = JobState.QUEUED
    started: float | None = None
    ended: float | None = None
    step: int = 0
    losses: Losses | None = None
    network: NetworkDescription | None = None
    device: str = ""
    arithmetic: Arithmetic | None = None
    stop_reason: StopReason | None = None
    error: JobError | None = None
    queue_s: float = 0.0
    optimize_s: float = 0.0
    encode_s: float = 0.0
    attempts: int = 0
    preemptions: int = 0
    losses_of_worker: int = 0
    owner: str = ""
    trace: str = ""
    warnings: tuple[JobWarning, ...] = ()
    own_number: int = 0
