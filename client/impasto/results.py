"""Responses of the server as plain values."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from google.protobuf.timestamp_pb2 import Timestamp
from PIL import Image

from impasto.v1 import style_transfer_pb2 as pb

_WRITTEN = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")
"""Formats that :meth:`Result.save` converts to: those that hold a whole picture in all its colours."""
_EXTENSIONS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",)}


@dataclass(frozen=True)
class Losses:
    """Weighted losses of a canvas; the optimizer minimizes ``total``."""

    total: float
    content: float
    style: float
    total_variation: float


@dataclass(frozen=True)
class NetworkInfo:
    """A network and its weights.

    Attributes:
        name: Architecture, such as ``vgg16``.
        weights: ``builtin``, ``imagenet``, ``imagenet-v1`` or a file name.
        weights_sha256: Hash of the weights file.
        layers: Names of the layers that losses can read.
        id: Value of a job's ``network`` option that selects it.
    """

    name: str
    weights: str
    weights_sha256: str
    layers: tuple[str, ...] = field(repr=False)
    id: str = ""


@dataclass(frozen=True)
class Timings:
    """Time that a job spent in each phase, in seconds."""

    queue_s: float
    optimize_s: float
    encode_s: float


@dataclass(frozen=True)
class JobWarning:
    """A warning about the picture of a job that succeeded.

    Attributes:
        reason: Stable, UPPER_SNAKE_CASE, such as ``HARDLY_PAINTED``.
        message: Human-readable message.
    """

    reason: str
    message: str


JobState = Literal["", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
"""State of a job; empty only from a newer server with other states."""
StopReason = Literal["", "steps", "stalled", "cancelled", "failed", "deadline", "converged", "abandoned"]
"""Why a job ended; empty before."""


@dataclass(frozen=True)
class Input:
    """A picture that a job was submitted with.

    Attributes:
        field: Field that it was sent in, such as ``content`` or ``styles[0].image``.
        name: File name, if one was sent.
        sha256: SHA-256 of its file, in hex.
    """

    field: str
    name: str
    sha256: str


@dataclass(frozen=True)
class JobInfo:
    """The current state of a job.

    Attributes:
        state: One of :data:`JobState`.
        stop_reason: One of :data:`StopReason`; empty before the end.
        error_reason: Why it failed; stable, UPPER_SNAKE_CASE.
        parameters: Painting parameters, with all values filled in.
        queue_position: Jobs that will start before it, while it waits.
        attempts: Number of starts; above 1 if a worker was lost.
        priority: As requested.
        preemptions: Number of times it was preempted by a job of higher priority.
        time_limit_s: As requested; None for none.
        on_deadline: ``fail`` or ``return_best``.
        ttl_s: As requested; None for the server's retention time.
        estimated_start: Estimated start; set by ``submit``, ``validate`` and ``info`` if an estimate exists, else None.
        estimated_end: Estimated end, likewise.
        owner: Caller that submitted it; empty if callers are anonymous.
        warnings: Warnings about its picture.
        inputs: Its pictures.
        output: Output options, with all values filled in.
        labels: As requested.
    """

    job_id: str
    request_id: str
    state: JobState
    created: datetime
    started: datetime | None
    ended: datetime | None
    step: int
    steps: int
    evaluations: int
    losses: Losses | None
    width_px: int
    height_px: int
    network: NetworkInfo | None
    device: str
    stop_reason: StopReason
    error_reason: str
    error_message: str
    timings: Timings
    queue_position: int
    attempts: int
    priority: int
    preemptions: int
    time_limit_s: float | None
    on_deadline: str
    ttl_s: float | None
    estimated_start: datetime | None
    estimated_end: datetime | None
    owner: str
    parameters: Mapping[str, Any] = field(repr=False)
    warnings: tuple[JobWarning, ...] = ()
    inputs: tuple[Input, ...] = ()
    output: Mapping[str, Any] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return its id and what has become of it; ``to_dict`` has everything."""
        said = [repr(self.job_id), self.state or "of an unknown state", f"{self.step} of {self.steps} steps"]
        said += [f"{self.width_px} x {self.height_px} px"] if self.width_px else []
        said += [f"loss {self.losses.total:.4g}"] if self.losses else []
        said += [self.error_reason] if self.error_reason else []
        return f"JobInfo({', '.join(said)})"

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("succeeded", "failed", "cancelled")

    def to_dict(self) -> dict[str, Any]:
        """Return the job as JSON-compatible values."""
        values = asdict(self)
        for name in ("created", "started", "ended", "estimated_start", "estimated_end"):
            moment = values[name]
            values[name] = moment.isoformat() if moment else None
        if self.network:
            values["network"].pop("layers")
        return values


