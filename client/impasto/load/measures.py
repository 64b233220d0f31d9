"""What a run came to: percentiles with what did not end, intervals where samples are few, gates, files that can be joined."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

from impasto.load.records import MOMENTS, Record

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
FEW = 500
"""Up to so many samples percentiles get an interval by bootstrap: beyond, it is narrower than anybody asks."""
RESAMPLES = 400
LONGEST_MS = 24 * 3600 * 1000
STALL_S = 5.0
"""A job that is without a step for so long, once it has begun, has stalled."""
Sample = tuple[float, bool]
"""Seconds, and whether that is only how long it was waited for."""


def quantile(samples: Sequence[Sample], q: float) -> float | None:
    """Return a quantile of times of which some are only known to be longer (Kaplan & Meier 1958).

    None if so many did not end that nobody can tell. Without any of those it is the least time that a share ``q`` stays within.
    """
    if not samples:
        return None
    ordered = sorted(samples)
    at_risk, surviving = len(ordered), 1.0
    for value, censored in ordered:
        if not censored:
            surviving *= 1 - 1 / at_risk
            if 1 - surviving >= q - 1e-12:
                return value
        at_risk -= 1
    return None


def interval(samples: Sequence[Sample], q: float, seed: int = 0) -> tuple[float | None, float | None]:
    """Return a 95 % interval of a quantile by bootstrap; a None at its upper end means beyond what was seen."""
    rng = random.Random(seed)  # noqa: S311 - nothing is secret here
    drawn = [quantile(rng.choices(samples, k=len(samples)), q) for _ in range(RESAMPLES)]
    ordered = sorted(math.inf if value is None else value for value in drawn)
    low, high = ordered[int(0.025 * RESAMPLES)], ordered[int(0.975 * RESAMPLES)]
    return (None if math.isinf(low) else low), (None if math.isinf(high) else high)


@dataclass(frozen=True)
class Measure:
    """One time, over all requests.

    Attributes:
        name: ``done``, or ``done@sent`` from the actual send.
        count: How many came to it.
        censored: How many were still waited for at the end.
        percentiles: By percent, in seconds; None beyond what was seen.
        intervals: Of those, where samples are few.
        mean: Of those that came.
        longest: Of those that came.
        histogram: HdrHistogram in milliseconds, encoded.
    """

    name: str
    count: int
    censored: int
    percentiles: Mapping[float, float | None]
    intervals: Mapping[float, tuple[float | None, float | None]]
    mean: float | None
    longest: float | None
    histogram: str = field(repr=False, default="")


@dataclass(frozen=True)
class Report:
    """A run.

    Attributes:
        about: What was run, against what, when.
        seconds: From the beginning to the end.
        outcomes: How many ended how.
        errors: Errors by reason.
        incorrect: What was wrong, by kind.
        measures: By name.
        throughput: Jobs done a second, over all of the run.
        lateness: How late requests were sent, in seconds: median and longest. The tester's own fault.
        samples: The server's metrics over time.
        records: Every request.
    """

    about: Mapping[str, Any]
    seconds: float
    outcomes: Mapping[str, int]
    errors: Mapping[str, int]
    incorrect: Mapping[str, int]
    measures: Mapping[str, Measure]
    throughput: float
    lateness: Mapping[str, float]
    samples: Sequence[Mapping[str, float]] = ()
    records: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    def value(self, metric: str) -> float | None:
        """Return a figure by its name in a gate: ``p95(done)``, ``mean(done@sent)``, ``errors``, ``throughput``, ...

        Raises:
            ValueError: If there is no such figure.
        """
        count = sum(self.outcomes.values())
        shares = {
            "errors": self.outcomes.get("error", 0) / count if count else 0.0,
            "censored": self.outcomes.get("censored", 0) / count if count else 0.0,
            "incorrect": sum(self.incorrect.values()) / count if count else 0.0,
            "throughput": self.throughput,
        }
        if metric in shares:
            return shares[metric]
        found = re.fullmatch(r"(mean|max|p\d+(?:\.\d+)?)\((\w+(?:@sent)?)\)", metric)
        if found is None or found[2] not in self.measures:
            names = ", ".join((*shares, *(f"p95({name})" for name in self.measures)))
            raise ValueError(f"there is no figure {metric!r}; there are {names}")
        measure = self.measures[found[2]]
        if found[1] in ("mean", "max"):
            return measure.mean if found[1] == "mean" else measure.longest
        percent = float(found[1][1:])
        if percent in measure.percentiles:
            return measure.percentiles[percent]
        return quantile(self._samples(found[2]), percent / 100)

    def _samples(self, name: str) -> list[Sample]:
        return samples_of([Record(**dict(record)) for record in self.records], name)

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load_report(path: Path) -> Report:
    """Return a report out of its file.

    Raises:
        ValueError: If it is none.
    """
    try:
        values = json.loads(path.read_text())
        measures = {}
        for name, item in values["measures"].items():
            percentiles = {float(key): value for key, value in item["percentiles"].items()}
            intervals = {float(key): tuple(value) for key, value in item["intervals"].items()}
            measures[name] = Measure(**{**item, "percentiles": percentiles, "intervals": intervals})
        return Report(**{**values, "measures": measures})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no report of impasto load ({error})") from None


def samples_of(records: Sequence[Record], name: str) -> list[Sample]:
    """Return the times of a measure; what was given up before it came is censored, errors and cancelled ones are left out."""
    moment, _, base = name.partition("@")
    found = []
    for record in records:
        took = record.took(moment, from_sent=base == "sent")
        if took is not None:
            found.append((took, False))
        elif record.outcome == "censored" and record.given_up is not None:
            found.append((record.given_up - (record.sent if base == "sent" else record.intended), True))
    return found


def summarize(
    records: Sequence[Record], seconds: float, about: Mapping[str, Any], samples: Sequence[Mapping[str, float]] = ()
) -> Report:
    """Return what a run came to."""
    measures = {}
    for name in (moment + base for moment in MOMENTS for base in ("", "@sent")):
        found = samples_of(records, name)
        if found:
            measures[name] = _measure(name, found)
    rates = [record.steps / record.split["optimize"] for record in records if record.split.get("optimize")]
    late = sorted(record.sent - record.intended for record in records) or [0.0]
    kinds = Counter(re.sub(r"[\d.]+(e[-+]?\d+)?", "#", text) for record in records for text in record.incorrect)
    done = sum(record.outcome == "ok" for record in records)
    return Report(
        {
            **about,
            "requests": len(records),
            "steps_per_second": sum(rates) / len(rates) if rates else None,
            "stalled_jobs": sum(record.longest_gap > STALL_S for record in records),
            "received_bytes": sum(record.received_bytes for record in records),
            "split_mean_s": _split(records),
            "chaos": dict(Counter(record.chaos for record in records if record.chaos)),
        },
        seconds,
        dict(Counter(record.outcome for record in records)),
        dict(Counter(record.reason for record in records if record.outcome == "error")),
        dict(kinds),
        measures,
        done / seconds if seconds else 0.0,
        {"median_s": late[len(late) // 2], "longest_s": late[-1]},
        samples,
        [record.to_dict() for record in records],
    )


def _measure(name: str, samples: Sequence[Sample]) -> Measure:
    values = [value for value, censored in samples if not censored]
    histogram = HdrHistogram(1, LONGEST_MS, 3)
    for value in values:
        histogram.record_value(max(1, min(LONGEST_MS, round(value * 1000))))
    percentiles = {percent: quantile(samples, percent / 100) for percent in PERCENTILES}
    few = len(samples) <= FEW
    intervals = {percent: interval(samples, percent / 100) for percent in PERCENTILES} if few else {}
    mean = sum(values) / len(values) if values else None
    longest = max(values, default=None)
    return Measure(
        name, len(values), len(samples) - len(values), percentiles, intervals, mean, longest, histogram.encode().decode()
    )


def _split(records: Sequence[Record]) -> dict[str, float]:
    splits = [record.split for record in records if record.split]
    return {name: sum(split[name] for split in splits) / len(splits) for name in splits[0]} if splits else {}


def joined(reports: Sequence[Report], name: str) -> dict[float, float]:
    """Return the percentiles, in seconds, of a measure over several runs, by adding their histograms."""
    whole = HdrHistogram(1, LONGEST_MS, 3)
    for report in reports:
        if name in report.measures:
            whole.decode_and_add(report.measures[name].histogram.encode())
    return {percent: whole.get_value_at_percentile(percent) / 1000 for percent in PERCENTILES}


@dataclass(frozen=True)
class Slo:
    """A gate: a figure and what it must be."""

    text: str
    metric: str
    below: bool
    limit: float

    @staticmethod
    def parse(text: str) -> Slo:
        """Return the gate that a text such as ``p95(done)<30s`` or ``errors<0.1%`` stands for.

        Raises:
            ValueError: If it cannot be understood.
        """
        found = re.fullmatch(r"\s*([\w.()@]+)\s*(<=?|>=?)\s*([\d.]+)\s*(ms|s|min|%|/s|/min)?\s*", text)
        if found is None:
            raise ValueError(f"{text!r} is not FIGURE<LIMIT, such as 'p95(done)<30s' or 'errors<0.1%'")
        unit = {"ms": 1e-3, "min": 60.0, "%": 0.01, "/min": 1 / 60}.get(found[4] or "", 1.0)
        return Slo(text.strip(), found[1], found[2].startswith("<"), float(found[3]) * unit)

    def holds(self, report: Report) -> bool:
        """Whether a run keeps it; what nobody can tell, since too much did not end, does not.

        Raises:
            ValueError: If there is no such figure.
        """
        value = report.value(self.metric)
        if value is None:
            return False
        return value <= self.limit if self.below else value >= self.limit
