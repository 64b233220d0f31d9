"""What can go wrong, as exceptions.

ImpastoError
|-- InvalidRequest     the request is wrong; .violations names every field
|-- NotFound           no such job
|-- NotReady           the job has no picture (yet)
|-- Overloaded         the queue is full; .retry_after_s says when to try again
|-- Unauthenticated    the server wants a token or a certificate, and this one is not good
|-- Unavailable        no server there, or it is starting or shutting down
|-- DeadlineExceeded   the time given was not enough
|-- JobCancelled       somebody cancelled the job
|-- JobFailed          the job could not be finished; .reason says why
`-- ServerError        anything else; a bug, most likely the server's
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

from impasto.connect_errors import why_not


@dataclass(frozen=True)
class Violation:
    """One field of a request that is wrong."""

    field: str
    description: str


class ImpastoError(Exception):
    """Anything that this package raises on purpose.

    Attributes:
        reason: Stable, UPPER_SNAKE_CASE; from the server, or of this package's own making.
        metadata: The variable parts of the message.
        violations: Fields that are wrong.
        retry_after_s: When to try again, if the server said so.
    """

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
    """The request is wrong; ``violations`` names every field."""


class NotFound(ImpastoError):
    """There is no such job."""


class NotReady(ImpastoError):
    """The job has no picture, or not yet."""


class Overloaded(ImpastoError):
    """The server has too much to do; ``retry_after_s`` says when to try again."""


class Unauthenticated(ImpastoError):
    """The server wants to know who calls, and does not know this caller."""


class Unavailable(ImpastoError):
    """No server answers there, or it is starting or shutting down."""


class DeadlineExceeded(ImpastoError):
    """The time given was not enough. What ``stylize`` asked for is cancelled; a submitted job goes on."""


class JobCancelled(ImpastoError):
    """The job was cancelled."""


class JobFailed(ImpastoError):
    """The job could not be finished; ``reason`` says why."""


class ServerError(ImpastoError):
    """The server, or what stands before it, made a mistake."""


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
        target: Address that was called, for the message of a server that does not answer.
        secured: Whether the client spoke TLS, likewise.
    """
    info, violations, retry = error_details_pb2.ErrorInfo(), [], None
    for packed in status_pb2.Status.FromString(details).details if details else ():
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
        message = "not done within the time given"
    if kind is Overloaded and not info.reason:
        # gRPC says so of messages above the limit, before any server code sees them.
        kind = InvalidRequest
    return kind(
        message or code.name,
        reason=reason,
        metadata=dict(info.metadata),
        violations=tuple(violations),
        retry_after_s=retry,
    )


def from_job(job_id: str, state: str, reason: str, message: str) -> ImpastoError:
    """Return the exception for a job that ended without a picture."""
    if reason == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"job {job_id} failed: {message}", reason=reason, metadata={"job_id": job_id})
    if state == "cancelled":
        return JobCancelled(f"job {job_id} was cancelled", reason="JOB_CANCELLED", metadata={"job_id": job_id})
    return JobFailed(f"job {job_id} failed: {message}", reason=reason, metadata={"job_id": job_id})
