"""``impasto load``: see docs/howto/load-testing.md."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from impasto._async_client import AsyncClient
from impasto.cli.output import INTERRUPTED, SERVER
from impasto.errors import InvalidRequest, Overloaded
from impasto.load.arrivals import Stage, exactly, offsets, stages, trace
from impasto.load.capacity import NO_ERRORS, Trial, best, find_capacity
from impasto.load.gates import SHARES, Figure, Slo
from impasto.load.measures import Report, joined, load_report, quantile, samples_of, summarize
from impasto.load.page import amount, page, seconds, shown, told
from impasto.load.records import Record
from impasto.load.runner import CHAOS, Plan, Stop, run
from impasto.load.scrape import Sample, ScrapeError, growth, levels, means, sampling
from impasto.load.target import ServiceTarget
from impasto.load.workload import Entry, Workload, WorkloadError, read_workload
from impasto.signals import stopping

FILE = click.Path(dir_okay=False, path_type=Path)
BROKEN = 3
"""Exit code if a gate is broken, or if the second of two runs is worse."""


class _Chaos(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
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
                self.fail(f"{item!r}: valid kinds are {', '.join(CHAOS)}; shares are from 0 to 100 %", param, ctx)
            found[kind] = number
        if sum(found.values()) > 1:
            self.fail("the shares add up to more than 100 %", param, ctx)
        return found


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed text."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Finite(click.FloatRange):
    """A finite number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


STAGES, GATE = _Parsed("AMOUNT[:SECONDS],...", stages), _Parsed("FIGURE<LIMIT", Slo.parse)
ABOVE_ZERO, FROM_ZERO = _Finite(min=0, min_open=True), _Finite(min=0)
WHOLE = click.IntRange(min=1)
DEFAULT_JOBS = 20
FEW_DONE = 0.8
"""A capacity is not trusted if less than this fraction of it was done within its trial."""


@click.group(invoke_without_command=True)
@click.option("--concurrency", type=STAGES, help="Closed loop: jobs in flight, such as 4, or in stages: 1:30,2-8:60.")
@click.option("--rate", type=STAGES, help="Open loop: jobs per second, such as 0.2, or in stages: 0.1:60,0.1-0.5:120.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant", "gamma"]), default="poisson", help="For an open loop.")
@click.option("--burstiness", type=ABOVE_ZERO, default=4.0, help="Burstiness of gamma; 1 is like poisson.")
@click.option("--trace", "trace_file", type=FILE, help="Open loop: send times from a file, one per line, in seconds.")
@click.option("--jobs", type=WHOLE, help="Maximum number of requests; 20 if nothing else limits the run.")
@click.option("--duration", type=ABOVE_ZERO, help="Seconds to send requests for.")
@click.option("--drain-timeout", type=FROM_ZERO, default=600.0, show_default=True, help="Seconds to wait for the last jobs.")
@click.option("--workload", type=FILE, help="TOML file with the mix; by default small jobs with generated pictures.")
@click.option("--size", "size_px", type=WHOLE, default=128, show_default=True, help="Longer side, without --workload.")
@click.option("--steps", type=WHOLE, default=20, show_default=True, help="Optimizer steps, without --workload.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed sends the same requests at the same times.")
@click.option("--chaos", type=_Chaos(), help="Faults to inject: cancel=5%,reattach=5%,duplicate=5%,slow=2%.")
@click.option("--patience", type=FROM_ZERO, default=60.0, show_default=True, help="Seconds to retry an unavailable server.")
@click.option("--slo", "gates", type=GATE, multiple=True, help="Gate: 'p95(done)<30s', 'errors<0.1%'; exit code 3 if broken.")
@click.option("--find-capacity", type=GATE, help="Find the highest rate at which a gate holds, with --jobs per trial.")
@click.option("--metrics", "metrics_url", help="The server's /metrics, such as http://localhost:9464/metrics.")
@click.option("--json-out", type=FILE, help="Output file for the report as JSON, as input for compare and join.")
@click.option("--html", "html_out", type=FILE, help="Output file for the report as a page.")
@click.option("--quiet", "-q", is_flag=True, help="No live table.")
@SERVER
@click.pass_context
def load(ctx: click.Context, /, **options: Any) -> None:
    """Run a load test; times are measured from the moment each request was due.

    All requests are waited for. In the percentiles, requests that fail or do not end count as longer than any that did. Ctrl-C
    stops sending, a second Ctrl-C stops waiting; both report what was measured.
    """
    if ctx.invoked_subcommand is None:
        sys.exit(asyncio.run(_load(**options)))


