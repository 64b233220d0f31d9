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

from impasto.load.gates import SHARES, Figure
from impasto.load.records import MEASURES, SPLIT, Record

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
FEW = 500
"""Up to so many samples percentiles get an interval by bootstrap: beyond, it is narrower than anybody asks."""
RESAMPLES = 400
LONGEST_US = 24 * 3600 * 1_000_000
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
        failed: How many never came, for an error.
        percentiles: By percent, in seconds; None beyond what was seen.
        intervals: Of those, where samples are few.
        mean: Of those that came.
        longest: Of those that came.
        histogram: HdrHistogram in microseconds, encoded.
    """

    name: str
    count: int
    censored: int
    failed: int
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
        messages: What the first error of each reason said.
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
    messages: Mapping[str, str] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """Return a figure by its name in a gate: ``p95(done)``, ``mean(done@sent)``, ``errors``, ``throughput``, ...

        None is what nobody can tell: a percentile beyond what came, a mean or longest of which some failed or did not end.

        Raises:
            ValueError: If there is no such figure.
        """
        figure = Figure.parse(metric)
        if figure.what == "throughput":
            return self.throughput
        if figure.what in SHARES:
            return self.share(figure.what)
        measure = self.measures.get(figure.measure)
        if measure is None:  # one of a class, or one that nobody came to
            times = self.times(figure.measure)
            if all(censored for _, censored in times):
                return None
            measure = _measure(figure.measure, times)
        if figure.what in ("mean", "max"):
            complete = not (measure.censored or measure.failed)
            return (measure.mean if figure.what == "mean" else measure.longest) if complete else None
        if figure.percent in measure.percentiles:
            return measure.percentiles[figure.percent]
        return quantile(self.times(figure.measure), figure.percent / 100)

    def share(self, name: str) -> float:
        """Return the part of all requests that had errors, were censored, or were incorrect."""
        count = sum(self.outcomes.values())
        if name == "incorrect":
            number = sum(bool(record["incorrect"]) for record in self.records)
        else:
            number = self.outcomes.get({"errors": "error"}.get(name, name), 0)
        return number / count if count else 0.0

    def times(self, name: str) -> list[Sample]:
        """Return all times of a measure."""
        return samples_of([Record(**dict(record)) for record in self.records], name)

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def alike(one: Measure, other: Measure) -> bool:
    """Whether two times are the same, to a hundredth: what is told of both need be told once."""

    def close(a: float | None, b: float | None) -> bool:
        return a == b if a is None or b is None else math.isclose(a, b, rel_tol=0.01, abs_tol=2e-3)

    pairs = [(value, other.percentiles.get(percent)) for percent, value in one.percentiles.items()]
    return one.count == other.count and all(close(a, b) for a, b in [*pairs, (one.longest, other.longest)])


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
    """Return the times of a measure, of those requests that nothing was done to on purpose.

    What was given up before it came is censored: known only to be longer. What failed never came: it is longer than anything.

    Args:
        records: All requests.
        name: ``done``, ``done@sent`` from the actual send, ``queue`` of the server's own, or ``done[small]`` of one class.
    """
    measure, _, entry = name.rstrip("]").partition("[")
    moment, _, base = measure.partition("@")
    found: list[Sample] = []
    for record in records:
        if record.chaos or (entry and record.entry != entry):
            continue
        took = record.split.get(moment) if moment in SPLIT else record.took(moment, from_sent=base == "sent")
        if took is not None:
            found.append((took, False))
        elif record.outcome == "error":
            found.append((math.inf, True))
        elif record.outcome == "censored" and record.given_up is not None:
            found.append((record.given_up - (record.sent if base == "sent" else record.intended), True))
    return found


def summarize(
    records: Sequence[Record], seconds: float, about: Mapping[str, Any], samples: Sequence[Mapping[str, float]] = ()
) -> Report:
    """Return what a run came to.

    Args:
        records: What :func:`impasto.load.run` returned.
        seconds: How long it took, drained to its end.
        about: What was run, for whoever reads the report.
        samples: The server's metrics over time.
    """
    entries = sorted({record.entry for record in records})
    names = [*MEASURES, *(f"done[{entry}]" for entry in entries if len(entries) > 1)]
    found = {name: samples_of(records, name) for name in names}
    # A moment that nobody came to, such as a first preview of jobs without previews, is no measure of this run.
    measures = {name: _measure(name, times) for name, times in found.items() if any(not censored for _, censored in times)}
    rates = [record.steps / record.split["optimize"] for record in records if record.split.get("optimize")]
    late = sorted(record.sent - record.intended for record in records) or [0.0]
    kinds = Counter(re.sub(r"[\d.]+(e[-+]?\d+)?", "#", text) for record in records for text in record.incorrect)
    done = sum(record.outcome == "ok" for record in records)
    failed = [record for record in records if record.outcome == "error"]
    last = max((record.intended for record in records), default=0.0)
    return Report(
        {
            **about,
            "requests": len(records),
            "sent_per_second": len(records) / last if last else None,
            "steps_per_second": sum(rates) / len(rates) if rates else None,
            "stalled_jobs": sum(record.longest_gap > STALL_S for record in records),
            "received_bytes": sum(record.received_bytes for record in records),
            "split_mean_s": _split(records),
            "chaos": dict(Counter(record.chaos for record in records if record.chaos)),
        },
        seconds,
        dict(Counter(record.outcome for record in records)),
        dict(Counter(record.reason for record in failed)),
        dict(kinds),
        measures,
        done / seconds if seconds else 0.0,
        {"median_s": late[len(late) // 2], "longest_s": late[-1]},
        samples,
        [record.to_dict() for record in records],
        {record.reason: record.message for record in reversed(failed)},
    )


def _measure(name: str, samples: Sequence[Sample]) -> Measure:
    values = [value for value, censored in samples if not censored]
    histogram = HdrHistogram(1, LONGEST_US, 3)
    for value in values:
        histogram.record_value(max(1, min(LONGEST_US, round(value * 1e6))))
    percentiles = {percent: quantile(samples, percent / 100) for percent in PERCENTILES}
    few = len(samples) <= FEW
    intervals = {percent: interval(samples, percent / 100) for percent in PERCENTILES} if few else {}
    failed = sum(math.isinf(value) for value, _ in samples)
    return Measure(
        name,
        len(values),
        len(samples) - len(values) - failed,
        failed,
        percentiles,
        intervals,
        sum(values) / len(values),
        max(values),
        histogram.encode().decode(),
    )


def _split(records: Sequence[Record]) -> dict[str, float]:
    splits = [record.split for record in records if record.split]
    return {name: sum(split[name] for split in splits) / len(splits) for name in splits[0]} if splits else {}


def joined(reports: Sequence[Report], name: str) -> tuple[dict[float, float | None], int, int]:
    """Return percentiles of a measure over several runs, in seconds.

    By all their requests, as in a single run; of files without requests by adding the histograms, where what failed or did not
    end counts as longer than anything that came.

    Returns:
        The percentiles, how many times they are of, and how many failed or did not end.

    Raises:
        ValueError: If no run has such a measure.
    """
    having = [report.measures[name] for report in reports if name in report.measures]
    if not having:
        there = sorted({measure for report in reports for measure in report.measures})
        raise ValueError(f"there is no time {name!r} in these runs; there are {', '.join(there) or 'none'}")
    if all(report.records for report in reports):
        samples = [sample for report in reports for sample in report.times(name)]
        missing = sum(censored for _, censored in samples)
        return {percent: quantile(samples, percent / 100) for percent in PERCENTILES}, len(samples) - missing, missing
    whole, count, missing = HdrHistogram(1, LONGEST_US, 3), 0, 0
    for measure in having:
        whole.decode_and_add(measure.histogram.encode())
        count, missing = count + measure.count, missing + measure.censored + measure.failed
    found: dict[float, float | None] = {}
    for percent in PERCENTILES:
        among = percent * (count + missing) / count
        found[percent] = whole.get_value_at_percentile(among) / 1e6 if among <= 100 else None
    return found, count, missing
