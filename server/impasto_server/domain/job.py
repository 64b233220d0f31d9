"""Jobs as the server knows them: frozen dataclasses, no protobuf, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from impasto_engine.parameters import Arithmetic, Parameters
from impasto_engine.results import Losses
from impasto_server.domain.pictures import ImageFormat, Plane, Raster


class JobState(Enum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"

    @property
    def ended(self) -> bool:
        """Whether the job is in a final state."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class StopReason(Enum):
    """Why a job's optimization ended."""

    STEPS = "steps"
    STALLED = "stalled"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DEADLINE = "deadline"
    CONVERGED = "converged"
    ABANDONED = "abandoned"


@dataclass(frozen=True)
class StylePicture:
    """One style picture, resized for the canvas; the digest is the hash of its pixels.

    Attributes:
        mask: Part of the picture that defines the style; same size as the picture.
        region: Part of the canvas that the style applies to; same size as the canvas.
    """

    picture: Raster
    weight: float
    digest: str
    mask: Plane | None = None
    region: Plane | None = None


@dataclass(frozen=True)
class Source:
    """A file that a job was created from.

    Attributes:
        role: Request field of the file: ``content``, ``styles[0].image``, ``styles[0].mask``, ...
        name: Name of the file, if the client sent one.
        sha256: SHA-256 of its bytes.
    """

    role: str
    name: str
    sha256: str


@dataclass(frozen=True)
class OutputOptions:
    """How pictures are encoded for the client; ``metadata`` says whether the file records its provenance."""

    format: ImageFormat = "png"
    quality: int = 95
    preview_every_steps: int = 0
    preview_size_px: int = 256
    metadata: bool = True


@dataclass(frozen=True)
class JobSpec:
    """Everything a worker needs: pictures at canvas size, and parameters.

    Only the server uses ``priority``, ``time_limit_s``, ``return_best``, ``ttl_s`` and ``sources``.

    Attributes:
        priority: Higher runs first.
        time_limit_s: Longest time from acceptance to the end; None for no limit.
        return_best: Whether the job ends with its current picture at the limit, instead of failing.
        ttl_s: How long an ended job is kept; None for the server's retention.
        mask: Part of the content that is painted; same size as the canvas.
        init_image: Picture that the canvas starts from; same size as the canvas.
        sources: The files of the pictures.
        labels: Labels by which its owner finds it.
        webhook: URL that is told of its end; empty for none.
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
    labels: Mapping[str, str] = field(default_factory=dict)
    webhook: str = field(default="", repr=False)


@dataclass(frozen=True)
class NetworkDescription:
    """The network and filters that painted a picture."""

    name: str
    weights: str
    weights_sha256: str
    layers: tuple[str, ...]

    @property
    def id(self) -> str:
        """Full name, as jobs give it."""
        return f"{self.name}:{self.weights}"


@dataclass(frozen=True)
class JobError:
    """Why a job failed: a stable reason, and a message for people."""

    reason: str
    message: str


@dataclass(frozen=True)
class JobWarning:
    """Something about a picture that its owner should know: a stable reason, and a message for people."""

    reason: str
    message: str


@dataclass(frozen=True)
class Job:
    """A job in its current state. Times are seconds since the epoch; durations are measured by a monotonic clock.

    Attributes:
        number: Sequence number among all accepted jobs; orders pages.
        own_number: Sequence number among its owner's jobs; orders the owner's pages, and reveals nothing about other owners.
        digest: Hash of the request's spec: a ``request_id`` that is used again with another hash is rejected.
        detached: Whether the job continues when no caller waits for it.
        losses_of_worker: How often its worker was lost while it ran.
        owner: Who submitted it; empty for anonymous callers.
        trace: The call that submitted it, as a ``traceparent``; empty without tracing.
        warnings: Warnings about its picture.
        threads: Threads that painted it; they affect sums. 0 if unknown.
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
    threads: int = 0