@dataclass(frozen=True)
class Result:
    """A finished picture and the job that painted it.

    Attributes:
        data: The encoded file.
        job: The job that painted it.
    """

    data: bytes = field(repr=False)
    job: JobInfo

    def __repr__(self) -> str:
        """Return its job and the size of its file."""
        return f"Result({self.job!r}, {len(self.data)} bytes)"

    @cached_property
    def image(self) -> Image.Image:
        """The picture, decoded."""
        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image

    def _repr_png_(self) -> bytes:
        """Return the picture for a notebook."""
        if self.data.startswith(b"\x89PNG"):
            return self.data
        out = io.BytesIO()
        self.image.save(out, "PNG")
        return out.getvalue()

    @property
    def losses(self) -> Losses:
        """Losses of the finished canvas."""
        return self.job.losses or Losses(0.0, 0.0, 0.0, 0.0)

    @property
    def timings(self) -> Timings:
        """Time spent in each phase."""
        return self.job.timings

    @property
    def weights(self) -> str:
        """Name of the weights that painted it."""
        return self.job.network.weights if self.job.network else ""

    @property
    def warnings(self) -> tuple[JobWarning, ...]:
        """Warnings about the picture."""
        return self.job.warnings

    @property
    def stop_reason(self) -> str:
        """Why the optimization ended."""
        return self.job.stop_reason

    @property
    def evaluations(self) -> int:
        """Number of evaluations (forward and backward passes)."""
        return self.job.evaluations

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture. It is converted if the file's extension is that of another format; its metadata is kept.

        The file is written completely or not at all: if the disk is full, an existing file is kept. A BMP holds no
        metadata: what made the picture is lost in it, and a warning says so.

        Raises:
            ValueError: If the extension is that of a format with fewer colours, such as GIF, or of no picture.
            OSError: If it cannot be written.
        """
        target = Path(path)
        ending = target.suffix.lower()
        data = self.data
        if ending and ending not in _EXTENSIONS.get(self.image.format or "", ()):
            data = _converted(self.image, ending)
            if ending == ".bmp" and self.image.getexif():
                text = "a BMP file holds no metadata: impasto redo cannot repeat it; .png, .jpg, .webp, .avif and .tif keep it"
                warnings.warn(f"{target}: {text}", stacklevel=2)
        replace_file(target, data)
        return target


def _converted(image: Image.Image, ending: str) -> bytes:
    """Return a picture in another format, with the metadata and the chroma sampling that the server would use."""
    kind = Image.registered_extensions().get(ending)
    if kind not in _WRITTEN:
        raise ValueError(f"the name must end in .png, .jpg, .webp, .avif, .tif or .bmp, not {ending}")
    more: dict[str, Any] = {"quality": 95, "icc_profile": image.info.get("icc_profile")}
    exif = image.getexif()
    if exif and kind != "BMP":
        more["exif"] = exif
    if kind == "JPEG":
        more |= {"subsampling": 0, "optimize": True}
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def replace_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file atomically: to a temporary file in the same folder, which is then renamed.

    With ``sync`` its bytes are on the disk before it gets its name. A target that is not a regular file, such as /dev/stdout
    or a pipe, is written directly.

    Raises:
        OSError: If it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    target = Path(os.path.realpath(path))  # keep a symbolic link
    if target.exists() and not os.access(target.parent, os.W_OK):
        target.write_bytes(data)  # no temporary file can be created in the folder
        return
    try:
        beside = tempfile.NamedTemporaryFile(prefix=f".{target.name[:100]}.", dir=target.parent, delete=False)  # noqa: SIM115
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # not the temporary name
    with beside as file:
        try:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
            file.close()
            mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask()
            os.chmod(file.name, mode)
            os.replace(file.name, target)
        except BaseException:
            file.close()
            Path(file.name).unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True)
class FilterResponse:
    """Response of one filter to a picture.

    Attributes:
        filter: Number of the filter.
        data: Its response at each position as a grey PNG; the minimum is black, the maximum white.
        minimum: Smallest response.
        maximum: Largest response.
        mean: Mean response.
        deviation: Standard deviation of the response: its strength.
    """

    filter: int
    data: bytes = field(repr=False)
    minimum: float
    maximum: float
    mean: float
    deviation: float

    @cached_property
    def image(self) -> Image.Image:
        """The picture, decoded."""
        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image


@dataclass(frozen=True)
class Features:
    """Responses of a layer's filters to a picture, in the order requested or strongest first."""

    layer: str
    network: NetworkInfo
    responses: tuple[FilterResponse, ...]


