"""Errors that callers see."""

from __future__ import annotations

from collections.abc import Mapping

from impasto_server.domain.reasons import REASONS


class ServiceError(Exception):
    """A request that cannot be served, as AIP-193 describes errors.

    Attributes:
        code: Name of the gRPC status code, from the table of reasons.
        reason: A key of the table of reasons.
        violations: Field and description of each problem in the request.
        metadata: The message's variable parts.
        retry_s: Seconds after which to retry, for overload.
        resource: Type and name of the missing resource.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        violations: tuple[tuple[str, str], ...] = (),
        metadata: Mapping[str, str] | None = None,
        retry_s: float | None = None,
        resource: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = REASONS[reason].code
        self.reason = reason
        self.message = message
        self.violations = violations
        self.metadata = dict(metadata or {})
        self.retry_s = retry_s
        self.resource = resource


MAX_VIOLATIONS = 50
"""Maximum number of fields that an error lists."""


def invalid(*violations: tuple[str, str]) -> ServiceError:
    """Return the error for a request with invalid fields. It lists all of them, up to :data:`MAX_VIOLATIONS`."""
    if len(violations) > MAX_VIOLATIONS:
        more = len(violations) - MAX_VIOLATIONS
        violations = (*violations[:MAX_VIOLATIONS], ("request", f"{more} more fields are invalid"))
    message = "; ".join(f"{field}: {description}" for field, description in violations)
    return ServiceError("INVALID_FIELD", message, violations=violations)


def not_found(job_id: str) -> ServiceError:
    """Return the error for a job that does not exist or has expired."""
    return ServiceError(
        "JOB_NOT_FOUND",
        f"there is no job {job_id!r}, or it has expired",
        metadata={"job_id": job_id},
        resource=("impasto.v1.Job", job_id),
    )
