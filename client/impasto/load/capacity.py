"""Searches the highest rate at which a gate still holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from impasto.load.measures import Report, Slo

DOUBLINGS, HALVINGS = 8, 4
Try = Callable[[float], Awaitable[Report]]


@dataclass(frozen=True)
class Trial:
    """One rate that was tried."""

    rate: float
    holds: bool
    report: Report


async def find_capacity(attempt: Try, gate: Slo, start: float, tell: Callable[[Trial], None] = lambda _: None) -> list[Trial]:
    """Try rates: doubled while the gate holds (or halved until it does), then between the last two. Returns all trials.

    Args:
        attempt: Runs an open loop at a rate, drained to its end.
        gate: What must hold.
        start: Rate to begin with.
        tell: Told every trial.
    """
    trials: list[Trial] = []

    async def holds(rate: float) -> bool:
        report = await attempt(rate)
        trials.append(Trial(rate, gate.holds(report), report))
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
