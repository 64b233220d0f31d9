"""Events of a job, as its watchers see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from impasto_engine.results import Losses


class PauseReason(Enum):
    """Why a job was paused."""

    PREEMPTED = "preempted"
    REQUESTED = "requested"


@dataclass(frozen=True)
class Started:
    """A job is about to run, on its ``attempt``-th attempt; ``step`` steps are already done."""

    device: str
    attempt: int
    step: int = 0
    note: str = ""


@dataclass(frozen=True)
class Paused:
    """A job was paused; its steps are kept."""

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
    """The job ended; its newest record says how."""


@dataclass(frozen=True)
class Heartbeat:
    """No event happened recently."""


Event = Started | Stepped | Paused | Ended
