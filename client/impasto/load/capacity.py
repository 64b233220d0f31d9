"""Searches the highest rate at which gates still hold and the server keeps up."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from impasto.load.gates import Slo
from impasto.load.measures import Report

DOUBLINGS, HALVINGS = 8, 4
NO_ERRORS = Slo.parse("errors<1%")
"""Holds beside the gates: a server that turns jobs away is quick with those that it takes."""
FEW_MORE, PART_MORE = 3, 0.2
"""By how many jobs, and by which part of what was sent, the backlog may grow over the second half of a trial's sending."""
LONG_ENOUGH = 5
"""A trial sends for at least so many times what a job takes alone, so that its second half shows how the server stands."""
Try = Callable[[float, int], Awaitable[Report]]


@dataclass(frozen=True)
class Trial:
    """One rate that was tried.

    Attributes:
        rate: Jobs a second.
        broken: Gates that did not hold.
        behind: Whether the server fell behind: more jobs would have been worse.
        report: What came of it.
    """

    rate: float
    broken: tuple[Slo, ...]
    behind: bool
    report: Report

    @property
    def holds(self) -> bool:
        """Whether the server can do it."""
        return not self.broken and not self.behind

    def to_dict(self) -> dict[str, Any]:
        """Return it as values for a report."""
        broken = [gate.text for gate in self.broken]
        return {"rate": self.rate, "holds": self.holds, "broken": broken, "behind": self.behind}


def falls_behind(report: Report) -> bool:
    """Whether the backlog grew over the second half of the sending."""
    taken = [record for record in report.records if record["outcome"] in ("ok", "censored")]
    sent = sorted(record["intended"] for record in taken)
    if len(sent) < 2:
        return False
    middle, last = sent[len(sent) // 2], sent[-1]
    ends = [record["moments"].get("done", math.inf) for record in taken]
    arrived = sum(middle < at <= last for at in sent)
    done = sum(middle < at <= last for at in ends)
    return bool(arrived - done > max(FEW_MORE, PART_MORE * arrived))


async def find_capacity(
    attempt: Try,
    gates: Sequence[Slo],
    start: float,
    jobs: int,
    alone_s: float = 0.0,
    tell: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Try rates: doubled while they hold (or halved until one does), then between the last two. Returns all trials.

    Args:
        attempt: Runs an open loop of so many jobs at a rate, drained to its end.
        gates: What must hold.
        start: Rate to begin with.
        jobs: Of a trial, at least.
        alone_s: What a job takes on a server that does nothing else.
        tell: Told every trial.
    """
    trials: list[Trial] = []

    async def holds(rate: float) -> bool:
        report = await attempt(rate, max(jobs, math.ceil(LONG_ENOUGH * rate * alone_s)))
        broken = tuple(gate for gate in gates if not gate.holds(report.value(gate.metric)))
        trials.append(Trial(rate, broken, falls_behind(report), report))
        tell(trials[-1])
        return trials[-1].holds

    good, bad = None, None
    rate = start
    for _ in range(DOUBLINGS):
        if await holds(rate):
            good = rate
            if bad is not None:
                break
            rate *= 2
        else:
            bad = rate
            if good is not None:
                break
            rate /= 2
    for _ in range(HALVINGS if good is not None and bad is not None else 0):
        assert good is not None and bad is not None  # noqa: PT018, S101 - said by the loop's condition
        middle = (good * bad) ** 0.5
        if await holds(middle):
            good = middle
        else:
            bad = middle
    return trials


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the highest rate that held, below the lowest that did not; None if none did."""
    broken = min((trial.rate for trial in trials if not trial.holds), default=math.inf)
    return max((trial for trial in trials if trial.holds and trial.rate < broken), key=lambda trial: trial.rate, default=None)