@load.command()
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option("--measure", default="done", show_default=True, help="Time to compare.")
@click.option("--worse", type=FROM_ZERO, default=10.0, show_default=True, help="Percent by which p50 or p95 may be worse.")
def compare(before: Path, after: Path, measure: str, worse: float) -> None:
    """Compare the files of two runs, BEFORE and AFTER.

    The exit code is 3 if p50 or p95 became worse than allowed, or if the share of errors, censored or incorrect requests rose.
    """
    one, two = _open(before), _open(after)
    reasons = []
    for percent in (50.0, 90.0, 95.0, 99.0):
        was, now = (_figure(report, f"p{percent:g}({measure})") for report in (one, two))
        change = "" if was is None or now is None else f"{(now / was - 1) * 100:+.1f} %"
        click.echo(f"p{percent:<8g} {seconds(was):>12} {seconds(now):>12}  {change}")
        allowed = math.inf if was is None else was * (1 + worse / 100)
        if percent in (50.0, 95.0) and (math.inf if now is None else now) > allowed:
            reasons.append(f"p{percent:g}")
    click.echo(f"done/s    {one.throughput:12.3f} {two.throughput:12.3f}")
    for name in SHARES:
        shares = one.share(name), two.share(name)
        click.echo(f"{name:<9} {shares[0] * 100:10.2f} % {shares[1] * 100:10.2f} %")
        if shares[1] > shares[0]:
            reasons.append(name)
    if reasons:
        click.echo(f"worse: {', '.join(reasons)}")
    sys.exit(BROKEN if reasons else 0)


def _figure(report: Report, name: str) -> float | None:
    try:
        return report.value(name)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@load.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--measure", default="done", show_default=True, help="Time to show.")
def join(files: tuple[Path, ...], measure: str) -> None:
    """Show the percentiles over the FILES of several runs together."""
    try:
        percentiles, count, missing = joined([_open(file) for file in files], measure)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    for percent, value in percentiles.items():
        click.echo(f"p{percent:<5g} {seconds(value)}")
    more = f"; {missing} more failed or did not end and count as longer than any of them" if missing else ""
    click.echo(f"of {count} times{more}")


def _open(path: Path) -> Report:
    try:
        return load_report(path)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


async def _load(**options: Any) -> int:
    given = [name for name in ("concurrency", "rate", "trace_file", "find_capacity") if options[name]]
    if len(given) > 1 and not (options["find_capacity"] and set(given) == {"rate", "find_capacity"}):
        raise click.UsageError(f"{' and '.join(given)} are mutually exclusive")
    _check_targets(options)
    workload = _workload(options)  # read again for each run, so that each draws the same requests
    _check_gates(workload, options)
    await _check_classes(workload, options)
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in stopping():
        with contextlib.suppress(NotImplementedError):  # on Windows
            loop.add_signal_handler(number, stop.once_more)
    if options["find_capacity"]:
        code = await _search(options["jobs"] or DEFAULT_JOBS, options, stop)
    else:
        code = _finish(await _once(_plan(options["jobs"], options), options, stop), options)
    return INTERRUPTED if stop.sending.is_set() else code


def _check_targets(options: dict[str, Any]) -> None:
    """Reject output files that cannot be written, before the run."""
    for path in (options["json_out"], options["html_out"]):
        try:
            if path is not None:
                path.open("ab").close()
        except OSError as error:
            raise click.ClickException(f"{path}: {error.strerror}") from None


def _check_gates(workload: Workload, options: dict[str, Any]) -> None:
    for gate in (*options["gates"], *filter(None, [options["find_capacity"]])):
        entry = Figure.parse(gate.metric).entry
        if entry and entry not in {each.name for each in workload.entries}:
            raise click.UsageError(f"{gate.text}: the workload has no entry {entry!r}")
    if options["find_capacity"] and options["find_capacity"].metric == "throughput":
        raise click.UsageError("--find-capacity sets the rate itself: give a gate on a time or on errors")


