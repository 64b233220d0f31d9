"""Exceptions of the client.

ImpastoError
|-- InvalidRequest     the request is invalid; .violations names every invalid field
|-- NotFound           the job does not exist
|-- NotReady           the job has no picture (yet)
|-- Overloaded         the queue is full; .retry_after_s says when to retry
|-- Unauthenticated    a valid token or client certificate is required
|-- Unavailable        no server answers, or it is starting or shutting down
|-- DeadlineExceeded   the job failed at its time limit; also a TimeoutError
|-- WaitTimeout        this client waited no longer; the message says whether the job continues; also a TimeoutError
|-- JobCancelled       the job was cancelled
|-- JobFailed          the job failed; .reason says why
`-- ServerError        anything else; most likely a bug in the server
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from impasto.connect_errors import why_not


@dataclass(frozen=True)
class Violation:
    """One invalid field of a request."""

    field: str
    description: str


class ImpastoError(Exception):
    """Base of all errors that this package raises on purpose.

    Attributes:
        reason: Stable, UPPER_SNAKE_CASE; set by the server or by this package.
        metadata: The variable parts of the message.
        violations: Invalid fields.
        retry_after_s: Seconds after which to retry, if the server gave them.
        status: The google.rpc.Status that the error was made from; None if it was raised without a response.
    """

    status: Any = None

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after_s = retry_after_s


class InvalidRequest(ImpastoError):
    """The request is invalid; ``violations`` names every invalid field."""


class NotFound(ImpastoError):
    """The job does not exist."""


class NotReady(ImpastoError):
    """The job has no picture (yet)."""


class Overloaded(ImpastoError):
    """The server is overloaded; ``retry_after_s`` says when to retry."""


class Unauthenticated(ImpastoError):
    """The server requires a valid token or client certificate."""


class Unavailable(ImpastoError):
    """No server answers, or it is starting or shutting down."""


class DeadlineExceeded(ImpastoError, TimeoutError):
    """The job failed because it reached its time limit (``time_limit_s``)."""


class WaitTimeout(ImpastoError, TimeoutError):
    """A call did not end within its timeout (``timeout_s``). The message says whether its job continues or was cancelled."""


class JobCancelled(ImpastoError):
    """The job was cancelled."""


class JobFailed(ImpastoError):
    """The job failed; ``reason`` says why."""


class ServerError(ImpastoError):
    """An error in the server or in a proxy before it."""


_BY_CODE: Mapping[grpc.StatusCode, type[ImpastoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: NotReady,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: JobCancelled,
    grpc.StatusCode.ABORTED: JobFailed,
}
_BY_REASON: Mapping[str, type[ImpastoError]] = {
    "OUT_OF_MEMORY": JobFailed,
    "WORKER_LOST": JobFailed,
    "ENGINE_ERROR": JobFailed,
    "ENCODE_ERROR": JobFailed,
    "DATA_LOST": JobFailed,
}


def from_status(
    code: grpc.StatusCode, message: str, details: bytes | None, target: str, *, secured: bool = False
) -> ImpastoError:
    """Return the exception for a gRPC status.

    Args:
        code: Its code.
        message: Its message.
        details: The serialized google.rpc.Status from ``grpc-status-details-bin``, if there was one.
        target: Address that was called, for the message if no server answers.
        secured: Whether the client used TLS, likewise.
    """
    info, violations, retry = error_details_pb2.ErrorInfo(), [], None
    status = status_pb2.Status.FromString(details) if details else None
    for packed in status.details if status else ():
        if packed.Unpack(info):
            continue
        request, delay = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(request):
            violations += [Violation(item.field, item.description) for item in request.field_violations]
        elif packed.Unpack(delay):
            retry = delay.retry_delay.seconds + delay.retry_delay.nanos / 1e9
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(code, ServerError)
    reason = info.reason or code.name
    if kind is Unavailable and not info.reason:
        reason, message = why_not(target, message, secured=secured)
    if kind is DeadlineExceeded and not info.reason:
        kind, reason, message = WaitTimeout, "WAIT_TIMEOUT", "the call did not end within its timeout"
    if kind is Overloaded and not info.reason:
        # gRPC rejects messages above the size limit with this code, before any server code runs.
        kind = InvalidRequest
    error = kind(
        message or code.name,
        reason=reason,
        metadata=dict(info.metadata),
        violations=tuple(violations),
        retry_after_s=retry,
    )
    error.status = status
    return error


def from_job(job_id: str, state: str, reason: str, message: str) -> ImpastoError:
    """Return the exception for a job that ended without a picture."""
    if reason == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"job {job_id} failed: {message}", reason=reason, metadata={"job_id": job_id})
    if state == "cancelled":
        return JobCancelled(f"job {job_id} was cancelled", reason="JOB_CANCELLED", metadata={"job_id": job_id})
    return JobFailed(f"job {job_id} failed: {message}", reason=reason, metadata={"job_id": job_id})
