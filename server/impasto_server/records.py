"""Jobs and events as JSON, for the store. Pictures are named by their hash and lie beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from impasto_engine.parameters import Parameters
from impasto_server.jobs import (
    Ended,
    Event,
    Job,
    JobError,
    JobSpec,
    JobState,
    JobWarning,
    Losses,
    NetworkDescription,
    OutputOptions,
    Paused,
    PauseReason,
    Plane,
    Raster,
    Source,
    Started,
    Stepped,
    StopReason,
    StylePicture,
)

_PLAIN = ("priority", "time_limit_s", "return_best", "ttl_s")
Fetch = Callable[[str], bytes]


def digest(data: bytes) -> str:
    """Return the name of a blob."""
    return hashlib.sha256(data).hexdigest()


def pictures(spec: JobSpec) -> dict[str, bytes]:
    """Return a job's pictures by name."""
    rasters = [spec.content, spec.init_image, *(style.picture for style in spec.styles)]
    planes = [spec.mask, *(plane for style in spec.styles for plane in (style.mask, style.region))]
    blobs = [raster.rgb for raster in rasters if raster] + [plane.values for plane in planes if plane]
    return {digest(blob): blob for blob in blobs}


def encode_job(job: Job) -> str:
    """Return the record of everything about a job that changes: all but its spec."""
    values = {name: getattr(job, name) for name in job.__dataclass_fields__ if name not in _CODED}
    return json.dumps(
        {
            **values,
            "state": job.state.value,
            "losses": asdict(job.losses) if job.losses else None,
            "network": asdict(job.network) if job.network else None,
            "stop_reason": job.stop_reason.value if job.stop_reason else None,
            "error": asdict(job.error) if job.error else None,
            "warnings": [asdict(warning) for warning in job.warnings],
        }
    )


_CODED = frozenset({"spec", "state", "losses", "network", "stop_reason", "error", "warnings"})


def decode_job(text: str, spec: JobSpec) -> Job:
    """Return a job out of its record.

    Raises:
        KeyError, ValueError, TypeError: If the record cannot be understood.
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
    """Return what a job is made of; its pictures are named only."""
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
    }
    return json.dumps(values)


def decode_spec(text: str, fetch: Fetch | None) -> JobSpec:
    """Return what a job is made of.

    Args:
        text: As encoded.
        fetch: Returns a picture by its name; None leaves the pictures out.

    Raises:
        KeyError, ValueError, TypeError, OSError: If it cannot be understood, or a picture cannot be read.
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
    )
    if fetch is None:
        return spec
    content = _decode_raster(values["content"], fetch) if values["content"] else None
    styles = tuple(
        StylePicture(
            _decode_raster(style["picture"], fetch),
            style["weight"],
            style["digest"],
            _decode_plane(style.get("mask"), fetch),
            _decode_plane(style.get("region"), fetch),
        )
        for style in values["styles"]
    )
    mask = _decode_plane(values.get("mask"), fetch)
    start = values.get("init_image")
    init_image = _decode_raster(start, fetch) if start else None
    return replace(spec, content=content, styles=styles, mask=mask, init_image=init_image)


def _decode_parameters(values: dict[str, Any]) -> Parameters:
    schedule = tuple((size, steps) for size, steps in values.pop("schedule", ()))
    return Parameters(**values, schedule=schedule)


def _encode_plane(plane: Plane | None) -> dict[str, Any] | None:
    if plane is None:
        return None
    return {"width": plane.width, "height": plane.height, "values": digest(plane.values)}


def _decode_plane(values: dict[str, Any] | None, fetch: Fetch) -> Plane | None:
    return Plane(values["width"], values["height"], fetch(values["values"])) if values else None


def _encode_raster(raster: Raster) -> dict[str, Any]:
    return {"width": raster.width, "height": raster.height, "rgb": digest(raster.rgb)}


def _decode_raster(values: dict[str, Any], fetch: Fetch) -> Raster:
    return Raster(values["width"], values["height"], fetch(values["rgb"]))


def encode_event(event: Event) -> str:
    """Return an event's record; previews are not kept."""
    if isinstance(event, Started):
        return json.dumps({"kind": "started", **asdict(event)})
    if isinstance(event, Paused):
        return json.dumps({"kind": "paused", "reason": event.reason.value, "step": event.step})
    if isinstance(event, Stepped):
        return json.dumps({"kind": "stepped", **asdict(replace(event, preview=None))})
    return json.dumps({"kind": "ended"})


def decode_event(text: str) -> Event:
    """Return an event out of its record."""
    values = json.loads(text)
    kind = values.pop("kind")
    if kind == "started":
        return Started(**values)
    if kind == "paused":
        return Paused(PauseReason(values["reason"]), values["step"])
    if kind == "stepped":
        return Stepped(**{**values, "losses": Losses(**values["losses"])})
    return Ended()