async def _check_classes(workload: Workload, options: dict[str, Any]) -> None:
    """Validate one job of each class and size on the server, so that a mistake is reported once, with the class's name."""
    async with AsyncClient(options["server"], patience_s=0) as client:
        for request in workload.samples():
            try:
                await client.validate(request.content, request.style, **request.options)
            except InvalidRequest as error:
                size = request.options["size_px"]
                raise click.ClickException(f"{request.entry.name} at {size} px: {error}") from None
            except Overloaded:
                pass  # a load test may overload the server on purpose


def _workload(options: dict[str, Any]) -> Workload:
    try:
        if options["workload"]:
            return read_workload(options["workload"], options["seed"])
        return Workload((Entry(size_px=(options["size_px"],), steps=options["steps"]),), options["seed"])
    except WorkloadError as error:
        raise click.ClickException(str(error)) from None


def _plan(jobs: int | None, options: dict[str, Any], rate: float | None = None) -> Plan:
    due: Iterable[float] | None = None
    plan: list[Stage] = [Stage(rate, rate, math.inf)] if rate is not None else options["rate"] or []
    lanes = options["concurrency"] or stages("1")
    ends = options["trace_file"] or math.isfinite((plan or lanes)[-1].seconds)
    if jobs is None and options["duration"] is None and not ends:
        jobs = DEFAULT_JOBS
    if options["trace_file"]:
        try:
            due = trace(options["trace_file"])
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None
    elif plan:
        due = offsets(plan, options["arrivals"], options["seed"], options["burstiness"])
        steady = len(plan) == 1 and plan[0].begin == plan[0].end and math.isinf(plan[0].seconds)
        if steady and jobs is not None and options["duration"] is None:
            due = exactly(due, jobs, plan[0].begin)
    chaos, drain = options["chaos"] or {}, options["drain_timeout"]
    return Plan(None if due is None else iter(due), lanes, jobs, options["duration"], drain, chaos, options["seed"])


async def _once(plan: Plan, options: dict[str, Any], stop: Stop) -> Report:
    workload = _workload(options)
    samples: list[Sample] = []
    loop = asyncio.get_running_loop()
    async with AsyncClient(options["server"], patience_s=options["patience"]) as client, contextlib.AsyncExitStack() as stack:
        info = await client.server_info()
        began, zero = time.time(), loop.time()
        if options["metrics_url"]:
            try:
                samples = await stack.enter_async_context(sampling(options["metrics_url"], lambda: loop.time() - zero))
            except ScrapeError as error:
                raise click.ClickException(f"--metrics: {error}") from None
            zero = loop.time()
        show = stack.enter_context(_live(plan.jobs, quiet=options["quiet"]))
        records = await run(plan, workload, ServiceTarget(client, options["seed"]), show, stop)
        took = loop.time() - zero
    about = {
        "server": options["server"],
        "version": info.version,
        "devices": ", ".join(device.description for device in info.devices),
        "date": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv[1:]),
    }
    if stop.sending.is_set():
        about["interrupted"] = "yes"
    return summarize(records, took, about, samples)


def _finish(report: Report, options: dict[str, Any], more: Sequence[Slo] = ()) -> int:
    _print(report)
    gates = [(gate, gate.holds(report.value(gate.metric))) for gate in (*options["gates"], *more)]
    if options["json_out"]:
        report.save(options["json_out"])
    if options["html_out"]:
        options["html_out"].write_text(page(report, gates), encoding="utf-8")
    for gate, holds in gates:
        click.echo(f"{'holds ' if holds else 'BROKEN'} {gate.text}: {shown(report, gate.metric)}")
    if not report.outcomes.get("ok") and not gates:
        return 1
    return 0 if all(holds for _, holds in gates) else BROKEN


class _InterruptedError(Exception):
    """The search was interrupted."""


