"""Finds the highest rate at which the gates hold and the server keeps up."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from impasto.load.gates import Slo
from impasto.load.measures import Report

DOUBLINGS, HALVINGS = 8, 4
NO_ERRORS = Slo.parse("errors<1%")
"""Added to the gates: a server that rejects jobs is fast with those that it accepts."""
FEW_MORE, PART_MORE = 3, 0.2
"""Allowed growth of the backlog over the second half of a trial's sending: in jobs, and as a fraction of the jobs sent."""
LONG_ENOUGH = 5
"""A trial sends for at least this many times the duration of a single job, so that its second half shows a steady state."""
Try = Callable[[float, int], Awaitable[Report]]


@dataclass(frozen=True)
class Trial:
    """One rate that was tried.

    Attributes:
        rate: Jobs per second.
        broken: Gates that did not hold.
        behind: Whether the server fell behind: more jobs would have made it worse.
        report: Report of the trial.
    """

    rate: float
    broken: tuple[Slo, ...]
    behind: bool
    report: Report

    @property
    def holds(self) -> bool:
        """Whether the server can sustain the rate."""
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
    """Try rates: double while they hold (or halve until one does), then bisect between the last two. Return all trials.

    Args:
        attempt: Runs an open loop with a number of jobs at a rate, and waits for all of them.
        gates: Gates that must hold.
        start: First rate.
        jobs: Minimum number of jobs per trial.
        alone_s: Duration of a job on an idle server.
        tell: Called with every trial.
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
        assert good is not None and bad is not None  # noqa: PT018, S101 - implied by the loop's condition
        middle = (good * bad) ** 0.5
        if await holds(middle):
            good = middle
        else:
            bad = middle
    return trials


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the highest rate that held, below the lowest that did not; None if none held."""
    broken = min((trial.rate for trial in trials if not trial.holds), default=math.inf)
    return max((trial for trial in trials if trial.holds and trial.rate < broken), key=lambda trial: trial.rate, default=None)
