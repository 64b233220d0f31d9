"""Converts between protobuf and the server's own types. Only this module and the service use the contract's messages."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from impasto.names import clean_name
from impasto.v1 import style_transfer_pb2 as pb
from impasto.words import enum_words
from impasto_engine.parameters import (
    ADAM_LEARNING_RATE,
    MAX_LEVELS,
    PRESETS,
    Color,
    Init,
    Normalization,
    OptimizerName,
    Parameters,
    Pooling,
    Precision,
    StyleLossName,
    Violation,
)
from impasto_engine.results import Losses
from impasto_server.api.validation import INSPECTION_PX, Draft, File, Inspection, StyleFiles
from impasto_server.domain.errors import invalid
from impasto_server.domain.events import Heartbeat, Paused, PauseReason, Started, Stepped
from impasto_server.domain.job import Job, JobState, NetworkDescription, OutputOptions, StopReason
from impasto_server.domain.labels import MAX_LABELS
from impasto_server.domain.pictures import ImageFormat
from impasto_server.workers.messages import Inspected
from impasto_server.workers.pool import WorkerStatus

Key = TypeVar("Key")
_Word = TypeVar("_Word")
_Member = TypeVar("_Member", bound=Enum)


def _words(enum: Any, known: Iterable[_Word], word_of: Callable[[_Word], str] = str) -> dict[Any, _Word]:
    """Return the value here for each number of a contract's enumeration: the one with the same name in lower case."""
    words = {word_of(word): word for word in known}
    return {number: words[name] for number, name in enum_words(enum).items() if number or name in words}


def _named(enum: Any, known: type[_Member]) -> dict[Any, _Member]:
    return _words(enum, known, lambda member: str(member.value))


OPTIMIZERS: Final = _words(pb.Optimizer, get_args(OptimizerName))
INITS: Final = _words(pb.Init, get_args(Init))
POOLINGS: Final = _words(pb.Pooling, get_args(Pooling))
NORMALIZATIONS: Final = _words(pb.Normalization, get_args(Normalization))
COLORS: Final = _words(pb.Color, get_args(Color))
STYLE_LOSSES: Final = _words(pb.StyleLoss, get_args(StyleLossName))
PRECISIONS: Final = _words(pb.Precision, get_args(Precision))
FORMATS: Final = {pb.IMAGE_FORMAT_UNSPECIFIED: OutputOptions.format, **_words(pb.ImageFormat, get_args(ImageFormat))}
FORMAT_NUMBERS: Final = {word: number for number, word in _words(pb.ImageFormat, get_args(ImageFormat)).items()}
OVERHEAD_BYTES: Final = 1024
"""Room for the fields around a picture in a response."""
STATES: Final = _named(pb.JobState, JobState)
STOP_REASONS: Final = {reason: number for number, reason in _named(pb.StopReason, StopReason).items()}
PAUSE_REASONS: Final = {reason: number for number, reason in _named(pb.PauseReason, PauseReason).items()}
_ENUMS: Final[tuple[tuple[str, str, Mapping[Any, str]], ...]] = (
    ("optimizer", "optimizer", OPTIMIZERS),
    ("init", "init", INITS),
    ("pooling", "pooling", POOLINGS),
    ("normalization", "normalization", NORMALIZATIONS),
    ("precision", "precision", PRECISIONS),
    ("color", "color", COLORS),
    ("style_loss", "style_loss", STYLE_LOSSES),
)
_SCALARS: Final = (
    "content_weight",
    "style_weight",
    "total_variation_weight",
    "size_px",
    "steps",
    "learning_rate",
    "history",
    "seed",
    "levels",
    "style_scale",
    "tolerance",
    "width_px",
    "height_px",
)
_OUTPUT_QUALITY, _PREVIEW_SIZE_PX = OutputOptions.quality, OutputOptions.preview_size_px


def draft(spec: pb.JobSpec, uploaded: Callable[[str], Path]) -> Draft:
    """Return a job as the client wrote it, with its preset applied and the problems found so far.

    Args:
        spec: The client's message.
        uploaded: Returns the path of an uploaded file by its id, or raises a KeyError.
    """
    found: list[Violation] = []
    parameters, preset, given = _parameters(spec.parameters, found)

    def file(owner: pb.JobSpec | pb.Style, name: str, path: str = "") -> File | None:
        return _file(getattr(owner, name), path or name, uploaded, found) if owner.HasField(name) else None

    styles = tuple(
        StyleFiles(
            _file(style.image, f"styles[{index}].image", uploaded, found),
            style.weight if style.HasField("weight") else 1.0,
            file(style, "mask", f"styles[{index}].mask"),
            file(style, "region", f"styles[{index}].region"),
        )
        for index, style in enumerate(spec.styles)
    )
    content, mask, init_image = file(spec, "content"), file(spec, "mask"), file(spec, "init_image")
    digest = hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()
    output = _output(spec.output, found)
    if spec.on_deadline not in pb.OnDeadline.values():
        found.append(Violation("on_deadline", f"has no value {spec.on_deadline}"))
    return Draft(
        content,
        styles,
        parameters,
        preset,
        given,
        output,
        tuple(found),
        digest,
        spec.priority,
        _seconds(spec, "time_limit"),
        spec.on_deadline == pb.ON_DEADLINE_RETURN_BEST,
        _seconds(spec, "ttl"),
        mask,
        init_image,
        dict(spec.labels),
        spec.webhook,
    )


