"""The record of each request."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MOMENTS = ("acknowledged", "first_step", "first_preview", "done")
"""Moments that are measured from the intended and from the actual send."""
SPLIT = ("queue", "optimize", "encode")
"""The server's own times of each phase."""
MEASURES = (*(moment + base for moment in MOMENTS for base in ("", "@sent")), *SPLIT)
"""Names of all times."""


@dataclass
class Record:
    """One request from its intended send to its end. Times are seconds from the run's beginning.

    Attributes:
        number: Number of the request, from 0.
        entry: Name of its class in the workload.
        intended: When it was due.
        sent: When it was sent.
        moments: When it was acknowledged, had its first step and preview, and was done; absent if that did not happen.
        outcome: ``ok``, ``error``, ``cancelled`` (on purpose) or ``censored`` (not ended when the run ended).
        reason: Exception and reason of an error.
        message: Message of an error.
        incorrect: Problems other than errors: gaps, duplicates, a picture that does not decode, ...
        chaos: Fault that was injected, if any.
        given_up: When a censored request was abandoned.
        loss: Final loss.
        steps: Steps done.
        longest_gap: Longest time between two of its steps.
        split: The server's own times: queue, optimize and encode.
        received_bytes: Size of its picture.
        job_id: The job's id on the server.
    """

    number: int
    entry: str
    intended: float
    sent: float = 0.0
    moments: dict[str, float] = field(default_factory=dict)
    outcome: str = "censored"
    reason: str = ""
    message: str = ""
    incorrect: list[str] = field(default_factory=list)
    chaos: str = ""
    given_up: float | None = None
    loss: float | None = None
    steps: int = 0
    longest_gap: float = 0.0
    split: dict[str, float] = field(default_factory=dict)
    received_bytes: int = 0
    job_id: str = ""

    def took(self, moment: str, *, from_sent: bool = False) -> float | None:
        """Return the seconds from its intended (or actual) send to a moment; None if that was not reached."""
        return None if moment not in self.moments else self.moments[moment] - (self.sent if from_sent else self.intended)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-compatible values."""
        return asdict(self)
