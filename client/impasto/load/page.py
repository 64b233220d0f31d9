"""Renders a run as one self-contained page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from impasto.experiments.plots import STYLE, Points, chart, table
from impasto.load.gates import SHARES, Slo
from impasto.load.measures import PERCENTILES, Measure, Report, alike, quantile, samples_of
from impasto.load.records import Record
from impasto.load.scrape import LEVELS, Sample, growth, levels, means, series


def seconds(value: float | None) -> str:
    """Return a readable time; a dash if it is unknown."""
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def told(report: Report) -> list[Measure]:
    """Return the measures to show: those from the actual send only if they differ from those from the intended send."""
    found = []
    for measure in report.measures.values():
        twin = report.measures.get(measure.name.removesuffix("@sent"))
        if not measure.name.endswith("@sent") or twin is None or not alike(measure, twin):
            found.append(measure)
    return found


def rows(report: Report) -> list[list[str]]:
    """Return a table row for each measure: name, counts, percentiles."""
    found = []
    for measure in told(report):
        cells = [measure.name, str(measure.count), str(measure.failed), str(measure.censored)]
        found.append([*cells, *(_percentile(measure, percent) for percent in PERCENTILES), seconds(measure.longest)])
    return found


HEAD = ("time", "count", "failed", "not ended", *(f"p{percent:g}" for percent in PERCENTILES), "longest")


def _percentile(measure: Measure, percent: float) -> str:
    text = seconds(measure.percentiles.get(percent))
    low, high = measure.intervals.get(percent, (None, None))
    if low is None:
        return text
    begin, end = seconds(low), seconds(high)
    unit = end.rpartition(" ")[2]
    return f"{text}\n{begin.removesuffix(unit).strip() if begin.endswith(f' {unit}') else begin} to {end}"


def page(report: Report, gates: Sequence[tuple[Slo, bool]] = ()) -> str:
    """Return the page."""
    records = [Record(**dict(record)) for record in report.records]
    done = {"from the intended send": "done", "from the actual send": "done@sent"}
    both = [report.measures[base] for base in done.values() if base in report.measures]
    if len(both) == 2 and alike(*both):  # the curves would coincide
        del done["from the actual send"]
    span = (0.0, max(report.seconds, *(record.intended for record in records), 1e-9)) if records else (0.0, 1.0)
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"]
    parts.append(f"<title>impasto load</title><style>{STYLE}</style><h1>Load test</h1>")
    facts = {key.replace("_", " "): _plain(value) for key, value in report.about.items() if key != "trials"}
    parts.append(f"<div class='facts'>{table(('', ''), list(facts.items()))}</div>")
    if gates:
        verdicts = [(gate.text, "holds" if holds else "BROKEN", shown(report, gate.metric)) for gate, holds in gates]
        parts.append("<h2>Gates</h2>" + table(("gate", "", "measured"), verdicts))
    parts.append(
        "<h2>Times</h2><p>Measured from the intended send, unless a row says @sent; without requests with an injected fault."
        " Requests that failed or did not end count as longer than any that ended; a dash means unknown."
        " If there are few samples, the 95 % interval by bootstrap is shown below each percentile.</p>"
    )
    parts.append(table(HEAD, rows(report)))
    parts.append("<h2>Outcomes</h2>" + table(("outcome", "requests"), [(k, str(v)) for k, v in report.outcomes.items()]))
    if report.errors:
        found = [(reason, str(count), report.messages.get(reason, "")) for reason, count in report.errors.items()]
        parts.append("<h2>Errors</h2>" + table(("error", "count", "first message"), found))
    if report.incorrect:
        parts.append("<h2>Incorrect</h2>" + table(("problem", "count"), [(k, str(v)) for k, v in report.incorrect.items()]))
    if report.about.get("trials"):
        tried = [(f"{trial['rate']:.3f}", _verdict(trial)) for trial in report.about["trials"]]
        parts.append("<h2>Rates that were tried</h2>" + table(("jobs per second", ""), tried))
    over_time = {
        label: [(record.intended, took) for record, took in _times(records, from_sent=base == "done@sent")]
        for label, base in done.items()
    }
    never = {"error": "failed", "censored": "not ended"}
    missing = {word: [(each.intended, 0.0) for each in records if each.outcome == kind] for kind, word in never.items()}
    drawn = chart(over_time, "intended send, s", dots=True, crosses={k: v for k, v in missing.items() if v}, span=span)
    parts.append(f"<h2>Latency over time, s</h2>{drawn}" if drawn else "<p>No job was done.</p>")
    curves = {label: _curve(samples_of(records, base)) for label, base in done.items()}
    ticks = {float(place): word for place, word in enumerate(("50 %", "90 %", "99 %", "99.9 %"))}
    if drawn:
        parts.append("<h2>Percentiles, s</h2>" + chart(curves, "percentile", ticks=ticks))
        parts.append(_titled("Jobs done per second", {"done": _throughput(records)}, span))
    parts.append(_server(report.samples, span))
    late = report.lateness
    text = f"sent late by {late['median_s'] * 1e3:.2f} ms (median), {late['longest_s'] * 1e3:.1f} ms (maximum)"
    parts.append(f"<h2>Load generator</h2><p>Requests were {html.escape(text)}.</p></html>")
    return "\n".join(parts)


def _verdict(trial: Mapping[str, Any]) -> str:
    broken = [f"{text} broken" for text in trial["broken"]] + (["the server falls behind"] if trial["behind"] else [])
    return " and ".join(broken) or "holds"


def _plain(value: Any) -> str:
    """Return a readable value of a run's description."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _times(records: Sequence[Record], *, from_sent: bool) -> list[tuple[Record, float]]:
    times = ((record, record.took("done", from_sent=from_sent)) for record in records)
    return [(record, took) for record, took in times if took is not None]