MAX_LAYERS = 64
"""Maximum length of a list of layers; a network has at most about forty."""
MAX_TEXT = 1000
"""Maximum length of any text; the limit of each text is checked later."""


def check_lengths(spec: pb.JobSpec, max_styles: int) -> None:
    """Reject lists and texts that are too long, before their entries are processed.

    Raises:
        ServiceError: INVALID_ARGUMENT that lists them.
    """
    parameters = spec.parameters
    lists = (
        ("styles", len(spec.styles), max_styles),
        ("labels", len(spec.labels), MAX_LABELS),
        ("parameters.content_layers", len(parameters.content_layers.layers), MAX_LAYERS),
        ("parameters.style_layers", len(parameters.style_layers.layers), MAX_LAYERS),
        ("parameters.schedule", len(parameters.schedule), MAX_LEVELS),
    )
    wrong = [(name, f"at most {most} are accepted, got {length}") for name, length, most in lists if length > most]
    texts = [("parameters.preset", parameters.preset), ("parameters.network", parameters.network)]
    named = {"content": spec.content, "mask": spec.mask, "init_image": spec.init_image}
    for index, style in enumerate(spec.styles[:max_styles]):
        named |= {f"styles[{index}].{part}": getattr(style, part) for part in ("image", "mask", "region")}
    for name, image in named.items():
        texts += [(f"{name}.image_id", image.image_id), (f"{name}.name", image.name)]
    wrong += [(name, f"is too long: {len(text)} characters") for name, text in texts if len(text) > MAX_TEXT]
    if wrong:
        raise invalid(*wrong)


def _file(image: pb.Image, name: str, uploaded: Callable[[str], Path], found: list[Violation]) -> File:
    source = image.WhichOneof("source")
    if source is None:
        found.append(Violation(name, "has no data"))
    if source == "image_id":
        try:
            return File(uploaded(image.image_id), clean_name(image.name))
        except KeyError:
            text = f"there is no uploaded file {image.image_id!r}, or it has expired; upload it again"
            found.append(Violation(f"{name}.image_id", text))
    return File(image.data, clean_name(image.name))


def image_file(image: pb.Image, name: str, uploaded: Callable[[str], Path]) -> File:
    """Return a picture's file.

    Raises:
        ServiceError: If it has none.
    """
    found: list[Violation] = []
    file = _file(image, name, uploaded, found)
    if found:
        raise invalid(*((violation.field, violation.description) for violation in found))
    return file


def inspection(request: pb.InspectFeaturesRequest) -> Inspection:
    """Return the parameters of an inspection, with the problems found so far."""
    pooling, strange = POOLINGS.get(request.pooling, "average"), request.pooling not in (0, *POOLINGS)
    return Inspection(
        request.network,
        request.layer,
        tuple(request.filters),
        request.count,
        request.size_px if request.HasField("size_px") else INSPECTION_PX,
        pooling,
        (Violation("pooling", f"has no value {request.pooling}"),) if strange else (),
    )


def _seconds(spec: pb.JobSpec, name: Literal["time_limit", "ttl"]) -> float | None:
    duration: Duration = getattr(spec, name)
    return duration.seconds + duration.nanos / 1e9 if spec.HasField(name) else None


def _parameters(message: pb.Parameters, found: list[Violation]) -> tuple[Parameters, str, frozenset[str]]:
    """Return the parameters with their preset applied, the preset, and the names of those that the client set."""
    preset = message.preset or "default"
    if preset not in PRESETS:
        found.append(Violation("parameters.preset", f"there is no preset {preset!r}; the presets are {', '.join(PRESETS)}"))
        preset = "default"
    changes: dict[str, Any] = {name: getattr(message, name) for name in _SCALARS if message.HasField(name)}
    for name in ("content_layers", "style_layers"):
        if message.HasField(name):
            changes[name] = _layers(getattr(message, name).layers, f"parameters.{name}", found)
    for source, target, values in _ENUMS:
        number = getattr(message, source)
        if number in values:
            changes[target] = values[number]
        elif number != 0:
            found.append(Violation(f"parameters.{source}", f"has no value {number}"))
    if changes.get("optimizer", PRESETS[preset].optimizer) == "adam" and "learning_rate" not in changes:
        changes["learning_rate"] = ADAM_LEARNING_RATE
    if message.network:
        changes["network"] = message.network
    if message.schedule:
        changes["schedule"] = tuple((item.size_px, item.steps) for item in message.schedule)
    return replace(PRESETS[preset], **changes), preset, frozenset(changes)


