"""Quotas of clients. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from impasto_server.domain.errors import ServiceError, invalid

MINUTE_S = 60.0


@dataclass(frozen=True)
class Quota:
    """Limits of a client; 0 for no limit.

    Attributes:
        jobs: Unfinished jobs.
        jobs_per_minute: Jobs accepted within a minute.
        pixels: Canvas pixels of unfinished jobs.
    """

    jobs: int = 0
    jobs_per_minute: int = 0
    pixels: int = 0


@dataclass
class _Account:
    pixels: dict[str, int] = field(default_factory=dict)
    accepted: deque[float] = field(default_factory=deque)


class Quotas:
    """Tracks each client's usage: checks it before a job is accepted, books the job, and releases it when it ends."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._accounts: dict[str, _Account] = {}

    def check(self, owner: str, pixels: int, now: float) -> None:
        """Check whether a client may submit another job.

        Raises:
            ServiceError: INVALID_ARGUMENT if the job alone exceeds the client's quota; else RESOURCE_EXHAUSTED with the limit,
                the usage, and the retry delay if known.
        """
        quota, account = self._quota, self._accounts.get(owner, _Account())
        while account.accepted and account.accepted[0] <= now - MINUTE_S:
            account.accepted.popleft()
        if quota.pixels and pixels > quota.pixels:
            raise invalid(("parameters.size_px", f"the canvas has {pixels} pixels, and your quota is {quota.pixels} at a time"))
        jobs, used = len(account.pixels), sum(account.pixels.values())
        if quota.jobs and jobs >= quota.jobs:
            raise _exceeded("jobs", "unfinished jobs", quota.jobs, jobs, None)
        if quota.pixels and used + pixels > quota.pixels:
            text = f"canvas pixels in unfinished jobs, and this one has {pixels}"
            raise _exceeded("pixels", text, quota.pixels, used, None)
        if quota.jobs_per_minute and len(account.accepted) >= quota.jobs_per_minute:
            wait_s = account.accepted[0] + MINUTE_S - now
            raise _exceeded("jobs_per_minute", "jobs per minute", quota.jobs_per_minute, len(account.accepted), wait_s)

    def book(self, owner: str, job_id: str, pixels: int, now: float) -> None:
        """Record an accepted job."""
        account = self._accounts.setdefault(owner, _Account())
        account.pixels[job_id] = pixels
        account.accepted.append(now)

    def release(self, owner: str, job_id: str) -> None:
        """Record that a job ended; an unknown job is ignored."""
        account = self._accounts.get(owner)
        if account is None:
            return
        account.pixels.pop(job_id, None)
        if not account.pixels and not account.accepted:
            del self._accounts[owner]


def _exceeded(name: str, what: str, limit: int, used: int, retry_s: float | None) -> ServiceError:
    return ServiceError(
        "QUOTA_EXCEEDED",
        f"your quota is {limit} {what}; {used} are used",
        metadata={"quota": name, "limit": str(limit), "used": str(used)},
        retry_s=5.0 if retry_s is None else max(0.1, retry_s),
    )