def shown(report: Report, metric: str) -> str:
    """Return a readable figure of a run.

    Raises:
        ValueError: If the figure is unknown.
    """
    value = report.value(metric)
    if metric in SHARES:
        return f"{(value or 0) * 100:.2f} %"
    return f"{value:.3f} /s" if metric == "throughput" and value is not None else seconds(value)


def _curve(samples: list[tuple[float, bool]]) -> list[tuple[float, float]]:
    """Return times by percentile, with 50, 90, 99 and 99.9 % equally spaced."""
    found = []
    for step in range(0, 31):
        q = 0.5 + 0.4 * step / 10 if step <= 10 else 1 - 10 ** -(step / 10)
        value = quantile(samples, q)
        if value is not None and 1 - q >= 0.5 / max(1, len(samples)):
            found.append((step / 10, value))
    return found


def _throughput(records: Sequence[Record]) -> list[tuple[float, float]]:
    ends = sorted(record.moments["done"] for record in records if "done" in record.moments)
    if not ends:
        return []
    width = max(1.0, ends[-1] / 40)
    counts = [0] * (int(ends[-1] / width) + 1)
    for end in ends:
        counts[int(end / width)] += 1
    return [(min((index + 0.5) * width, ends[-1]), count / width) for index, count in enumerate(counts)]


def _server(samples: Sequence[Sample], span: tuple[float, float]) -> str:
    if not samples:
        return ""
    rows = [
        (level.name, *(amount(value) for value in (level.before, level.mean, level.highest, level.after)))
        for level in levels(samples)
    ]
    text = "<h2>Server metrics</h2>" + table(("", "before", "mean", "maximum", "after"), rows)
    during = {**growth(samples), **{f"{name} (mean)": value for name, value in means(samples).items()}}
    text += table(("", "during the run"), [(name, amount(value)) for name, value in during.items()])
    for title, chosen in (
        ("jobs", ("impasto_queue_depth", "impasto_jobs_running")),
        ("GPUs in use", ("impasto_gpu_utilization_ratio",)),
    ):
        lines = {LEVELS[name]: [(item["at"], item[name]) for item in samples if name in item] for name in chosen}
        text += _titled(f"Server: {title}", lines, span)
    text += _titled("Server: jobs per step", {"mean": series(samples, "jobs per step")}, span)
    processors = {name: series(samples, f"{name} processors in use") for name in ("workers'", "server's")}
    return text + _titled("Server: processors in use", processors, span)


def _titled(title: str, lines: Mapping[str, Points], span: tuple[float, float]) -> str:
    drawn = chart(lines, "s", span=span)
    return f"<h2>{html.escape(title)}</h2>{drawn}" if drawn else ""


def amount(value: float) -> str:
    """Return a readable number."""
    for size, unit in ((1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:.4g}"