def _layers(weights: Iterable[pb.LayerWeight], name: str, found: list[Violation]) -> dict[str, float]:
    layers: dict[str, float] = {}
    for item in weights:
        if item.layer in layers:
            found.append(Violation(name, f"names {item.layer!r} twice"))
        layers[item.layer] = item.weight
    return layers


def _output(message: pb.OutputOptions, found: list[Violation]) -> OutputOptions:
    image_format = FORMATS.get(message.format)
    if image_format is None:
        found.append(Violation("output.format", f"has no value {message.format}"))
    return OutputOptions(
        image_format or "png",
        message.quality if message.HasField("quality") else _OUTPUT_QUALITY,
        message.preview_every_steps,
        message.preview_size_px if message.HasField("preview_size_px") else _PREVIEW_SIZE_PX,
        not message.omit_metadata,
    )


def parameters_message(parameters: Parameters, preset: str = "") -> pb.Parameters:
    """Return the message for parameters, with all fields set."""
    numbers = {target: _reverse(values)[getattr(parameters, target)] for _, target, values in _ENUMS}
    return pb.Parameters(
        preset=preset,
        content_layers=_layers_message(parameters.content_layers),
        style_layers=_layers_message(parameters.style_layers),
        network=parameters.network,
        schedule=[pb.SizeSteps(size_px=size, steps=steps) for size, steps in parameters.schedule],
        **{name: getattr(parameters, name) for name in _SCALARS},
        **numbers,
    )


def _layers_message(weights: Mapping[str, float]) -> pb.LayerWeights:
    return pb.LayerWeights(layers=[pb.LayerWeight(layer=layer, weight=weight) for layer, weight in weights.items()])


def states(numbers: Sequence[int]) -> frozenset[JobState]:
    """Return the states that a filter names.

    Raises:
        ServiceError: If one is not a state, or there are too many.
    """
    if len(numbers) > MAX_LAYERS:
        raise invalid(("states", f"at most {MAX_LAYERS} are accepted, got {len(numbers)}"))
    wanted = set(numbers)
    if strange := wanted - STATES.keys():
        raise invalid(("states", f"{min(strange)} is not a state"))
    return frozenset(STATES[number] for number in wanted)


def job_message(job: Job, queue_position: int = 0, estimate: tuple[float, float] | None = None) -> pb.Job:
    """Return the message for a job in its current state.

    Args:
        job: The job.
        queue_position: Number of jobs that will start before it.
        estimate: Estimated seconds until it starts and ends.
    """
    now = time.time()
    starts, ends = estimate or (None, None)
    parameters = job.spec.parameters
    if job.arithmetic is not None:
        parameters = replace(parameters, precision=job.arithmetic)
    return pb.Job(
        job_id=job.job_id,
        request_id=job.request_id,
        state=state_number(job.state),
        create_time=_timestamp(job.created),
        start_time=_timestamp(job.started),
        end_time=_timestamp(job.ended),
        step=job.step,
        evaluations=job.step,
        losses=losses_message(job.losses),
        parameters=parameters_message(parameters),
        width_px=job.spec.width,
        height_px=job.spec.height,
        network=network_message(job.network) if job.network else None,
        device=job.device,
        stop_reason=STOP_REASONS[job.stop_reason] if job.stop_reason else pb.STOP_REASON_UNSPECIFIED,
        error=pb.JobError(reason=job.error.reason, message=job.error.message) if job.error else None,
        timings=pb.Timings(queue=_duration(job.queue_s), optimize=_duration(job.optimize_s), encode=_duration(job.encode_s)),
        queue_position=queue_position,
        attempts=job.attempts,
        priority=job.spec.priority,
        preemptions=job.preemptions,
        time_limit=_span(job.spec.time_limit_s),
        on_deadline=pb.ON_DEADLINE_RETURN_BEST if job.spec.return_best else pb.ON_DEADLINE_FAIL,
        ttl=_span(job.spec.ttl_s),
        estimated_start_time=_timestamp(now + starts) if starts is not None and job.started is None else None,
        estimated_end_time=_timestamp(now + ends) if ends is not None else None,
        owner=job.owner,
        warnings=[pb.Warning(reason=warning.reason, message=warning.message) for warning in job.warnings],
        output=output_message(job.spec.output),
        inputs=[pb.Input(field=item.role, name=item.name, sha256=item.sha256) for item in job.spec.sources],
        labels=job.spec.labels,
    )


