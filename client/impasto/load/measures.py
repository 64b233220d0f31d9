"""Results of a run: percentiles that account for unfinished requests, confidence intervals, and reports that can be joined."""

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
"""Up to this many samples, percentiles get an interval by bootstrap; with more, the interval is too narrow to matter."""
RESAMPLES = 400
LONGEST_US = 24 * 3600 * 1_000_000
STALL_S = 5.0
"""A job has stalled if it has no step for this long after it has started."""
Sample = tuple[float, bool]
"""Seconds, and whether the sample is censored: the real time is longer."""


def quantile(samples: Sequence[Sample], q: float) -> float | None:
    """Return a quantile of times, some of which are censored (Kaplan & Meier 1958).

    None if too many are censored to determine it. Without censoring it is the smallest time that a share ``q`` does not exceed.
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
    """Return a 95 % interval of a quantile by bootstrap; None at its upper end means longer than any sample."""
    rng = random.Random(seed)  # noqa: S311 - nothing is secret here
    drawn = [quantile(rng.choices(samples, k=len(samples)), q) for _ in range(RESAMPLES)]
    ordered = sorted(math.inf if value is None else value for value in drawn)
    low, high = ordered[int(0.025 * RESAMPLES)], ordered[int(0.975 * RESAMPLES)]
    return (None if math.isinf(low) else low), (None if math.isinf(high) else high)


@dataclass(frozen=True)
class Measure:
    """One time, over all requests.

    Attributes:
        name: ``done``, or ``done@sent`` if measured from the actual send.
        count: Number of requests that reached it.
        censored: Number of requests that had not reached it when the run ended.
        failed: Number of requests that never reached it because of an error.
        percentiles: By percent, in seconds; None if longer than any sample.
        intervals: Intervals of the percentiles, if there are few samples.
        mean: Mean of those that reached it.
        longest: Longest of those that reached it.
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
    """Report of a run.

    Attributes:
        about: What was run, on which server, and when.
        seconds: Duration of the run.
        outcomes: Number of requests by outcome.
        errors: Number of errors by reason.
        incorrect: Number of incorrect results by kind.
        measures: Measures by name.
        throughput: Jobs done per second, over the whole run.
        lateness: How late the load generator sent requests, in seconds: median and longest.
        samples: The server's metrics over time.
        records: All requests.
        messages: Message of the first error of each reason.
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

        None if it is unknown: a percentile longer than any sample, or a mean or maximum if some requests failed or did not end.

        Raises:
            ValueError: If the figure is unknown.
        """
        figure = Figure.parse(metric)
        if figure.what == "throughput":
            return self.throughput
        if figure.what in SHARES:
            return self.share(figure.what)
        measure = self.measures.get(figure.measure)
        if measure is None:  # of one class, or reached by no request
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
        """Return the share of all requests that had errors, were censored, or were incorrect."""
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
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def alike(one: Measure, other: Measure) -> bool:
    """Whether two measures are equal to within 1 %, so that showing one is enough."""

    def close(a: float | None, b: float | None) -> bool:
        return a == b if a is None or b is None else math.isclose(a, b, rel_tol=0.01, abs_tol=2e-3)

    pairs = [(value, other.percentiles.get(percent)) for percent, value in one.percentiles.items()]
    return one.count == other.count and all(close(a, b) for a, b in [*pairs, (one.longest, other.longest)])


def load_report(path: Path) -> Report:
    """Return a report from its file.

    Raises:
        ValueError: If the file is not a report.
    """
    try:
        values = json.loads(path.read_text("utf-8-sig"))
        measures = {}
        for name, item in values["measures"].items():
            percentiles = {float(key): value for key, value in item["percentiles"].items()}
            intervals = {float(key): tuple(value) for key, value in item["intervals"].items()}
            measures[name] = Measure(**{**item, "percentiles": percentiles, "intervals": intervals})
        return Report(**{**values, "measures": measures})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is not a report of impasto load ({error})") from None


def samples_of(records: Sequence[Record], name: str) -> list[Sample]:
    """Return the times of a measure, without requests with an injected fault.

    A request that was abandoned is censored: its time is only known to be longer. A request that failed has an infinite time.

    Args:
        records: All requests.
        name: ``done``, ``done@sent`` (from the actual send), ``queue`` (the server's own), or ``done[small]`` (one class).
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
    """Return the report of a run.

    Args:
        records: Records returned by :func:`impasto.load.run`.
        seconds: Duration of the run, including the drain.
        about: Description of the run, for readers of the report.
        samples: The server's metrics over time.
    """
    entries = sorted({record.entry for record in records})
    names = [*MEASURES, *(f"done[{entry}]" for entry in entries if len(entries) > 1)]
    found = {name: samples_of(records, name) for name in names}
    # A moment that no request reached, such as the first preview of jobs without previews, is not a measure of this run.
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

    They are computed from all requests, as in a single run. For files without requests the histograms are added; requests that
    failed or did not end then count as longer than any that ended.

    Returns:
        The percentiles, the number of times, and the number of requests that failed or did not end.

    Raises:
        ValueError: If no run has the measure.
    """
    having = [report.measures[name] for report in reports if name in report.measures]
    if not having:
        known = sorted({measure for report in reports for measure in report.measures})
        raise ValueError(f"unknown time {name!r}; these runs have {', '.join(known) or 'none'}")
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