@dataclass(frozen=True)
class Snapshot:
    """State of the job when watching began; always the first event."""

    sequence: int
    job: JobInfo


@dataclass(frozen=True)
class Started:
    """Painting is about to start, for the ``attempt``-th time; ``step`` steps are already done."""

    sequence: int
    device: str
    attempt: int
    step: int = 0
    note: str = ""


@dataclass(frozen=True)
class Paused:
    """The job was paused and keeps its steps.

    Attributes:
        reason: ``preempted`` (by a job of higher priority) or ``requested`` (by a call to pause it).
        step: Steps done.
    """

    sequence: int
    reason: str
    step: int


@dataclass(frozen=True)
class Step:
    """One optimizer step; the preview is an encoded JPEG."""

    sequence: int
    step: int
    steps: int
    evaluations: int
    losses: Losses
    elapsed_s: float
    remaining_s: float
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Heartbeat:
    """Nothing happened for a while; the connection is alive."""

    sequence: int
    state: str
    queue_position: int


@dataclass(frozen=True)
class Finished:
    """The job ended; always the last event. ``data`` is its picture, if requested and available."""

    sequence: int
    job: JobInfo
    data: bytes | None = field(default=None, repr=False)


Event = Snapshot | Started | Step | Paused | Heartbeat | Finished


@dataclass(frozen=True)
class DeviceInfo:
    """A device that paints.

    Attributes:
        host: Name of its host; empty for the server's own.
        draining: Whether it gets no more jobs.
        running: Number of jobs that it runs.
        silence_s: Time since its worker was last heard.
    """

    name: str
    description: str
    ready: bool
    restarts: int
    auto_precision: str
    host: str = ""
    draining: bool = False
    running: int = 0
    silence_s: float = 0.0


