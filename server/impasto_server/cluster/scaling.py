"""How many devices there should be, and which workers leave first. Pure: time comes in as a number.

Growth follows the load at once: a job that waits is worth a device. Shrinking waits until fewer devices were enough for a whole
while, and drains: a worker gets no new jobs, its jobs end or move, and only then does it leave.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What an operator sets.

    Args:
        least: Devices that are always kept.
        most: Devices that are never exceeded.
        target_s: Seconds in which what waits should be begun: a second of queued work wants 1 / target_s devices.
        shrink_after_s: Seconds for which fewer devices must have been enough before any leaves.
    """

    least: int = 0
    most: int = 1
    target_s: float = 60.0
    shrink_after_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise ValueError(f"workers must be MIN..MAX with 0 <= MIN <= MAX and MAX at least 1, got {self.least}..{self.most}")
        if self.target_s <= 0 or self.shrink_after_s < 0:
            raise ValueError("target_s must be above 0 and shrink_after_s at least 0")


@dataclass(frozen=True)
class Load:
    """What the devices have to do.

    Args:
        waiting: Jobs that wait for a device.
        waiting_s: Seconds that one device would need for them.
        running: Jobs that run.
        slots: Jobs that one device runs at a time.
    """

    waiting: int = 0
    waiting_s: float = 0.0
    running: int = 0
    slots: int = 1


@dataclass(frozen=True)
class Worker:
    """One worker as far as scaling is concerned."""

    name: str
    host: str
    running: int = 0
    draining: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do now.

    Args:
        devices: Devices wanted in all, for the autoscaler.
        add: Workers to place.
        drain: Workers to drain.
        resume: Draining workers to use again.
        end: Workers that are drained and have no job: to end.
    """

    devices: int
    add: int = 0
    drain: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    end: tuple[str, ...] = ()


def devices_wanted(load: Load, limits: Limits) -> int:
    """Return the devices that the load is worth, within the limits.

    Running jobs keep as many devices as they fill; what waits adds its work divided by the target. There are never more devices
    than jobs, since a job runs on one, and at least one if there is any job.
    """
    jobs = load.waiting + load.running
    held = math.ceil(load.running / max(1, load.slots))
    work = load.waiting_s if math.isfinite(load.waiting_s) else 0.0
    added = max(math.ceil(work / limits.target_s), 1 if load.waiting and not load.running else 0)
    return min(max(min(held + added, jobs), limits.least), limits.most)


class Scaler:
    """Turns loads into decisions, with hysteresis.

    Args:
        limits: What the operator set.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since: float | None = None
        self._past: deque[tuple[float, int]] = deque()
        """Times and wanted devices, falling: its first is the largest of the last ``shrink_after_s``."""

    def decide(self, now: float, load: Load, workers: Sequence[Worker]) -> Decision:
        """Return what to do; call it every few seconds.

        Args:
            now: Seconds of a monotonic clock.
            load: What there is to do.
            workers: All workers, those that are still starting too.
        """
        wanted = devices_wanted(load, self._limits)
        enough = self._most_of_late(now, wanted)
        used = [worker for worker in workers if not worker.draining]
        draining = [worker for worker in workers if worker.draining]
        if len(used) < wanted:
            back = _busiest_first(draining)[: wanted - len(used)]
            kept = {worker.name for worker in back}
            add = min(wanted - len(used) - len(back), max(0, self._limits.most - len(workers)))
            ended = tuple(worker.name for worker in draining if not worker.running and worker.name not in kept)
            return Decision(wanted, add, resume=tuple(worker.name for worker in back), end=ended)
        ended = tuple(worker.name for worker in draining if not worker.running)
        target = max(wanted, min(enough, len(used)))
        leaving = to_drain(used, len(used) - target)
        return Decision(max(wanted, target), drain=tuple(leaving), end=ended)

    def _most_of_late(self, now: float, wanted: int) -> int:
        """Return the most devices that were wanted of late; before that time is over, no end of devices."""
        self._since = now if self._since is None else self._since
        while self._past and self._past[-1][1] <= wanted:
            self._past.pop()
        self._past.append((now, wanted))
        while self._past[0][0] < now - self._limits.shrink_after_s:
            self._past.popleft()
        return self._limits.most if now - self._since < self._limits.shrink_after_s else self._past[0][1]


def to_drain(workers: Sequence[Worker], count: int) -> list[str]:
    """Return the names of the workers that leave: those of the hosts with the fewest jobs, since only empty hosts can go."""
    jobs: dict[str, int] = {}
    for worker in workers:
        jobs[worker.host] = jobs.get(worker.host, 0) + worker.running
    order = sorted(workers, key=lambda worker: (jobs[worker.host], worker.host, worker.running, worker.name))
    return [worker.name for worker in order[: max(0, count)]]


def _busiest_first(workers: Sequence[Worker]) -> list[Worker]:
    return sorted(workers, key=lambda worker: (-worker.running, worker.name))
