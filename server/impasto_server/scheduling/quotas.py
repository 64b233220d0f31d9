"""How much one client may ask for at a time. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from impasto_server.domain.errors import ServiceError, invalid

MINUTE_S = 60.0


@dataclass(frozen=True)
class Quota:
    """What a client may have; 0 for no limit.

    Attributes:
        jobs: Jobs that have not ended.
        jobs_per_minute: Jobs accepted within a minute.
        pixels: Canvas pixels of the jobs that have not ended.
    """

    jobs: int = 0
    jobs_per_minute: int = 0
    pixels: int = 0


@dataclass
class _Account:
    pixels: dict[str, int] = field(default_factory=dict)
    accepted: deque[float] = field(default_factory=deque)


class Quotas:
    """Keeps a client's account: checks before a job is accepted, books it, and lets it go when it ends."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._accounts: dict[str, _Account] = {}

    def check(self, owner: str, pixels: int, now: float) -> None:
        """Say whether a client may have one more job.

        Raises:
            ServiceError: INVALID_ARGUMENT if it is larger than all that the client may have at a time; else RESOURCE_EXHAUSTED
                with the limit, what of it is used, and when to try again if that is known.
        """
        quota, account = self._quota, self._accounts.get(owner, _Account())
        while account.accepted and account.accepted[0] <= now - MINUTE_S:
            account.accepted.popleft()
        if quota.pixels and pixels > quota.pixels:
            raise invalid(("parameters.size_px", f"the canvas has {pixels} pixels, and your quota is {quota.pixels} at a time"))
        jobs, used = len(account.pixels), sum(account.pixels.values())
        if quota.jobs and jobs >= quota.jobs:
            raise _exceeded("jobs", "jobs that have not ended", quota.jobs, jobs, None)
        if quota.pixels and used + pixels > quota.pixels:
            text = f"canvas pixels in jobs that have not ended, and this one has {pixels}"
            raise _exceeded("pixels", text, quota.pixels, used, None)
        if quota.jobs_per_minute and len(account.accepted) >= quota.jobs_per_minute:
            wait_s = account.accepted[0] + MINUTE_S - now
            raise _exceeded("jobs_per_minute", "jobs within a minute", quota.jobs_per_minute, len(account.accepted), wait_s)

    def book(self, owner: str, job_id: str, pixels: int, now: float) -> None:
        """Note a job that was accepted."""
        account = self._accounts.setdefault(owner, _Account())
        account.pixels[job_id] = pixels
        account.accepted.append(now)

    def release(self, owner: str, job_id: str) -> None:
        """Note that a job ended; one that is not there is no error."""
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
