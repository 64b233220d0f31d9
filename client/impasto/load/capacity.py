"""Searches the highest rate at which gates still hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from impasto.load.measures import Report, Slo

DOUBLINGS, HALVINGS = 8, 4
NO_ERRORS = Slo.parse("errors<1%")
"""Holds beside the gates: a server that turns jobs away is quick with those that it takes."""
KEEPING_UP = 0.8
"""Share of the rate that must be done, over all of a trial, its drain too, for the server to keep up."""
Try = Callable[[float], Awaitable[Report]]


@dataclass(frozen=True)
class Trial:
    """One rate that was tried."""

    rate: float
    holds: bool
    report: Report

    @property
    def keeps_up(self) -> bool:
        """Whether about as much was done as was sent: if not, a longer trial would be worse."""
        return self.report.throughput >= KEEPING_UP * self.rate


async def find_capacity(
    attempt: Try, gates: Sequence[Slo], start: float, tell: Callable[[Trial], None] = lambda _: None
) -> list[Trial]:
    """Try rates: doubled while the gates hold (or halved until they do), then between the last two. Returns all trials.

    Args:
        attempt: Runs an open loop at a rate, drained to its end.
        gates: What must hold.
        start: Rate to begin with.
        tell: Told every trial.
    """
    trials: list[Trial] = []

    async def holds(rate: float) -> bool:
        report = await attempt(rate)
        trials.append(Trial(rate, all(gate.holds(report) for gate in gates), report))
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


def best(trials: list[Trial]) -> float | None:
    """Return the highest rate that held, below the lowest that did not; None if none did."""
    broken = min((trial.rate for trial in trials if not trial.holds), default=float("inf"))
    return max((trial.rate for trial in trials if trial.holds and trial.rate < broken), default=None)
