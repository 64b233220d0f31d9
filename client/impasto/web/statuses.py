"""Errors as google.rpc.Status in JSON, with the HTTP code of google.rpc.Code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from starlette.exceptions import HTTPException
from starlette.routing import Match

from impasto import errors

DOMAIN = "impasto"
HTTP_CODES: Mapping[str, int] = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""HTTP code by gRPC code, as google/rpc/code.proto says it."""
_CODES: tuple[tuple[type[errors.ImpastoError], str], ...] = (
    (errors.InvalidRequest, "INVALID_ARGUMENT"),
    (errors.Unauthenticated, "UNAUTHENTICATED"),
    (errors.Unavailable, "UNAVAILABLE"),
    (errors.NotFound, "NOT_FOUND"),
    (errors.WaitTimeout, "DEADLINE_EXCEEDED"),
    (errors.ServerError, "INTERNAL"),
)
"""gRPC codes of errors that the client raised without a response of the server."""
_OF_HTTP = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 405: "UNIMPLEMENTED", 408: "DEADLINE_EXCEEDED"}
_OF_HTTP |= {411: "INVALID_ARGUMENT", 413: "INVALID_ARGUMENT", 415: "INVALID_ARGUMENT", 421: "INVALID_ARGUMENT"}
_OF_HTTP |= {503: "UNAVAILABLE"}
RETRY_S = 2.0
"""When to retry if the server does not say it."""


class HttpError(Exception):
    """An error of the gateway itself.

    Args:
        http: The HTTP code.
        reason: Stable, UPPER_SNAKE_CASE.
        message: Human-readable message.
        field: The invalid field, if there is one.
    """

    def __init__(self, http: int, reason: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.http, self.reason, self.message, self.field = http, reason, message, field


def status(
    code: str,
    reason: str,
    message: str,
    *,
    metadata: Mapping[str, str] | None = None,
    violations: tuple[errors.Violation, ...] = (),
    retry_after_s: float | None = None,
) -> Any:
    """Return a google.rpc.Status with the details that the server would send."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata or {})]
    if violations:
        kind = error_details_pb2.BadRequest.FieldViolation
        found = [kind(field=item.field, description=item.description) for item in violations]
        details.append(error_details_pb2.BadRequest(field_violations=found))
    if retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [AnyMessage() for _ in details]
    for target, detail in zip(packed, details, strict=True):
        target.Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(code), message=message, details=packed)


def status_of(error: errors.ImpastoError) -> Any:
    """Return the server's own status, or one for an error that the client raised without a response."""
    if error.status is not None:
        return error.status
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "UNKNOWN")
    return status(
        code,
        error.reason or code,
        str(error),
        metadata=error.metadata,
        violations=error.violations,
        retry_after_s=error.retry_after_s,
    )


def respond(found: Any, http: int | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a response with a status.

    Args:
        found: The google.rpc.Status.
        http: The HTTP code; by default that of the status.
        headers: More headers.
    """
    code = http or HTTP_CODES.get(code_pb2.Code.Name(found.code), 500)
    more = dict(headers or {})
    if code in (429, 503):
        more["Retry-After"] = str(max(1, math.ceil(_retry_s(found))))
    if code == 401:
        more["WWW-Authenticate"] = 'Bearer realm="impasto"'
    return JSONResponse(json_format.MessageToDict(found), code, more)


def _retry_s(found: Any) -> float:
    retry = error_details_pb2.RetryInfo()
    for packed in found.details:
        if packed.Unpack(retry):
            return float(retry.retry_delay.ToNanoseconds() / 1e9)
    return RETRY_S


def response_of(error: HttpError) -> JSONResponse:
    """Return the response for an error of the gateway."""
    violations = (errors.Violation(error.field, error.message),) if error.field else ()
    return respond(status(_OF_HTTP[error.http], error.reason, error.message, violations=violations), error.http)


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an :class:`~impasto.errors.ImpastoError`."""
    del request
    assert isinstance(error, errors.ImpastoError)  # noqa: S101 - registered for it
    return respond(status_of(error))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of the gateway, or of the router: unknown paths and methods."""
    if isinstance(error, HttpError):
        return response_of(error)
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for both
    code = _OF_HTTP.get(error.status_code, "INVALID_ARGUMENT")
    reasons = {404: "PATH_UNKNOWN", 405: "METHOD_UNKNOWN"}
    text = str(error.detail)
    if error.status_code == 404:
        text = "there is nothing at this path; /docs lists what there is"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _methods(request)  # the router names those of one route only
        text = f"this path does not take {request.method[:20]}; it takes {headers['Allow']}"
    return respond(status(code, reasons.get(error.status_code, "MESSAGE_GARBLED"), text), error.status_code, headers)


def _methods(request: Request) -> str:
    """Return the methods that a path takes."""
    found: set[str] = set()
    for route in request.app.state.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods
    if "GET" in found:
        found.add("HEAD")  # heads.py answers it
    return ", ".join(sorted(found))


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer a query or header of the wrong kind; every one is named."""
    del request
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    violations = tuple(errors.Violation(str(item["loc"][-1]), str(item["msg"])) for item in error.errors())
    text = "; ".join(f"{item.field}: {item.description}" for item in violations)
    return respond(status("INVALID_ARGUMENT", "INVALID_FIELD", text, violations=violations))


async def on_left(request: Request, error: Exception) -> Response:
    """Answer a caller that left while it sent its body: nobody reads the answer."""
    del request, error
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> JSONResponse:
    """Answer an unexpected error; the log has it."""
    del request, error
    return respond(status("INTERNAL", "INTERNAL", "internal error of the HTTP gateway; its log has details"))