async def _search(jobs: int, options: dict[str, Any], stop: Stop) -> int:
    gate: Slo = options["find_capacity"]
    more = [gate]
    if not any(each.metric == "errors" for each in (gate, *options["gates"])):
        more.append(NO_ERRORS)
    gates = [*more, *options["gates"]]
    promise = " and ".join(each.text for each in gates)
    alone = await _once(_plan(min(jobs, 3), {**options, "concurrency": stages("1"), "rate": None}), options, stop)
    known = [(each, alone.value(each.metric)) for each in gates]
    lost = bool(alone.errors or alone.outcomes.get("censored"))
    # A class may have no job among these few. That is no failure unless a job failed or did not end.
    broken = [each.text for each, value in known if not each.holds(value) and (value is not None or lost)]
    if broken or stop.sending.is_set():
        if broken:
            click.echo(f"{' and '.join(broken)}: broken even with one job at a time")
        return _finish(alone, options, more)
    click.echo(f"   alone: {gate.metric} {shown(alone, gate.metric)}, {alone.throughput:.3f} done/s")
    trials: list[Trial] = []

    def tell(trial: Trial) -> None:
        trials.append(trial)
        report, value = trial.report, shown(trial.report, gate.metric)
        verdict = [*(f"{each.text} broken" for each in trial.broken), *(["the server falls behind"] if trial.behind else [])]
        figures = f"{gate.metric} {value}, {len(report.records)} jobs, {report.throughput:.3f} done/s"
        click.echo(f"{trial.rate:8.3f} jobs/s: {figures}, {' and '.join(verdict) or 'holds'}")

    async def attempt(rate: float, count: int) -> Report:
        report = await _once(_plan(count, {**options, "duration": None}, rate), options, stop)
        if stop.sending.is_set():
            raise _InterruptedError
        return report

    start = options["rate"][0].begin if options["rate"] else max(alone.throughput, 1e-3)
    with contextlib.suppress(_InterruptedError):
        await find_capacity(attempt, gates, start, jobs, alone.measures["done"].mean or 0.0, tell)
    found = best(trials)
    early = "; the search was interrupted" if stop.sending.is_set() else ""
    if found is None:
        tried = "does not hold at any rate that was tried" if trials else "no trial finished"
        click.echo(f"{promise}: {tried}{early}")
        return BROKEN
    least = "at least " if early else ""
    click.echo(f"{promise}: holds up to {least}{found.rate:.3f} jobs/s ({found.rate * 60:.1f} per minute){early}")
    if found.report.throughput < FEW_DONE * found.rate:
        few = f"only {found.report.throughput:.3f} jobs/s were done, including the drain"
        click.echo(f"warning: {few}; {len(found.report.records)} jobs are too few for a reliable result: increase --jobs")
    about = {**found.report.about, "capacity_per_s": found.rate, "trials": [trial.to_dict() for trial in trials]}
    return _finish(replace(found.report, about=about), options, more)


def _print(report: Report) -> None:
    # The page has all percentiles and their intervals; this table has those that fit into 80 columns.
    names = ("count", "never", "p50", "p95", "p99", "longest")
    table = Table("time", *(Column(name, justify="right", no_wrap=True) for name in names), box=SIMPLE, pad_edge=False)
    for measure in told(report):
        times = (measure.percentiles[50.0], measure.percentiles[95.0], measure.percentiles[99.0], measure.longest)
        never = str(measure.censored + measure.failed)
        table.add_row(escape(measure.name), str(measure.count), never, *(seconds(time) for time in times))
    Console().print(table)
    outcomes = ", ".join(f"{count} {name}" for name, count in report.outcomes.items()) or "nothing was sent"
    rate = report.about.get("sent_per_second")
    sent = f", sent at {rate:.3f} per second" if rate else ""
    click.echo(f"{outcomes} in {report.seconds:.1f} s{sent}; {report.throughput:.3f} jobs done per second")
    for text, often in report.errors.items():
        click.echo(f"error: {text}: {often} ({report.messages.get(text, '')})")
    for text, often in report.incorrect.items():
        click.echo(f"incorrect: {text}: {often}")
    if report.samples:
        click.echo("server metrics:")
        for level in levels(report.samples)[:5]:
            click.echo(f"  {level.name}: mean {amount(level.mean)}, maximum {amount(level.highest)}")
        for during in (growth(report.samples), means(report.samples)):
            click.echo("  " + ", ".join(f"{name} {amount(value)}" for name, value in during.items() if value))
    late = report.lateness
    click.echo(f"requests sent late by {late['median_s'] * 1e3:.2f} ms (median), {late['longest_s'] * 1e3:.1f} ms (maximum)")


@contextlib.contextmanager
def _live(jobs: int | None, *, quiet: bool) -> Any:
    """Yield a function that shows the progress of a run on a terminal."""
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
            cells = [f"{now:.0f} s", f"{len(records)}" + (f" of {jobs}" if jobs else ""), str(done), str(flying), str(wrong)]
            table.add_row(*cells, *(seconds(quantile(times, q)) for q in (0.5, 0.95)))
            live.update(table)

        yield show
