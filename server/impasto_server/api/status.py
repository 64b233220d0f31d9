"""Converts errors to gRPC statuses in the form of AIP-193: each has ErrorInfo, and other details that help."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from impasto_server.domain.errors import ServiceError
from impasto_server.domain.reasons import DOMAIN

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES, MAX_MESSAGE_BYTES, MAX_FIELDS_BYTES = 400, 700, 2500
"""Limits of a text in an error, of its message, and of all fields that it lists: with gRPC's overhead they stay below 8 KB,
beyond which metadata may be dropped."""


async def abort(context: Any, error: Exception) -> NoReturn:
    """End a call with the status of an error; an unexpected error goes to the log, not to the client."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, ServiceError):
        logger.error("a handler failed", exc_info=error)
        error = ServiceError("INTERNAL", "internal error; the server's log has details")
    status = rpc_status.to_status(status_of(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort returned")


def status_of(error: ServiceError) -> status_pb2.Status:
    """Return the error with its details; each kind of detail at most once.

    Texts may quote what the caller sent: they are truncated, because everything must fit into one metadata entry.
    """
    metadata = {key: _cut(value) for key, value in error.metadata.items()}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.violations:
        details.append(_bad_request(error.violations))
    if error.code == "FAILED_PRECONDITION":
        subject = error.metadata.get("job_id", "")
        missing = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=subject, description=_cut(error.message)
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[missing]))
    if error.retry_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.resource is not None:
        kind, name = error.resource
        details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=_cut(name)))
    packed = [AnyMessage() for _ in details]
    for target, detail in zip(packed, details, strict=True):
        target.Pack(detail)
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.code), message=_cut(error.message, MAX_MESSAGE_BYTES), details=packed
    )


def _bad_request(violations: tuple[tuple[str, str], ...]) -> error_details_pb2.BadRequest:
    """Return the invalid fields, as many as fit; the caller sees the others after fixing these."""
    found, left = error_details_pb2.BadRequest(), MAX_FIELDS_BYTES
    for field, text in violations:
        violation = error_details_pb2.BadRequest.FieldViolation(field=_cut(field), description=_cut(text))
        left -= violation.ByteSize()
        if left < 0 and found.field_violations:
            break
        found.field_violations.append(violation)
    return found


def _cut(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= limit else data[:limit].decode(errors="ignore") + "…"
