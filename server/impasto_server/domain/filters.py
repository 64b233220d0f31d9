"""Which jobs a list shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from impasto_server.domain.job import Job, JobState


@dataclass(frozen=True)
class JobFilter:
    """Conditions that a listed job meets; the default admits every job.

    Attributes:
        states: It is in one of these states; empty for any.
        labels: It has all of these labels with these values.
        created_from: It was accepted at this time or later, in seconds since the epoch.
        created_before: It was accepted before this time, likewise.
        owner: Its owner; None for any.
    """

    states: Collection[JobState] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created_from: float | None = None
    created_before: float | None = None
    owner: str | None = None

    def admits(self, job: Job) -> bool:
        """Whether a job meets all conditions."""
        return (
            (self.owner is None or job.owner == self.owner)
            and (not self.states or job.state in self.states)
            and (self.created_from is None or job.created >= self.created_from)
            and (self.created_before is None or job.created < self.created_before)
            and all(job.spec.labels.get(name) == value for name, value in self.labels.items())
        )
