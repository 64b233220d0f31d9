"""Send times of requests: open loops by rate, with stages and ramps, reproducible by seed. Pure functions."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Spacing = Literal["poisson", "constant", "gamma"]


@dataclass(frozen=True)
class Stage:
    """A stage of a run, by requests per second or requests in flight.

    Attributes:
        begin: Amount at its beginning.
        end: Amount at its end; a ramp if it differs from ``begin``.
        seconds: Its duration; infinite for the rest of the run.
    """

    begin: float
    end: float
    seconds: float

    def amount(self, into: float) -> float:
        """Return the amount after a number of seconds in the stage."""
        part = into / self.seconds if self.seconds != float("inf") else 0.0
        return self.begin + (self.end - self.begin) * part


def stages(text: str) -> list[Stage]:
    """Return the stages of ``0.1:60,0.1-0.5:120,0.5`` (amount or ramp, colon, seconds; no seconds for the rest of the run).

    Raises:
        ValueError: If it cannot be parsed.
    """
    found = []
    for item in text.split(","):
        amount, _, seconds = item.strip().partition(":")
        begin, _, end = amount.partition("-")
        try:
            stage = Stage(float(begin), float(end or begin), float(seconds) if seconds else float("inf"))
        except ValueError:
            raise ValueError(f"{item!r} is not AMOUNT:SECONDS or FROM-TO:SECONDS") from None
        if not all(math.isfinite(amount) for amount in (stage.begin, stage.end)) or math.isnan(stage.seconds):
            raise ValueError(f"{item!r}: amounts must be finite")
        if min(stage.begin, stage.end) < 0 or stage.seconds <= 0 or max(stage.begin, stage.end) == 0:
            raise ValueError(f"{item!r}: amounts and seconds must be above 0")
        if end and stage.seconds == float("inf"):
            raise ValueError(f"{item!r}: a ramp needs a duration in seconds")
        found.append(stage)
    return found


def offsets(plan: Sequence[Stage], spacing: Spacing, seed: int, burstiness: float = 1.0) -> Iterator[float]:
    """Yield the send times in seconds from the beginning, until the stages are over.

    Intervals are drawn at a rate of one and scaled by the current rate (time rescaling), so that ramps are right for every
    spacing.

    Args:
        plan: Rates.
        spacing: ``poisson`` (independent users), ``constant``, or ``gamma`` (burstier or smoother than Poisson).
        seed: The same seed gives the same times.
        burstiness: For ``gamma``: squared coefficient of variation of the intervals; 1 is Poisson's.
    """
    rng = random.Random(f"{seed}/arrivals")  # noqa: S311 - nothing is secret here

    def distance() -> float:
        if spacing == "constant":
            return 1.0
        return rng.expovariate(1.0) if spacing == "poisson" else rng.gammavariate(1 / burstiness, burstiness)

    began = 0.0
    left = distance()
    for stage in plan:
        into = 0.0
        while True:
            step = _time_for(stage, into, left)
            if step is None:
                left -= _sum(stage, into, stage.seconds)
                break
            into += step
            yield began + into
            left = distance()
        began += stage.seconds


def exactly(due: Iterable[float], count: int, rate: float) -> list[float]:
    """Return a number of send times, scaled to exactly a given rate: the mean of a few draws may be far from it.

    Args:
        due: Send times drawn at about that rate.
        count: Number of send times.
        rate: Requests per second.
    """
    times = list(itertools.islice(due, count))
    stretch = count / rate / times[-1] if times and times[-1] else 1.0
    return [at * stretch for at in times]


def _sum(stage: Stage, since: float, until: float) -> float:
    """Return the number of requests between two moments of a stage."""
    return (stage.amount(since) + stage.amount(until)) / 2 * (until - since)


def _time_for(stage: Stage, into: float, requests: float) -> float | None:
    """Return the time that a stage needs from a moment for a number of requests; None if it ends before."""
    if stage.seconds == float("inf"):
        return requests / stage.begin
    if _sum(stage, into, stage.seconds) < requests:
        return None
    rate, slope = stage.amount(into), (stage.end - stage.begin) / stage.seconds
    if abs(slope) < 1e-12:
        return requests / rate
    return float((-rate + (rate * rate + 2 * slope * requests) ** 0.5) / slope)


def trace(path: Path) -> list[float]:
    """Return the send times in a file, one per line, in seconds from the beginning.

    Raises:
        ValueError: If a line is not a number, the times decrease, or there are none.
    """
    times: list[float] = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            at = float(text)
        except ValueError:
            at = math.nan
        if not math.isfinite(at) or at < (times[-1] if times else 0.0):
            raise ValueError(
                f"{path}: line {number}: {text!r} is not a time in seconds, is negative, or is less than the time before it"
            )
        times.append(at)
    if not times:
        raise ValueError(f"{path}: contains no times")
    return times
