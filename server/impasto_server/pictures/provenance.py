"""The provenance of a picture, stored in its file: enough to reproduce the file byte for byte.

It therefore has no time, no job id and no device. The versions in it are what reproducing depends on too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from impasto_engine.parameters import Arithmetic
from impasto_server.domain.job import Job, JobSpec, NetworkDescription, StopReason

MAX_LENGTH = 60_000
"""JPEG holds 65,533 bytes of EXIF."""
FORMAT = 1
"""Version of this format; read by ``impasto redo``."""


@dataclass(frozen=True)
class Painting:
    """What the provenance of a picture is made from.

    Attributes:
        step: Steps done.
        threads: Threads that computed them; 0 if unknown.
    """

    spec: JobSpec
    network: NetworkDescription | None
    arithmetic: Arithmetic | None
    step: int
    threads: int

    @classmethod
    def of(cls, job: Job) -> Painting:
        """Return it from a job's record."""
        return cls(job.spec, job.network, job.arithmetic, job.step, job.threads)


def provenance(job: Painting, stop_reason: StopReason) -> str:
    """Return JSON in ASCII about a painted job.

    Precision and network are those that were used, whatever ``auto`` meant. File names are left out if the whole would not
    fit.
    """
    text = _written(job, stop_reason, names=True)
    return text if len(text) <= MAX_LENGTH else _written(job, stop_reason, names=False)


def _written(job: Painting, stop_reason: StopReason, *, names: bool) -> str:
    spec = job.spec
    parameters = {name: _plain(value) for name, value in vars(spec.parameters).items()}
    if job.network is not None:
        parameters["network"] = job.network.id
    if job.arithmetic is not None:
        parameters["precision"] = job.arithmetic
    values: dict[str, Any] = {
        "impasto": FORMAT,
        "parameters": parameters,
        "output": {"format": spec.output.format, "quality": spec.output.quality},
        "sources": [{"role": item.role, "name": item.name if names else "", "sha256": item.sha256} for item in spec.sources],
        "style_weights": [style.weight for style in spec.styles],
    }
    if job.network is not None:
        values["weights_sha256"] = job.network.weights_sha256
    if job.threads:
        values["threads"] = job.threads
    values["versions"] = _versions()
    if stop_reason is StopReason.DEADLINE:
        values["ended_after_steps"] = job.step
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions of what computes pixels, in the process that writes the file."""
    found = {}
    for name in ("impasto", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
