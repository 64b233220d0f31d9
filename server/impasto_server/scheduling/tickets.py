"""What the scheduler knows of jobs and workers, and what it decides. Pure values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """Memory that a job needs on a device, in bytes; not negative.

    Attributes:
        held: While it runs: optimizer state and targets.
        passing: While its canvas passes through the network.
    """

    held: int = 0
    passing: int = 0


@dataclass(frozen=True)
class Ticket:
    """What the scheduler knows about a job.

    Attributes:
        job_id: Id of the job.
        pixels: Size of its canvas, not negative: the measure of its work per step.
        arrived: When it was accepted, in seconds of the caller's clock.
        priority: Higher runs first.
        shape: Jobs of equal shape share their passes.
        demand: Memory that it needs.
        alone: Whether it must not share a worker.
    """

    job_id: str
    pixels: int
    arrived: float
    priority: int = 0
    shape: Hashable = None
    demand: Demand = Demand()
    alone: bool = False


@dataclass(frozen=True)
class Capacity:
    """Capacity of a worker.

    Attributes:
        slots: Maximum number of jobs.
        memory: Bytes that jobs may use together; None for no limit.
        group: Canvases of one shape that are evaluated in one pass; at least 1.
    """

    slots: int
    memory: int | None = None
    group: int = 1


@dataclass(frozen=True)
class Assignment:
    """A job must start, or resume, on a worker."""

    job_id: str
    worker: str


@dataclass(frozen=True)
class Preemption:
    """A job must leave its worker; the caller calls ``Scheduler.parked`` when it has."""

    job_id: str
    worker: str


Decision = Assignment | Preemption
Place = tuple[float, int]
"""Place of a job in the order: its age with its priority, and the number of its submission."""


def memory(tickets: Iterable[Ticket], group: int) -> int:
    """Return the bytes that jobs need together on one device: what all hold, and the largest pass.

    Batches of different shapes are evaluated one after another, so only the most demanding one counts, with at most ``group``
    canvases in a pass.
    """
    held = 0
    passes: defaultdict[Hashable, list[int]] = defaultdict(list)
    for ticket in tickets:
        held += ticket.demand.held
        passes[ticket.shape].append(ticket.demand.passing)
    return held + max((sum(sorted(sizes, reverse=True)[:group]) for sizes in passes.values()), default=0)
