"""Jobs and events as JSON, for the store. Pictures are named by their hash and stored beside it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from impasto_engine.parameters import Parameters
from impasto_engine.results import Losses
from impasto_server.domain.events import Ended, Event, Paused, PauseReason, Started, Stepped
from impasto_server.domain.job import (
    Job,
    JobError,
    JobSpec,
    JobState,
    JobWarning,
    NetworkDescription,
    OutputOptions,
    Source,
    StopReason,
    StylePicture,
)
from impasto_server.domain.pictures import Plane, Raster

_PLAIN = ("priority", "time_limit_s", "return_best", "ttl_s")


def digest(data: bytes) -> str:
    """Return the name of a blob."""
    return hashlib.sha256(data).hexdigest()


def pictures(spec: JobSpec) -> dict[str, bytes]:
    """Return a job's pictures that are in memory, by name."""
    return {digest(blob): blob for blob in _values(spec) if isinstance(blob, bytes)}


def names(spec: JobSpec) -> set[str]:
    """Return the names of a job's pictures."""
    return {name_of(blob) for blob in _values(spec)}


def files(spec: JobSpec) -> set[str]:
    """Return the names of a job's pictures that are on disk."""
    return {blob.name for blob in _values(spec) if isinstance(blob, Path)}


def _sized(spec: JobSpec) -> list[tuple[bytes | Path, int]]:
    """Return the values of a job's pictures and masks, each with its size in bytes."""
    rasters = [spec.content, spec.init_image, *(style.picture for style in spec.styles)]
    planes = [spec.mask, *(plane for style in spec.styles for plane in (style.mask, style.region))]
    return [(raster.rgb, raster.size) for raster in rasters if raster] + [(p.values, p.size) for p in planes if p]


def _values(spec: JobSpec) -> list[bytes | Path]:
    return [values for values, _ in _sized(spec)]


def contents(spec: JobSpec) -> dict[str, tuple[bytes | Path, int]]:
    """Return a job's pictures with their sizes in bytes, by name."""
    return {name_of(values): (values, size) for values, size in _sized(spec)}


def name_of(values: bytes | Path) -> str:
    """Return the name of a picture: the SHA-256 of its values."""
    return digest(values) if isinstance(values, bytes) else values.name


def laid_down(spec: JobSpec, folder: Path) -> JobSpec:
    """Return a spec whose pictures are files in a folder, by name, instead of in memory."""

    def raster(picture: Raster | None) -> Any:
        return None if picture is None else replace(picture, rgb=folder / name_of(picture.rgb))

    def plane(mask: Plane | None) -> Any:
        return None if mask is None else replace(mask, values=folder / name_of(mask.values))

    styles = tuple(
        replace(style, picture=raster(style.picture), mask=plane(style.mask), region=plane(style.region))
        for style in spec.styles
    )
    return replace(spec, content=raster(spec.content), styles=styles, mask=plane(spec.mask), init_image=raster(spec.init_image))


def missing(spec: JobSpec) -> str:
    """Return what is wrong with a spec's picture files, by their sizes; empty if nothing is."""
    for file, size in _sized(spec):
        if isinstance(file, Path):
            try:
                found = file.stat().st_size
            except OSError as error:
                return f"the file {file.name[:12]} cannot be read: {error.strerror}"
            if found != size:
                return f"the file {file.name[:12]} is damaged: it has {found} bytes, not {size}"
    return ""


def encode_job(job: Job) -> str:
    """Return the record of everything about a job that can change: all but its spec.

    It is written at each report of a step; ``asdict``, which copies every value, would take longer than the rest.
    """
    values = {name: getattr(job, name) for name in job.__dataclass_fields__ if name not in _CODED}
    return json.dumps(
        {
            **values,
            "state": job.state.value,
            "losses": vars(job.losses) if job.losses else None,
            "network": vars(job.network) if job.network else None,
            "stop_reason": job.stop_reason.value if job.stop_reason else None,
            "error": vars(job.error) if job.error else None,
            "warnings": [vars(warning) for warning in job.warnings],
        }
    )


_CODED = frozenset({"spec", "state", "losses", "network", "stop_reason", "error", "warnings"})


def decode_job(text: str, spec: JobSpec) -> Job:
    """Return a job from its record.

    Raises:
        KeyError, ValueError, TypeError: If the record is invalid.
    """
    values = json.loads(text)
    network, error = values.pop("network"), values.pop("error")
    losses, reason = values.pop("losses"), values.pop("stop_reason")
    return Job(
        **{
            **values,
            "spec": spec,
            "state": JobState(values["state"]),
            "losses": Losses(**losses) if losses else None,
            "network": NetworkDescription(**{**network, "layers": tuple(network["layers"])}) if network else None,
            "stop_reason": StopReason(reason) if reason else None,
            "error": JobError(**error) if error else None,
            "warnings": tuple(JobWarning(**warning) for warning in values.get("warnings", ())),
        }
    )


