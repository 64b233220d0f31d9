"""What a worker does beside its steps: preparing jobs, making pictures for reports, writing checkpoints. Each has a thread.

On a CPU the first two are done at once, on the stepping thread: they would only compete for the same cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

Work = Callable[[], None]
Lane = Callable[[Work], object]
"""Does work in the order in which it is given, at once or on a thread."""


def at_once(work: Work) -> None:
    """Do work on the calling thread."""
    work()


@dataclass(frozen=True)
class Lanes:
    """Where a worker's other work is done.

    Attributes:
        prepare: Makes jobs ready to join: targets, first canvas, networks.
        report: Makes previews and finished pictures, and sends all reports on jobs, in order.
        write: Copies states to the host and writes them.
    """

    prepare: Lane = at_once
    report: Lane = at_once
    write: Lane = at_once


AT_ONCE = Lanes()


def lanes_for(device: torch.device) -> Lanes:
    """Return the lanes of a worker's process."""
    write = ThreadPoolExecutor(1, "writer").submit
    if device.type == "cpu":
        return Lanes(write=write)
    return Lanes(ThreadPoolExecutor(1, "preparer").submit, ThreadPoolExecutor(1, "reporter").submit, write)


class TimeShare:
    """Limits the time that optional work of all jobs together takes from their steps.

    Args:
        factor: After work that cost some time, there is none for this multiple of it.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._from = 0.0

    @property
    def open(self) -> bool:
        """Whether work may be done now."""
        return time.monotonic() >= self._from

    def charge(self, cost_s: float) -> None:
        """Count work that has been done."""
        self._from = max(self._from, time.monotonic()) + self._factor * cost_s
