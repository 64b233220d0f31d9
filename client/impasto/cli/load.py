"""``impasto load``: see docs/LOAD-TESTING.md."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from impasto.aio import AsyncClient
from impasto.cli.output import SERVER
from impasto.load.arrivals import Stage, offsets, stages, trace
from impasto.load.capacity import NO_ERRORS, Trial, best, find_capacity
from impasto.load.measures import Report, Slo, joined, load_report, quantile, samples_of, summarize
from impasto.load.page import page, seconds, shown
from impasto.load.records import Record
from impasto.load.runner import CHAOS, Plan, run
from impasto.load.scrape import Sample, ScrapeError, growth, levels, means, sampling
from impasto.load.target import ServiceTarget
from impasto.load.workload import Entry, Workload, WorkloadError, read_workload

FILE = click.Path(dir_okay=False, path_type=Path)
BROKEN = 3
"""Exit code when a gate is broken, or two runs differ for the worse."""


class _Chaos(click.ParamType[dict[str, float]]):
    name = "KIND=SHARE,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        """Return share by kind."""
        if isinstance(value, dict):
            return value
        found = {}
        for item in value.split(","):
            kind, _, share = item.strip().partition("=")
            try:
                number = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
            except ValueError:
                self.fail(f"{item!r} is not KIND=SHARE, such as cancel=5%", param, ctx)
            if kind not in CHAOS or not 0 <= number <= 1:
                self.fail(f"{item!r}: kinds are {', '.join(CHAOS)}, shares from 0 to 100 %", param, ctx)
            found[kind] = number
        if sum(found.values()) > 1:
            self.fail("the shares are more than 100 % together", param, ctx)
        return found


class _Parsed(click.ParamType[Any]):
    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the text stands for."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


STAGES, GATE = _Parsed("AMOUNT[:SECONDS],...", stages), _Parsed("FIGURE<LIMIT", Slo.parse)


@click.group(invoke_without_command=True)
@click.option("--concurrency", type=STAGES, help="Closed loop: jobs in flight, such as 4, or in stages: 1:30,2-8:60.")
@click.option("--rate", type=STAGES, help="Open loop: jobs a second, such as 0.2, or in stages: 0.1:60,0.1-0.5:120.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant", "gamma"]), default="poisson", help="Of an open loop.")
@click.option("--burstiness", type=click.FloatRange(min=0, min_open=True), default=4.0, help="Of gamma; 1 is like poisson.")
@click.option("--trace", "trace_file", type=FILE, help="Open loop: send times from a file, one a line, in seconds.")
@click.option("--jobs", type=click.IntRange(min=1), help="Requests to send at most; 20 if --duration is not given either.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="Seconds to send for.")
@click.option("--drain-timeout", type=float, default=600.0, show_default=True, help="Seconds to wait for the last ones.")
@click.option("--workload", type=FILE, help="TOML file with the mix; by default small jobs of drawn pictures.")
@click.option("--size", "size_px", type=int, default=128, show_default=True, help="Longer side, without --workload.")
@click.option("--steps", type=int, default=20, show_default=True, help="Optimizer steps, without --workload.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed sends the same requests at the same times.")
@click.option("--chaos", type=_Chaos(), help="Done on purpose: cancel=5%,reattach=5%,duplicate=5%,slow=2%.")
@click.option("--slo", "gates", type=GATE, multiple=True, help="Gate: 'p95(done)<30s', 'errors<0.1%'; exit code 3 if broken.")
@click.option("--find-capacity", type=GATE, help="Search the highest rate at which a gate holds, with --jobs at each.")
@click.option("--metrics", "metrics_url", help="The server's /metrics, such as http://localhost:9464/metrics.")
@click.option("--json-out", type=FILE, help="Where the report goes as JSON; runs can be compared and joined by it.")
@click.option("--html", "html_out", type=FILE, help="Where the report goes as a page.")
@click.option("--quiet", "-q", is_flag=True, help="No live table.")
@SERVER
@click.pass_context
def load(ctx: click.Context, /, **options: Any) -> None:
    """Load a server with jobs and measure from the moment each was to be sent.

    All requests are waited for; what does not end is told as such and counts in the percentiles.
    """
    if ctx.invoked_subcommand is None:
        sys.exit(asyncio.run(_load(**options)))


@load.command()
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option("--measure", default="done", show_default=True, help="Which time is compared.")
@click.option("--worse", type=float, default=10.0, show_default=True, help="Per cent by which p50 or p95 may be worse.")
def compare(before: Path, after: Path, measure: str, worse: float) -> None:
    """Compare two runs' files, BEFORE and AFTER; exit code 3 if p50 or p95 became worse than allowed."""
    one, two = _open(before), _open(after)
    verdict = 0
    for percent in (50.0, 90.0, 95.0, 99.0):
        figures = [one.value(f"p{percent:g}({measure})"), two.value(f"p{percent:g}({measure})")]
        change = "" if None in figures else f"{(figures[1] / figures[0] - 1) * 100:+.1f} %"  # type: ignore[operator]
        click.echo(f"p{percent:<5g} {seconds(figures[0]):>12} {seconds(figures[1]):>12}  {change}")
        if percent in (50.0, 95.0) and (figures[1] is None or (figures[0] or 0) * (1 + worse / 100) < figures[1]):
            verdict = BROKEN
    click.echo(f"done/s {one.throughput:12.3f} {two.throughput:12.3f}")
    for name in ("error", "censored"):
        click.echo(f"{name:<7}{one.outcomes.get(name, 0):12d} {two.outcomes.get(name, 0):12d}")
    sys.exit(verdict)