def state_number(state: JobState) -> pb.JobState:
    """Return a state's number in the contract."""
    number: pb.JobState = _reverse(STATES)[state]
    return number


def output_message(output: OutputOptions) -> pb.OutputOptions:
    """Return the message for output options."""
    return pb.OutputOptions(
        format=FORMAT_NUMBERS[output.format],
        quality=output.quality,
        preview_every_steps=output.preview_every_steps,
        preview_size_px=output.preview_size_px,
        omit_metadata=not output.metadata,
    )


def result_message(job: Job, picture: bytes | None = None, digest: str = "", max_bytes: int = 0) -> pb.JobResult:
    """Return the message for an ended job, with its picture if it has one that fits.

    Args:
        job: The job.
        picture: Its encoded picture, if it has one and it is wanted.
        digest: SHA-256 of the picture.
        max_bytes: Largest response.
    """
    message = pb.JobResult(job=job_message(job))
    if picture is None:
        return message
    message.image_bytes, message.image_sha256 = len(picture), digest
    if message.ByteSize() + len(picture) + OVERHEAD_BYTES <= max_bytes:
        message.image.data = picture
        message.image.format = FORMAT_NUMBERS[job.spec.output.format]
    return message


def losses_message(losses: Losses | None) -> pb.Losses | None:
    """Return the message for losses, or None before the first step."""
    if losses is None:
        return None
    return pb.Losses(total=losses.total, content=losses.content, style=losses.style, total_variation=losses.total_variation)


def network_message(network: NetworkDescription) -> pb.NetworkInfo:
    """Return the message for a network."""
    return pb.NetworkInfo(
        name=network.name,
        weights=network.weights,
        weights_sha256=network.weights_sha256,
        layers=network.layers,
        id=network.id,
    )


def inspected_message(found: Inspected) -> pb.InspectFeaturesResponse:
    """Return the message for an inspection."""
    return pb.InspectFeaturesResponse(
        responses=[
            pb.FilterResponse(
                filter=item.filter,
                picture=pb.Image(data=item.picture),
                minimum=item.minimum,
                maximum=item.maximum,
                mean=item.mean,
                deviation=item.deviation,
            )
            for item in found.responses
        ],
        network=network_message(found.network) if found.network else None,
    )


def device_message(status: WorkerStatus, running: int) -> pb.Device:
    """Return the message for a worker's device.

    Args:
        status: The worker.
        running: Number of jobs that it runs.
    """
    ready, silence = status.ready, Duration()
    silence.FromNanoseconds(round(1e9 * max(0.0, time.monotonic() - (status.joined or status).heard)))
    return pb.Device(
        host=status.handle.host,
        draining=status.draining,
        running_jobs=running,
        silence=silence,
        name=status.handle.name,
        description=ready.description if ready else "",
        ready=ready is not None,
        restarts=status.restarts,
        auto_precision=_reverse(PRECISIONS)[ready.arithmetic] if ready else pb.PRECISION_UNSPECIFIED,
    )


def progress_message(
    sequence: int, event: Started | Stepped | Paused | Heartbeat, job: Job, position: int
) -> pb.ProgressResponse:
    """Return the message for an event that is neither the first nor the last."""
    if isinstance(event, Started):
        start = pb.StartEvent(device=event.device, attempt=event.attempt, step=event.step, note=event.note)
        return pb.ProgressResponse(sequence=sequence, start=start)
    if isinstance(event, Paused):
        pause = pb.PauseEvent(reason=PAUSE_REASONS[event.reason], step=event.step)
        return pb.ProgressResponse(sequence=sequence, pause=pause)
    if isinstance(event, Heartbeat):
        heartbeat = pb.HeartbeatEvent(state=state_number(job.state), queue_position=position)
        return pb.ProgressResponse(sequence=sequence, heartbeat=heartbeat)
    step = pb.StepEvent(
        step=event.step,
        steps=event.steps,
        evaluations=event.step,
        losses=losses_message(event.losses),
        elapsed=_duration(event.elapsed_s),
        remaining=_duration(event.remaining_s),
        preview=pb.Image(data=event.preview) if event.preview is not None else None,
    )
    return pb.ProgressResponse(sequence=sequence, step=step)


def _reverse(mapping: Mapping[Any, Key]) -> dict[Key, Any]:
    return {value: key for key, value in reversed(list(mapping.items()))}


def _span(seconds: float | None) -> Duration | None:
    return None if seconds is None else _duration(seconds)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _timestamp(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    timestamp = Timestamp()
    timestamp.FromNanoseconds(round(seconds * 1e9))
    return timestamp
