"""What happens to a job, as its watchers are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from impasto_engine.results import Losses


class PauseReason(Enum):
    """Why a job stopped for a while."""

    PREEMPTED = "preempted"
    REQUESTED = "requested"


@dataclass(frozen=True)
class Started:
    """A job is about to be painted, for the ``attempt``-th time; ``step`` steps are done already."""

    device: str
    attempt: int
    step: int = 0
    note: str = ""


@dataclass(frozen=True)
class Paused:
    """A job stopped for a while; its steps are kept."""

    reason: PauseReason
    step: int


@dataclass(frozen=True)
class Stepped:
    """One step of a job; the preview is an encoded JPEG."""

    step: int
    steps: int
    losses: Losses
    elapsed_s: float
    remaining_s: float
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ended:
    """The job is over; the newest record says how."""


@dataclass(frozen=True)
class Heartbeat:
    """Nothing happened for a while."""


Event = Started | Stepped | Paused | Ended