@load.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--measure", default="done", show_default=True, help="Which time.")
def join(files: tuple[Path, ...], measure: str) -> None:
    """Show the percentiles over several runs' FILES together, by adding their histograms."""
    for percent, value in joined([_open(file) for file in files], measure).items():
        click.echo(f"p{percent:<5g} {seconds(value)}")


def _open(path: Path) -> Report:
    try:
        return load_report(path)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


async def _load(**options: Any) -> int:
    given = [name for name in ("concurrency", "rate", "trace_file", "find_capacity") if options[name]]
    if len(given) > 1 and not (options["find_capacity"] and set(given) == {"rate", "find_capacity"}):
        raise click.UsageError(f"{' and '.join(given)} exclude each other")
    jobs = options["jobs"] if options["jobs"] or options["duration"] else 20
    if options["find_capacity"]:
        return await _search(jobs or 20, options)
    report = await _once(_plan(jobs, options), options)
    return _finish(report, options)


def _workload(options: dict[str, Any]) -> Workload:
    try:
        if options["workload"]:
            return read_workload(options["workload"], options["seed"])
        return Workload((Entry(size_px=(options["size_px"],), steps=options["steps"]),), options["seed"])
    except WorkloadError as error:
        raise click.ClickException(str(error)) from None


def _plan(jobs: int | None, options: dict[str, Any], rate: float | None = None) -> Plan:
    due = None
    if options["trace_file"]:
        try:
            due = iter(trace(options["trace_file"]))
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None
    elif rate is not None or options["rate"]:
        plan = [Stage(rate, rate, float("inf"))] if rate is not None else options["rate"]
        due = offsets(plan, options["arrivals"], options["seed"], options["burstiness"])
    lanes = options["concurrency"] or stages("1")
    chaos = options["chaos"] or {}
    return Plan(due, lanes, jobs, options["duration"], options["drain_timeout"], chaos, options["seed"])


async def _once(plan: Plan, options: dict[str, Any]) -> Report:
    workload = _workload(options)
    samples: list[Sample] = []
    loop = asyncio.get_running_loop()
    async with AsyncClient(options["server"]) as client, contextlib.AsyncExitStack() as stack:
        info = await client.server_info()
        began, zero = time.time(), loop.time()
        if options["metrics_url"]:
            try:
                samples = await stack.enter_async_context(sampling(options["metrics_url"], lambda: loop.time() - zero))
            except ScrapeError as error:
                raise click.ClickException(f"--metrics: {error}") from None
            zero = loop.time()
        show = stack.enter_context(_live(quiet=options["quiet"]))
        records = await run(plan, workload, ServiceTarget(client, options["seed"]), show)
        took = loop.time() - zero
    about = {
        "server": options["server"],
        "version": info.version,
        "devices": ", ".join(device.description for device in info.devices),
        "date": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv[1:]),
    }
    return summarize(records, took, about, samples)


