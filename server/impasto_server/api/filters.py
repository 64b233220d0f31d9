"""Filters of lists."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from impasto.v1 import style_transfer_pb2 as pb
from impasto_engine.parameters import Violation
from impasto_server.api import convert
from impasto_server.auth.tokens import Principal
from impasto_server.domain.errors import invalid
from impasto_server.domain.filters import JobFilter
from impasto_server.domain.labels import violations

_END_OF_TIME = 253_402_300_800
"""The year 10000, at which protobuf's timestamps end."""


def job_filter(request: pb.ListJobsRequest, caller: Principal) -> JobFilter:
    """Return the filter of a list. Callers other than administrators see their own jobs only.

    Raises:
        ServiceError: INVALID_ARGUMENT that lists every invalid field.
    """
    found = list(violations(request.labels))
    if request.owner and not caller.admin and request.owner != caller.name:
        found.append(Violation("owner", "only an administrator may list the jobs of other callers"))
    times = {name: getattr(request, name) for name in ("created_from", "created_before") if request.HasField(name)}
    for name, moment in times.items():
        if not 0 <= moment.seconds < _END_OF_TIME or not 0 <= moment.nanos < 10**9:
            found.append(Violation(name, "is not a valid time"))
    if found:
        raise invalid(*((violation.field, violation.description) for violation in found))
    return JobFilter(
        convert.states(request.states),
        dict(request.labels),
        _seconds(times.get("created_from")),
        _seconds(times.get("created_before")),
        request.owner or None if caller.admin else caller.name,
    )


def _seconds(moment: Timestamp | None) -> float | None:
    return None if moment is None else moment.seconds + moment.nanos / 1e9
