"""What a webhook is told about the end of a job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from impasto_server.domain.job import Job


@dataclass(frozen=True)
class Webhook:
    """A message that a receiver has not confirmed yet. Times are seconds since the epoch.

    Attributes:
        message_id: The same for every attempt.
        url: Address of the receiver; it may contain a secret and is never logged.
        body: JSON.
        created: When the job ended.
        due: When the next attempt is due.
        attempts: Number of failed attempts.
    """

    message_id: str
    url: str
    body: str
    created: float
    due: float
    attempts: int = 0


def webhook_of(job: Job) -> Webhook | None:
    """Return the message about the end of a job, if it named a receiver."""
    if not job.spec.webhook or not job.state.ended:
        return None
    ended = job.ended or job.created
    body = {"type": f"job.{job.state.value}", "timestamp": _moment(ended), "data": described(job)}
    return Webhook(f"msg_{job.job_id}", job.spec.webhook, json.dumps(body, separators=(",", ":")), ended, ended)


def described(job: Job) -> dict[str, Any]:
    """Return a job as ``impasto jobs show --json`` prints it: no pictures."""
    spec = job.spec
    parameters = {name: _plain(value) for name, value in vars(spec.parameters).items()}
    return {
        "job_id": job.job_id,
        "request_id": job.request_id,
        "state": job.state.value,
        "created": _moment(job.created),
        "started": _moment(job.started),
        "ended": _moment(job.ended),
        "step": job.step,
        "steps": spec.parameters.steps,
        "evaluations": job.step,
        "losses": {**asdict(job.losses), "total": job.losses.total} if job.losses else None,
        "width_px": spec.width,
        "height_px": spec.height,
        "network": (
            {
                "name": job.network.name,
                "weights": job.network.weights,
                "weights_sha256": job.network.weights_sha256,
                "id": job.network.id,
            }
            if job.network
            else None
        ),
        "device": job.device,
        "stop_reason": job.stop_reason.value if job.stop_reason else "",
        "error_reason": job.error.reason if job.error else "",
        "error_message": job.error.message if job.error else "",
        "timings": {"queue_s": job.queue_s, "optimize_s": job.optimize_s, "encode_s": job.encode_s},
        "attempts": job.attempts,
        "priority": spec.priority,
        "preemptions": job.preemptions,
        "owner": job.owner,
        "parameters": parameters,
        "warnings": [asdict(warning) for warning in job.warnings],
        "inputs": [{"field": source.role, "name": source.name, "sha256": source.sha256} for source in spec.sources],
        "labels": dict(spec.labels),
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