def _finish(report: Report, options: dict[str, Any]) -> int:
    try:
        gates = [(gate, gate.holds(report)) for gate in options["gates"]]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _print(report)
    for gate, holds in gates:
        click.echo(f"{'holds ' if holds else 'BROKEN'} {gate.text}")
    if options["json_out"]:
        report.save(options["json_out"])
    if options["html_out"]:
        options["html_out"].write_text(page(report, gates), encoding="utf-8")
    return 0 if all(holds for _, holds in gates) else BROKEN


async def _search(jobs: int, options: dict[str, Any]) -> int:
    gate: Slo = options["find_capacity"]
    gates = [gate, *options["gates"]]
    if not any(each.metric == "errors" for each in gates):
        gates.append(NO_ERRORS)
    start = options["rate"][0].begin if options["rate"] else None
    if start is None:
        alone = await _once(_plan(min(jobs, 3), {**options, "concurrency": stages("1")}), options)
        start = max(alone.throughput, 1e-3)

    def tell(trial: Trial) -> None:
        report, done = trial.report, trial.report.throughput
        value = shown(report, gate.metric)
        broken = ", ".join(f"{each.text} broken" for each in gates if not each.holds(report))
        behind = "" if trial.keeps_up else "; the server falls behind"
        click.echo(f"{trial.rate:8.3f} jobs/s: {gate.metric} {value}, {done:.3f} done/s, {broken or 'holds'}{behind}")

    promise = " and ".join(each.text for each in gates)
    try:
        trials = await find_capacity(lambda rate: _once(_plan(jobs, options, rate), options), gates, start, tell)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    found = best(trials)
    if found is None:
        click.echo(f"{promise} hold at no rate that was tried")
        return BROKEN
    click.echo(f"{promise} hold up to {found:.3f} jobs/s ({found * 60:.1f} a minute)")
    last = next(trial for trial in trials if trial.rate == found)
    if not last.keeps_up:
        click.echo(f"but the server falls behind at that rate: more jobs than {jobs} would break it; ask with more --jobs")
    return _finish(last.report, options)


def _print(report: Report) -> None:
    # The page has all percentiles and their intervals; here what fits into 80 columns.
    table = Table(
        "measure", *(Column(name, justify="right") for name in ("count", "not ended", "p50", "p95", "p99", "longest"))
    )
    for measure in report.measures.values():
        times = (measure.percentiles[50.0], measure.percentiles[95.0], measure.percentiles[99.0], measure.longest)
        table.add_row(measure.name, str(measure.count), str(measure.censored), *(seconds(time) for time in times))
    Console().print(table)
    outcomes = ", ".join(f"{count} {name}" for name, count in report.outcomes.items())
    click.echo(f"{outcomes} in {report.seconds:.1f} s; {report.throughput:.3f} jobs done a second")
    for kind, counted in (("error", report.errors), ("incorrect", report.incorrect)):
        for text, often in counted.items():
            click.echo(f"{kind}: {text}: {often}")
    if report.samples:
        during = {**growth(report.samples), **means(report.samples)}
        known = [f"{level.name} {level.mean:.3g} (highest {level.highest:.3g})" for level in levels(report.samples)[:5]]
        known += [f"{name} {value:.3g}" for name, value in during.items() if value]
        click.echo(f"the server: {', '.join(known)}")
    late = report.lateness
    click.echo(f"the tester sent late by {late['median_s'] * 1e3:.2f} ms (median), {late['longest_s'] * 1e3:.1f} ms (longest)")


@contextlib.contextmanager
def _live(*, quiet: bool) -> Any:
    """Give what shows how a run stands, on a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _records, _now: None
        return
    with Live(console=console, refresh_per_second=4) as live:

        def show(records: list[Record], now: float) -> None:
            table = Table("at", "sent", "done", "in flight", "errors", "p50 done", "p95 done")
            done = sum(record.outcome == "ok" for record in records)
            flying = sum(record.outcome == "censored" for record in records)
            wrong = sum(record.outcome == "error" or bool(record.incorrect) for record in records)
            times = samples_of(records, "done")
            cells = [f"{now:.0f} s", str(len(records)), str(done), str(flying), str(wrong)]
            table.add_row(*cells, *(seconds(quantile(times, q)) for q in (0.5, 0.95)))
            live.update(table)

        yield show