def encode_spec(spec: JobSpec) -> str:
    """Return a job's spec as JSON; its pictures are given by name."""
    values = {
        "width": spec.width,
        "height": spec.height,
        "content": _encode_raster(spec.content) if spec.content else None,
        "styles": [
            {
                "picture": _encode_raster(style.picture),
                "weight": style.weight,
                "digest": style.digest,
                "mask": _encode_plane(style.mask),
                "region": _encode_plane(style.region),
            }
            for style in spec.styles
        ],
        "mask": _encode_plane(spec.mask),
        "init_image": _encode_raster(spec.init_image) if spec.init_image else None,
        "sources": [asdict(source) for source in spec.sources],
        "parameters": {
            name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(spec.parameters).items()
        },
        "output": asdict(spec.output),
        **{name: getattr(spec, name) for name in _PLAIN},
        "labels": dict(spec.labels),
        "webhook": spec.webhook,
    }
    return json.dumps(values)


def decode_spec(text: str, folder: Path | None) -> JobSpec:
    """Return a job's spec from JSON.

    Args:
        text: The encoded spec.
        folder: Folder of its pictures; None leaves them out.

    Raises:
        KeyError, ValueError, TypeError: If it is invalid.
    """
    values = json.loads(text)
    spec = JobSpec(
        values["width"],
        values["height"],
        None,
        (),
        _decode_parameters(values["parameters"]),
        OutputOptions(**values["output"]),
        **{name: values[name] for name in _PLAIN},
        sources=tuple(Source(**source) for source in values.get("sources", ())),
        labels=values.get("labels", {}),  # absent in records of older servers
        webhook=values.get("webhook", ""),
    )
    if folder is None:
        return spec
    content = _decode_raster(values["content"], folder) if values["content"] else None
    styles = tuple(
        StylePicture(
            _decode_raster(style["picture"], folder),
            style["weight"],
            style["digest"],
            _decode_plane(style.get("mask"), folder),
            _decode_plane(style.get("region"), folder),
        )
        for style in values["styles"]
    )
    mask = _decode_plane(values.get("mask"), folder)
    start = values.get("init_image")
    init_image = _decode_raster(start, folder) if start else None
    return replace(spec, content=content, styles=styles, mask=mask, init_image=init_image)


def _decode_parameters(values: dict[str, Any]) -> Parameters:
    schedule = tuple((size, steps) for size, steps in values.pop("schedule", ()))
    return Parameters(**values, schedule=schedule)


def _encode_plane(plane: Plane | None) -> dict[str, Any] | None:
    if plane is None:
        return None
    return {"width": plane.width, "height": plane.height, "values": name_of(plane.values)}


def _decode_plane(values: dict[str, Any] | None, folder: Path) -> Plane | None:
    return Plane(values["width"], values["height"], folder / (values["values"])) if values else None


def _encode_raster(raster: Raster) -> dict[str, Any]:
    return {"width": raster.width, "height": raster.height, "rgb": name_of(raster.rgb)}


def _decode_raster(values: dict[str, Any], folder: Path) -> Raster:
    return Raster(values["width"], values["height"], folder / (values["rgb"]))


def size(spec: JobSpec) -> int:
    """Return the size of a job's pictures, in bytes."""
    return sum(size for _, size in _sized(spec))


def pack_events(events: Iterable[Event]) -> bytes:
    """Return events compressed; a step takes about forty bytes."""
    return zlib.compress("\n".join(encode_event(event) for event in events).encode(), 6)


def unpack_events(packed: bytes) -> list[Event]:
    """Return compressed events."""
    text = zlib.decompress(packed).decode()
    return [decode_event(line) for line in text.split("\n")] if text else []


def encode_event(event: Event) -> str:
    """Return an event's record; previews are not stored."""
    if isinstance(event, Started):
        return json.dumps({"kind": "started", **vars(event)})
    if isinstance(event, Paused):
        return json.dumps({"kind": "paused", "reason": event.reason.value, "step": event.step})
    if isinstance(event, Stepped):
        return json.dumps({"kind": "stepped", **vars(event), "losses": vars(event.losses), "preview": None})
    return json.dumps({"kind": "ended"})


def encode_run(steps: Iterable[Stepped]) -> str:
    """Return the record of steps with consecutive numbers, which takes about sixty bytes a step; previews are not stored."""
    rows = []
    total = 0
    for step in steps:
        losses, total = step.losses, step.steps
        rows.append((step.step, losses.content, losses.style, losses.total_variation, step.elapsed_s, step.remaining_s))
    return json.dumps({"kind": "run", "steps": total, "rows": rows}, separators=(",", ":"))


def decode_events(text: str) -> list[Event]:
    """Return the events of a record: one, or the steps of a run."""
    if not text.startswith('{"kind":"run"'):
        return [decode_event(text)]
    values = json.loads(text)
    return [
        Stepped(step, values["steps"], Losses(*losses), elapsed_s, remaining_s)
        for step, *losses, elapsed_s, remaining_s in values["rows"]
    ]


def decode_event(text: str) -> Event:
    """Return an event from its record, which is no run."""
    values = json.loads(text)
    kind = values.pop("kind")
    if kind == "started":
        return Started(**values)
    if kind == "paused":
        return Paused(PauseReason(values["reason"]), values["step"])
    if kind == "stepped":
        return Stepped(**{**values, "losses": Losses(**values["losses"])})
    return Ended()