@dataclass(frozen=True)
class ServerInfo:
    """Description of a server."""

    version: str
    accepting: bool
    devices: tuple[DeviceInfo, ...]
    networks: tuple[NetworkInfo, ...]
    presets: Mapping[str, Mapping[str, Any]]
    limits: Mapping[str, int]
    queued: int
    running: int
    durable: bool
    storage_used_bytes: int
    storage_limit_bytes: int

    def __repr__(self) -> str:
        """Return what it is and does; ``to_dict`` has everything."""
        accepts = "accepting jobs" if self.accepting else "accepting no jobs"
        devices = [device.name if device.ready else f"{device.name} (not ready)" for device in self.devices]
        networks = [network.id for network in self.networks]
        queue = f"{self.running} running, {self.queued} queued"
        return f"ServerInfo({self.version!r}, {accepts}, {queue}, devices {devices}, networks {networks})"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-compatible values."""
        return asdict(self)


def job_info(message: pb.Job) -> JobInfo:
    """Return a job from its message."""
    return JobInfo(
        job_id=message.job_id,
        request_id=message.request_id,
        state=cast("JobState", _word(pb.JobState, "JOB_STATE_", message.state)),
        created=_moment(message.create_time),
        started=_moment(message.start_time) if message.HasField("start_time") else None,
        ended=_moment(message.end_time) if message.HasField("end_time") else None,
        step=message.step,
        steps=message.parameters.steps,
        evaluations=message.evaluations,
        losses=_losses(message.losses) if message.HasField("losses") else None,
        width_px=message.width_px,
        height_px=message.height_px,
        network=_network(message.network) if message.HasField("network") else None,
        device=message.device,
        stop_reason=cast("StopReason", _word(pb.StopReason, "STOP_REASON_", message.stop_reason)),
        error_reason=message.error.reason,
        error_message=message.error.message,
        timings=Timings(
            message.timings.queue.ToNanoseconds() / 1e9,
            message.timings.optimize.ToNanoseconds() / 1e9,
            message.timings.encode.ToNanoseconds() / 1e9,
        ),
        queue_position=message.queue_position,
        attempts=message.attempts,
        priority=message.priority,
        preemptions=message.preemptions,
        time_limit_s=message.time_limit.ToNanoseconds() / 1e9 if message.HasField("time_limit") else None,
        on_deadline=_word(pb.OnDeadline, "ON_DEADLINE_", message.on_deadline),
        ttl_s=message.ttl.ToNanoseconds() / 1e9 if message.HasField("ttl") else None,
        estimated_start=_moment(message.estimated_start_time) if message.HasField("estimated_start_time") else None,
        estimated_end=_moment(message.estimated_end_time) if message.HasField("estimated_end_time") else None,
        owner=message.owner,
        parameters=_parameters(message.parameters),
        warnings=tuple(JobWarning(item.reason, item.message) for item in message.warnings),
        inputs=tuple(Input(item.field, item.name, item.sha256) for item in message.inputs),
        output=_output(message.output),
        labels=dict(message.labels),
    )


def _output(message: pb.OutputOptions) -> dict[str, Any]:
    return {
        "format": _word(pb.ImageFormat, "IMAGE_FORMAT_", message.format),
        "quality": message.quality,
        "preview_every_steps": message.preview_every_steps,
        "preview_size_px": message.preview_size_px,
        "omit_metadata": message.omit_metadata,
    }


def features(layer: str, message: pb.InspectFeaturesResponse) -> Features:
    """Return responses of filters from their message."""
    responses = (
        FilterResponse(item.filter, item.picture.data, item.minimum, item.maximum, item.mean, item.deviation)
        for item in message.responses
    )
    return Features(layer, _network(message.network), tuple(responses))


def event(message: pb.ProgressResponse) -> Event:
    """Return an event from its message."""
    kind, sequence = message.WhichOneof("event"), message.sequence
    if kind == "snapshot":
        return Snapshot(sequence, job_info(message.snapshot))
    if kind == "start":
        return Started(sequence, message.start.device, message.start.attempt, message.start.step, message.start.note)
    if kind == "pause":
        return Paused(sequence, _word(pb.PauseReason, "PAUSE_REASON_", message.pause.reason), message.pause.step)
    if kind == "step":
        step = message.step
        return Step(
            sequence,
            step.step,
            step.steps,
            step.evaluations,
            _losses(step.losses),
            step.elapsed.ToNanoseconds() / 1e9,
            step.remaining.ToNanoseconds() / 1e9,
            step.preview.data if step.HasField("preview") else None,
        )
    if kind == "result":
        data = message.result.image.data if message.result.HasField("image") else None
        return Finished(sequence, job_info(message.result.job), data)
    heartbeat = message.heartbeat
    return Heartbeat(sequence, _word(pb.JobState, "JOB_STATE_", heartbeat.state), heartbeat.queue_position)


def devices(messages: Iterable[pb.Device]) -> tuple[DeviceInfo, ...]:
    """Return devices from their messages."""
    return tuple(
        DeviceInfo(
            device.name,
            device.description,
            device.ready,
            device.restarts,
            _word(pb.Precision, "PRECISION_", device.auto_precision),
            device.host,
            device.draining,
            device.running_jobs,
            device.silence.ToNanoseconds() / 1e9,
        )
        for device in messages
    )


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """Return a server's description from its message."""
    return ServerInfo(
        version=message.version,
        accepting=message.accepting,
        devices=devices(message.devices),
        networks=tuple(_network(network) for network in message.networks),
        presets={preset.name: _parameters(preset.parameters) for preset in message.presets},
        limits={item.name: getattr(message.limits, item.name) for item in pb.Limits.DESCRIPTOR.fields},
        queued=message.queue.queued,
        running=message.queue.running,
        durable=message.storage.durable,
        storage_used_bytes=message.storage.used_bytes,
        storage_limit_bytes=message.storage.limit_bytes,
    )


def _parameters(message: pb.Parameters) -> dict[str, Any]:
    words = {
        "optimizer": (pb.Optimizer, "OPTIMIZER_"),
        "init": (pb.Init, "INIT_"),
        "pooling": (pb.Pooling, "POOLING_"),
        "normalization": (pb.Normalization, "NORMALIZATION_"),
        "precision": (pb.Precision, "PRECISION_"),
        "color": (pb.Color, "COLOR_"),
        "style_loss": (pb.StyleLoss, "STYLE_LOSS_"),
    }
    values: dict[str, Any] = {}
    for item in message.DESCRIPTOR.fields:
        if item.name == "preset":
            continue
        value = getattr(message, item.name)
        if item.name in words:
            value = _word(*words[item.name], value)
        elif item.name.endswith("_layers"):
            value = {layer.layer: layer.weight for layer in value.layers}
        elif item.name == "schedule":
            value = [(step.size_px, step.steps) for step in value]
        values[item.name] = value
    return values


def _losses(message: pb.Losses) -> Losses:
    return Losses(message.total, message.content, message.style, message.total_variation)


def _network(message: pb.NetworkInfo) -> NetworkInfo:
    return NetworkInfo(message.name, message.weights, message.weights_sha256, tuple(message.layers), message.id)


def _word(kind: Any, prefix: str, number: int) -> str:
    """Return an enum's value as its lower-case word; a value unknown to this client stays a number."""
    if number == 0:
        return ""
    try:
        name: str = kind.Name(number)
    except ValueError:
        return str(number)
    return name.removeprefix(prefix).lower()


def _moment(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
