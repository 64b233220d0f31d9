"""The load tester against servers whose truth is known, in virtual time, and against the real one."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
import re
import selectors
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import impasto
from impasto.load.arrivals import Stage, exactly, offsets, stages, trace
from impasto.load.capacity import NO_ERRORS, best, falls_behind, find_capacity
from impasto.load.gates import Slo
from impasto.load.measures import interval, joined, load_report, quantile, samples_of, summarize
from impasto.load.page import page
from impasto.load.records import Record
from impasto.load.runner import CHAOS, Plan, Stop, run
from impasto.load.scrape import ScrapeError, growth, levels, means, parse, sampling, series
from impasto.load.workload import Entry, Request, Workload, WorkloadError, read_workload
from tests.conftest import ServerProcess
from tests.integration.test_end_to_end import cli


class Instant(selectors.SelectSelector):
    """Waits for nothing: the loop's clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


def virtually(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in virtual time."""
    clock = Instant()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class Slots:
    """A server with some slots, a service time, and one stall during which nothing goes on; takes only so many at a time."""

    def __init__(
        self, slots: int, service_s: float, stall: tuple[float, float] | None = None, at_once: int | None = None
    ) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._door = asyncio.Semaphore(at_once) if at_once else None
        self._service_s, self._stall = service_s, stall

    async def perform(self, request: Request, record: Record, now: Callable[[], float]) -> None:
        async with self._slots:
            left = self._service_s
            if self._stall:
                begin, end = self._stall
                if begin <= now() < end:
                    await asyncio.sleep(end - now())
                if now() < begin < now() + left:
                    left += end - begin
            await asyncio.sleep(left)
        record.moments["done"] = now()
        record.outcome = "ok"


class Capped(Slots):
    """As others drive such a server: no more than four in flight, the rest not sent yet, and timed from the send."""

    async def perform(self, request: Request, record: Record, now: Callable[[], float]) -> None:
        assert self._door
        async with self._door:
            record.sent = now()
            await super().perform(request, record, now)


SERVICE_S, STALL = 4.0, (600.0, 630.0)


def truth(arrivals: list[float]) -> list[float]:
    """Return the time of each request in a FIFO queue with two slots and the stall, by a simulation of its own."""
    free = [0.0, 0.0]
    found = []
    for arrival in arrivals:
        begin = max(arrival, heapq.heappop(free))
        if STALL[0] <= begin < STALL[1]:
            begin = STALL[1]
        end = begin + SERVICE_S
        if begin < STALL[0] < end:
            end += STALL[1] - STALL[0]
        heapq.heappush(free, end)
        found.append(end - arrival)
    return found


def nearest(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)] if percent < 100 else ordered[-1]


def test_percentiles_from_the_intended_send_are_the_truth() -> None:
    """Two slots, 4 s jobs, 0.4 jobs a second, one stall of 30 s: within 5 % of a simulation; from the send they flatter."""
    jobs = 800
    due = list(itertools.islice(offsets([Stage(0.4, 0.4, float("inf"))], "poisson", 11), jobs))
    wanted = truth(due)

    async def drive() -> list[Record]:
        plan = Plan(iter(due), jobs=jobs, drain_s=1e6)
        return await run(plan, Workload(), Capped(2, SERVICE_S, STALL, at_once=4))

    records = virtually(drive())
    report = summarize(records, 2000.0, {})
    for percent in (50, 90, 95, 99):
        assert report.value(f"p{percent}(done)") == pytest.approx(nearest(wanted, percent), rel=0.05)
    assert report.value("mean(done)") == pytest.approx(statistics.mean(wanted), rel=0.05)
    flattering, honest = report.value("p99(done@sent)"), report.value("p99(done)")
    assert flattering is not None
    assert honest is not None
    assert flattering < 0.8 * honest


def test_a_closed_loop_keeps_so_many_in_flight() -> None:
    """Four lanes on two slots: 2 jobs every 4 s, each 8 s once the queue stands; a ramp adds lanes."""

    async def drive(plan: Plan) -> list[Record]:
        return await run(plan, Workload(), Slots(2, SERVICE_S))

    records = virtually(drive(Plan(lanes=stages("4"), jobs=40)))
    assert [record.outcome for record in records] == ["ok"] * 40
    assert max(record.moments["done"] for record in records) == pytest.approx(80, rel=0.05)
    assert records[-1].took("done") == pytest.approx(8.0, rel=0.05)
    ramped = virtually(drive(Plan(lanes=stages("1-5:100"), duration_s=100)))
    early = sum(record.sent < 20 for record in ramped)
    late = sum(record.sent >= 80 for record in ramped)
    assert late > early


def test_what_does_not_end_is_censored_not_dropped() -> None:
    """It is waited for, then told, and counts: percentiles beyond it cannot be told, and no gate on them holds."""

    async def drive() -> list[Record]:
        due = iter([float(n) for n in range(10)])
        return await run(Plan(due, jobs=10, drain_s=20), Workload(), Slots(1, SERVICE_S))

    records = virtually(drive())
    report = summarize(records, 30, {})
    assert report.outcomes == {"ok": 7, "censored": 3}
    assert report.measures["done"].censored == 3
    assert report.value("p50(done)") is not None
    assert report.value("p95(done)") is None
    assert not Slo.parse("p95(done)<1000s").holds(report.value("p95(done)"))
    assert report.value("max(done)") is None
    assert report.value("mean(done)") is None
    assert report.value("censored") == pytest.approx(0.3)


def test_what_fails_never_came() -> None:
    """One request of ten: the ninetieth percentile is known, the ninety-fifth is beyond, and so are mean and longest."""
    records = [Record(n, "a", 0.0, moments={"done": float(n)}, outcome="ok") for n in range(1, 10)]
    records.append(Record(10, "a", 0.0, outcome="error", reason="Overloaded QUEUE_FULL", message="256 jobs wait"))
    report = summarize(records, 10.0, {})
    assert (report.measures["done"].count, report.measures["done"].failed, report.measures["done"].censored) == (9, 1, 0)
    assert report.value("p90(done)") == 9.0
    assert [report.value(name) for name in ("p95(done)", "max(done)", "mean(done)")] == [None, None, None]
    assert report.messages == {"Overloaded QUEUE_FULL": "256 jobs wait"}
    nothing = summarize(records[-1:], 10.0, {})
    assert nothing.value("p50(done)") is None
    assert not Slo.parse("p50(done)<1s").holds(nothing.value("p50(done)"))
    assert page(nothing, [(Slo.parse("p50(done)<1s"), False)]).count("BROKEN") == 1


def test_what_was_done_on_purpose_is_not_in_the_times() -> None:
    """The tester's own slowness is none of the server's; classes have times of their own."""
    records = [Record(n, "a", 0.0, moments={"done": 1.0}, outcome="ok", split={"queue": 0.25}) for n in range(3)]
    records.append(Record(3, "b", 0.0, moments={"done": 9.0}, outcome="ok", chaos="slow"))
    records.append(Record(4, "b", 0.0, moments={"done": 2.0}, outcome="ok"))
    report = summarize(records, 10.0, {})
    assert report.value("max(done)") == 2.0
    assert (report.value("p50(done[a])"), report.value("p50(done[b])"), report.value("p99(queue)")) == (1.0, 2.0, 0.25)
    assert (report.value("p50(done@sent[b])"), report.value("max(done@sent[b])"), report.value("p50(done[c])")) == (
        2.0,
        2.0,
        None,
    )


def test_a_run_can_be_stopped_and_tells_what_it_measured() -> None:
    """First nothing more is sent, then what is under way is given up; a request that raises is an error, not a loss."""

    async def drive(times: int) -> list[Record]:
        stop = Stop()
        for at in range(times):
            asyncio.get_running_loop().call_later(10.0 + at, stop.once_more)
        return await run(Plan(jobs=100, lanes=stages("2")), Workload(), Slots(2, SERVICE_S), stop=stop)

    assert [record.outcome for record in virtually(drive(1))] == ["ok"] * 6
    assert [record.outcome for record in virtually(drive(2))] == ["ok"] * 4 + ["censored"] * 2

    class Broken(Slots):
        async def perform(self, request: Request, record: Record, now: Callable[[], float]) -> None:
            raise RuntimeError("a bug of the tester's")

    async def break_down() -> list[Record]:
        return await run(Plan(iter([0.0, 1.0]), jobs=2), Workload(), Broken(1, 1.0))

    assert [(r.outcome, r.reason, r.message) for r in virtually(break_down())] == [
        ("error", "RuntimeError", "a bug of the tester's")
    ] * 2


def test_closed_loops_end_with_their_stages_and_rest_after_errors() -> None:
    """Of one lane: a job each 4 s for 40 s; errors at once are a call a second, not thousands."""

    class Refusing(Slots):
        async def perform(self, request: Request, record: Record, now: Callable[[], float]) -> None:
            record.outcome = "error"

    async def drive(target: Slots) -> list[Record]:
        return await run(Plan(lanes=stages("1:40")), Workload(), target)

    assert len(virtually(drive(Slots(1, SERVICE_S)))) == 10
    assert 38 <= len(virtually(drive(Refusing(1, 0.0)))) <= 41
    for plan in (Plan(), Plan(jobs=1, chaos={"foo": 0.5}), Plan(jobs=1, chaos={"slow": 1.5})):
        with pytest.raises(ValueError, match="number of jobs|chaos must be shares"):
            virtually(run(plan, Workload(), Slots(1, 1.0)))


def test_chaos_does_not_follow_the_arrivals() -> None:
    """What is done on purpose has nothing to do with the gap before it: the kinds' mean gaps are alike."""

    async def drive() -> list[Record]:
        due = offsets([Stage(1.0, 1.0, float("inf"))], "poisson", 0)
        return await run(Plan(due, jobs=2000, chaos=dict.fromkeys(CHAOS, 0.25)), Workload(), Slots(1000, 0.1))

    records = virtually(drive())
    gaps: dict[str, list[float]] = {kind: [] for kind in CHAOS}
    for before, record in itertools.pairwise(records):
        gaps[record.chaos].append(record.intended - before.intended)
    for kind in CHAOS:
        assert statistics.mean(gaps[kind]) == pytest.approx(1.0, abs=0.2)


def test_so_many_at_a_rate_take_exactly_their_time() -> None:
    """Twenty draws may be far from their mean; their spread stays."""
    drawn = offsets([Stage(2.0, 2.0, float("inf"))], "poisson", 0)
    times = exactly(drawn, 20, 2.0)
    assert times[-1] == pytest.approx(10.0)
    assert len({round(later - earlier, 6) for earlier, later in itertools.pairwise(times)}) > 15


def test_a_server_that_falls_behind_is_noticed() -> None:
    """A queue that grows over the second half of the sending, whatever the times are; not one that is only busy."""

    async def drive(rate: float) -> list[Record]:
        due = exactly(offsets([Stage(rate, rate, float("inf"))], "poisson", 3), 40, rate)
        return await run(Plan(iter(due), jobs=40), Workload(), Slots(2, SERVICE_S))

    found = [falls_behind(summarize(virtually(drive(rate)), 1.0, {})) for rate in (0.2, 0.4, 1.0, 5.0)]
    assert found == [False, False, True, True]


def test_quantiles_with_censored_times_are_kaplan_and_meiers() -> None:
    """Their textbook's way by hand: deaths at 1, 3 and 4, one lost at 2: 1, then 3, then 4; without losses plain ranks."""
    samples = [(1.0, False), (2.0, True), (3.0, False), (4.0, False)]
    assert [quantile(samples, q) for q in (0.25, 0.26, 0.62, 0.63, 1.0)] == [1.0, 3.0, 3.0, 4.0, 4.0]
    values = [float(n) for n in range(1, 101)]
    random.Random(1).shuffle(values)
    plain = [(value, False) for value in values]
    assert [quantile(plain, q) for q in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert quantile([], 0.5) is None
    assert quantile([(1.0, True)], 0.5) is None
    low, high = interval(plain, 0.5)
    assert low is not None
    assert high is not None
    assert 30 < low < 50 < high < 70


@pytest.mark.parametrize(("spacing", "variation"), [("poisson", 1.0), ("constant", 0.0), ("gamma", 4.0)])
def test_arrivals_have_their_rate_and_their_spread(spacing: Any, variation: float) -> None:
    """Over ten thousand: the mean distance, and the squared coefficient of variation."""
    found = list(itertools.islice(offsets([Stage(2.0, 2.0, float("inf"))], spacing, 3, 4.0), 10_000))
    distances = [later - earlier for earlier, later in itertools.pairwise([0.0, *found])]
    assert statistics.mean(distances) == pytest.approx(0.5, rel=0.05)
    spread = statistics.pvariance(distances) / statistics.mean(distances) ** 2
    assert spread == pytest.approx(variation, rel=0.15, abs=1e-9)
    again = list(itertools.islice(offsets([Stage(2.0, 2.0, float("inf"))], spacing, 3, 4.0), 10_000))
    assert again == found


def test_stages_and_ramps_bring_what_they_say() -> None:
    """A hundred seconds at one a second, a ramp from 1 to 3 over a hundred: 100 and 200, growing."""
    found = list(offsets(stages("1:100,1-3:100"), "constant", 0))
    assert sum(at <= 100 for at in found) == pytest.approx(100, abs=1)
    assert sum(100 < at <= 200 for at in found) == pytest.approx(200, abs=1)
    assert sum(100 < at <= 150 for at in found) == pytest.approx(75, abs=2)
    for wrong in ("x", "1:x", "0", "1:-5", "1-2", "-1:5", "nan", "1:nan"):
        with pytest.raises(ValueError, match="AMOUNT:SECONDS|above 0|needs a duration|finite"):
            stages(wrong)


def test_traces_are_read(tmp_path: Path) -> None:
    """Comments aside; times that fall are refused."""
    (tmp_path / "good").write_text("# a trace\n0.5\n\n1\n1\n")
    assert trace(tmp_path / "good") == [0.5, 1.0, 1.0]
    wrong = {"2\n1\n": "line 2: '1'", "1\nabc": "line 2: 'abc'", "nan": "line 1: 'nan'", "# no\n": "contains no times"}
    for text, message in wrong.items():
        (tmp_path / "bad").write_text(text)
        with pytest.raises(ValueError, match=message):
            trace(tmp_path / "bad")


def test_capacity_is_found() -> None:
    """Of a server that keeps its gate up to 0.42 jobs a second: within the last halving; of one that never does: none."""

    def report(rate: float, limit: float) -> Any:
        record = Record(0, "a", 0.0, moments={"done": 1.0 if rate <= limit else 100.0}, outcome="ok")
        return summarize([record], 1.0, {})

    async def search(limit: float) -> Any:
        async def attempt(rate: float, jobs: int) -> Any:
            assert jobs == 10
            return report(rate, limit)

        return await find_capacity(attempt, [Slo.parse("p95(done)<30s"), NO_ERRORS], 0.1, 10)

    found = best(asyncio.run(search(0.42)))
    assert found is not None
    assert 0.42 / 1.1 < found.rate <= 0.42
    assert best(asyncio.run(search(0.0))) is None
    above = best(asyncio.run(search(0.03)))
    assert above is not None
    assert above.rate <= 0.03


def test_a_rate_at_which_jobs_are_turned_away_is_no_capacity() -> None:
    """Though those that are taken are quick."""

    async def attempt(rate: float, jobs: int) -> Any:
        assert jobs >= 5 * rate * 3.0
        taken = [Record(n, "a", 0.0, moments={"done": 1.0}, outcome="ok") for n in range(9)]
        refused = Record(9, "a", 0.0, outcome="ok" if rate <= 0.2 else "error", reason="QUEUE_FULL")
        return summarize([*taken, refused], 10.0 / rate, {})

    trials = asyncio.run(find_capacity(attempt, [Slo.parse("p50(done)<30s"), NO_ERRORS], 0.1, 1, 3.0))
    found = best(trials)
    assert found is not None
    assert found.rate == pytest.approx(0.2, rel=0.05)
    text = page(summarize([], 1.0, {"trials": [trial.to_dict() for trial in trials]}))
    assert "errors&lt;1% broken" in text


@pytest.mark.parametrize(
    ("text", "metric", "sign", "limit"),
    [
        ("p95(done)<30s", "p95(done)", "<", 30.0),
        ("p99.9(acknowledged@sent) <= 50ms", "p99.9(acknowledged@sent)", "<=", 0.05),
        ("errors<0.1%", "errors", "<", 0.001),
        ("throughput>30/min", "throughput", ">", 0.5),
        ("max(done)<2min", "max(done)", "<", 120.0),
        ("p50(done[my small])<.5s", "p50(done[my small])", "<", 0.5),
        ("mean(queue)>=1s", "mean(queue)", ">=", 1.0),
    ],
)
def test_gates_are_understood(text: str, metric: str, sign: str, limit: float) -> None:
    """Figure, direction, limit and unit."""
    gate = Slo.parse(text)
    assert (gate.metric, gate.sign) == (metric, sign)
    assert gate.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p95(done)", "FIGURE<LIMIT"),
        ("<3", "FIGURE<LIMIT"),
        ("p95(done)<fast", "FIGURE<LIMIT"),
        ("p95(nope)<1s", r"unknown figure 'p95\(nope\)'; valid figures: errors, .*p95\(TIME\).*first_step@sent"),
        ("min(done)<1s", "unknown figure"),
        ("p200(done)<3s", "above 0 and at most 100"),
        ("p0(done)<3s", "above 0 and at most 100"),
        ("errors<5s", "errors is measured in %"),
        ("p95(done)<5%", "is measured in ms, s, min"),
        ("p95(done)<3", "is measured in ms, s, min"),
        ("throughput>3", "is measured in /s, /min"),
    ],
)
def test_gates_that_cannot_be_are_refused(text: str, message: str) -> None:
    """No figure, no limit, no such figure, another unit: before anything is sent."""
    with pytest.raises(ValueError, match=message):
        Slo.parse(text)


def test_signs_mean_what_they_say() -> None:
    """At the limit itself."""
    assert [Slo.parse(f"errors{sign}50%").holds(0.5) for sign in ("<", "<=", ">", ">=")] == [False, True, False, True]
    assert not Slo.parse("p95(done)<1s").holds(None)


def test_reports_go_to_files_and_are_joined(tmp_path: Path) -> None:
    """All figures come back; the percentiles of two runs together are those of all their requests."""
    reports = []
    for shift in (0, 100):
        records = [Record(n, "a", 0.0, moments={"done": float(n + shift)}, outcome="ok") for n in range(1, 101)]
        reports.append(summarize(records, 100.0, {"what": "test"}))
        reports[-1].save(tmp_path / f"{shift}.json")
    back = load_report(tmp_path / "0.json")
    assert back.measures == reports[0].measures
    percentiles, count, missing = joined(reports, "done")
    assert (count, missing) == (200, 0)
    assert percentiles[50.0] == pytest.approx(100, rel=0.01)
    assert percentiles[99.0] == pytest.approx(198, rel=0.01)
    lost = [Record(n, "a", 0.0, outcome="error") for n in range(20)]
    quick = Record(0, "a", 0.0, moments={"done": 5e-6}, outcome="ok")
    partly, count, missing = joined([*reports, summarize([quick, *lost], 1.0, {})], "done")
    assert (count, missing, partly[95.0]) == (201, 20, None)
    assert partly[90.0] == pytest.approx(198, rel=0.01)
    bare = [replace(each, records=()) for each in (*reports, summarize([quick, *lost], 1.0, {}))]
    by_histograms, count, missing = joined(bare, "done")
    assert (count, missing, by_histograms[95.0]) == (201, 20, None)
    assert by_histograms[90.0] == pytest.approx(198, rel=0.01)
    assert joined(reports[:1], "done")[0] == reports[0].measures["done"].percentiles
    with pytest.raises(ValueError, match="unknown time 'nope'; these runs have acknowledged|these runs have done"):
        joined(reports, "nope")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a report"):
        load_report(tmp_path / "other.json")


def test_workloads_are_drawn_by_weight_and_seed(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """The same seed draws the same; each class as often as it weighs; files and folders are read."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png())
    (tmp_path / "mix.toml").write_text(
        '[[entry]]\nname="small"\nweight=3\nsize_px=[64, 96]\ncontent="photos"\noptions={color="luminance"}\n'
        '[[entry]]\nname="ping"\ncall="health"\n'
    )
    first, again = read_workload(tmp_path / "mix.toml", 5), read_workload(tmp_path / "mix.toml", 5)
    drawn = [first.draw() for _ in range(400)]
    assert [request.key for request in drawn] == [again.draw().key for _ in range(400)]
    small = [request for request in drawn if request.entry.name == "small"]
    assert len(small) == pytest.approx(300, abs=40)
    assert {request.options["size_px"] for request in small} == {64, 96}
    assert {request.content for request in small} == {png()}
    assert small[0].options["color"] == "luminance"
    for text, message in (
        ("[[entry]]\nsise_px=3", "has unknown sise_px"),
        ("[[entry]]\nweight=0", "entry0: weight must be a number above 0, got 0"),
        ("[[entry]]\nweight='2'", "entry0: weight must be a number above 0, got '2'"),
        ("[[entry]]\nweight=inf", "entry0: weight must be a number above 0, got inf"),
        ("[[entry]]\ncall='x'", "entry0: call must be job or health, got 'x'"),
        ("[[entry]]\nname='n'\nsteps=2.5", "n: steps must be a whole number above 0, got 2.5"),
        ("[[entry]]\nsize_px=[]", "entry0: size_px must be a whole number above 0, or a list of them"),
        ("[[entry]]\nsize_px='48'", "size_px must be"),
        ("[[entry]]\nvariants=1.5", "variants must be"),
        ("[[entry]]\ncontent=3", "content must be text"),
        ("[[entry]]\noptions=3", "options must be a table"),
        ("[[entry]]\noptions={colour='luminance'}", "entry0: options: unknown option colour, did you mean color"),
        ("[[entry]]\noptions={color='purple'}", "entry0: options: parameters.color: must be one of"),
        ("[[entry]]\nname='a'\n[[entry]]\nname='a'", "a: 2 entries have this name"),
        ("entry=[1]", "must contain \\[\\[entry\\]\\]"),
        ("x = 1", "must contain \\[\\[entry\\]\\]"),
        ("[[entry]]\ncontent='nowhere.png'", "No such file"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(WorkloadError, match=message):
            read_workload(tmp_path / "bad.toml")


def test_metrics_are_read_and_summed() -> None:
    """Over labels; what is not wanted is left out."""
    text = 'impasto_jobs_running{device="a"} 2.0\nimpasto_jobs_running{device="b"} 1.0\n# HELP x\nother 3\n'
    text += "impasto_queue_depth 4.0\n"
    assert parse(text) == {"impasto_jobs_running": 3.0, "impasto_queue_depth": 4.0}


def test_the_servers_figures_are_told_before_during_and_after() -> None:
    """Levels, what counts grew by though the server began again in between, means of what changed."""
    depth, evaluations = "impasto_queue_depth", "impasto_evaluations_total"
    above, below = "impasto_batch_occupancy_sum", "impasto_batch_occupancy_count"
    samples = [
        {"at": 0.0, depth: 0.0, evaluations: 100.0, above: 50.0, below: 50.0},
        {"at": 1.0, depth: 5.0, evaluations: 110.0, above: 80.0, below: 60.0},
        {"at": 2.0, depth: 1.0, evaluations: 4.0, above: 4.0, below: 2.0},
    ]
    (level,) = levels(samples)
    assert (level.before, level.mean, level.highest, level.after) == (0.0, 2.75, 5.0, 1.0)
    assert growth(samples) == {"evaluations": 14.0}
    assert means(samples) == {"jobs per step": 34 / 12}
    assert series(samples, "jobs per step") == [(1.0, 3.0), (2.0, 2.0)]
    text = page(summarize([], 2.0, {}, samples))
    assert "<td>jobs waiting</td><td>0</td><td>2.75</td><td>5</td><td>1</td>" in text


async def test_an_address_without_the_metrics_is_refused() -> None:
    """Before any job is sent."""
    with pytest.raises(ScrapeError, match="serves no metrics"):
        async with sampling("http://127.0.0.1:9/metrics", lambda: 0.0):
            pytest.fail("nothing was there")


def test_the_page_bears_every_kind_of_run() -> None:
    """None at all, one, errors only, and markup in names."""
    error = Record(0, "<b>", 0.0, outcome="error", reason="<script>", incorrect=["event 3 came after 1"])
    for records in ([], [error], [Record(0, "a", 0.0, moments={"done": 1.0}, outcome="ok")]):
        text = page(summarize(records, 1.0, {"x": "<i>"}), [(Slo.parse("errors<1%"), True)])
        assert "<script>" not in text
        assert "<i>" not in text
        assert text.endswith("</html>")
    assert samples_of([error], "done") == [(float("inf"), True)]


def test_a_real_run_with_chaos(real_server: ServerProcess, tmp_path: Path) -> None:
    """Mixed sizes, every kind of chaos: all are accounted for, nothing is incorrect, gates decide the exit code."""
    (tmp_path / "mix.toml").write_text(
        "[[entry]]\nsize_px=[48, 64]\nsteps=6\nvariants=3\n[[entry]]\nname='ping'\ncall='health'\n"
    )
    arguments = ["load", "--workload", str(tmp_path / "mix.toml"), "--jobs", "24", "--rate", "6", "--seed", "4", "-q"]
    arguments += ["--chaos", "cancel=15%,reattach=30%,duplicate=35%,slow=10%", "--json-out", str(tmp_path / "a.json")]
    gates = ["--slo", "p95(done)<60s", "--slo", "errors<1%", "--slo", "incorrect<1%"]
    done = cli(*arguments, *gates, "--html", str(tmp_path / "a.html"), server=real_server)
    assert done.returncode == 0, done.stderr + done.stdout
    report = load_report(tmp_path / "a.json")
    assert sum(report.outcomes.values()) == 24
    assert set(report.outcomes) <= {"ok", "cancelled"}
    assert set(report.about["chaos"]) >= {"reattach", "duplicate"}
    assert {"acknowledged", "first_step", "first_preview", "done", "done@sent"} <= set(report.measures)
    text = (tmp_path / "a.html").read_text()
    assert text.count("<svg") >= 3
    assert "nan" not in text.lower().replace("fontname", "")
    broken = cli("load", "--jobs", "2", "--size", "48", "--steps", "2", "-q", "--slo", "p50(done)<1ms", server=real_server)
    assert broken.returncode == 3
    assert b"BROKEN p50(done)<1ms" in broken.stdout
    full = cli(
        "load", "--jobs", "3", "--size", "48", "--steps", "2", "-q", "--json-out", str(tmp_path / "c.json"), server=real_server
    )
    assert full.returncode == 0
    failed = json.loads((tmp_path / "c.json").read_text())
    failed["outcomes"] = {"ok": 2, "error": 1}
    (tmp_path / "d.json").write_text(json.dumps(failed))
    worse = cli("load", "compare", str(tmp_path / "c.json"), str(tmp_path / "d.json"))
    assert worse.returncode == 3
    assert b"worse: errors" in worse.stdout
    for command in ("compare", "join"):
        nope = cli("load", command, str(tmp_path / "c.json"), str(tmp_path / "c.json"), "--measure", "nope")
        assert nope.returncode == 1
        assert b"nope" in nope.stderr
        assert b"Traceback" not in nope.stderr
    same = cli("load", "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"), server=real_server)
    assert same.returncode == 0, same.stderr
    values = json.loads((tmp_path / "a.json").read_text())
    slower = values["measures"]["done"]["percentiles"]
    values["measures"]["done"]["percentiles"] = {key: value * 2 for key, value in slower.items()}
    (tmp_path / "b.json").write_text(json.dumps(values))
    assert cli("load", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), server=real_server).returncode == 3
    assert b"p50" in cli("load", "join", str(tmp_path / "a.json"), str(tmp_path / "b.json")).stdout
    wrong = cli("load", "--chaos", "explode=5%", server=real_server)
    assert wrong.returncode == 2
    assert b"kinds are cancel" in wrong.stderr


def test_mistakes_are_told_before_anything_is_sent(real_server: ServerProcess, tmp_path: Path) -> None:
    """Targets, gates, classes that the server refuses, metrics elsewhere: one line each, and no job."""
    (tmp_path / "mix.toml").write_text("[[entry]]\nname='big'\nsize_px=100000\n")
    port = real_server.address.rpartition(":")[2]
    with impasto.Client(real_server.address) as client:
        before = [job.job_id for job in client.jobs()]
    for arguments, text in (
        (("--json-out", "/nonexist/x.json"), "/nonexist/x.json: No such file"),
        (("--slo", "p95(nope)<1s"), "unknown figure"),
        (("--slo", "p95(done[x])<1s"), "the workload has no entry 'x'"),
        (("--find-capacity", "throughput>1/s"), "sets the rate itself"),
        (("--workload", str(tmp_path / "mix.toml")), "big at 100000 px: parameters.size_px"),
        (("--metrics", f"http://127.0.0.1:{port}/metrics"), "serves no metrics"),
        (("--duration", "nan"), "not a finite number"),
        (("--drain-timeout", "-1"), "--drain-timeout"),
        (("--steps", "0"), "--steps"),
    ):
        done = cli("load", "-q", *arguments, server=real_server)
        assert done.returncode in (1, 2), arguments
        assert text in done.stderr.decode(), done.stderr
        assert b"Traceback" not in done.stderr
    with impasto.Client(real_server.address) as client:
        assert [job.job_id for job in client.jobs()] == before


def test_an_interrupted_run_reports_and_leaves_no_job_behind(real_server: ServerProcess, tmp_path: Path) -> None:
    """A closed terminal or Ctrl-C ends the sending, a second one the waiting; what was given up is cancelled on the server."""
    command = [sys.executable, "-c", "from impasto.cli import main; main()", "load", "--rate", "4", "--jobs", "1000", "-q"]
    command += ["--size", "64", "--steps", "60", "--json-out", str(tmp_path / "a.json"), "--server", real_server.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        time.sleep(6.0)
        for number in (signal.SIGHUP, signal.SIGINT):
            running.send_signal(number)
            time.sleep(0.5)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert b"censored" in out
    report = load_report(tmp_path / "a.json")
    assert report.about["interrupted"] == "yes"
    assert report.outcomes["censored"] > 0
    for _ in range(50):
        states = {job["state"] for job in json.loads(cli("jobs", "list", "--json", server=real_server).stdout)}
        if states <= {"succeeded", "cancelled"}:
            break
        time.sleep(0.2)
    assert states <= {"succeeded", "cancelled"}


@pytest.mark.long
def test_capacity_of_a_real_server_is_found(real_server: ServerProcess, tmp_path: Path) -> None:
    """The highest rate that held, next to one that did not; the trials stand in the report."""
    found = cli("load", "-q", "--size", "48", "--steps", "4", "--jobs", "12", "--find-capacity", "p95(done)<30s",
                "--json-out", str(tmp_path / "a.json"), server=real_server)  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    about = load_report(tmp_path / "a.json").about
    alone = re.search(r"alone: .* ([\d.]+) done/s", found.stdout.decode())
    assert alone
    assert float(alone[1]) > 0
    broken = min(trial["rate"] for trial in about["trials"] if not trial["holds"])
    held = [trial["rate"] for trial in about["trials"] if trial["holds"]]
    assert about["capacity_per_s"] == max(rate for rate in held if rate < broken)
    assert broken < 1.1 * about["capacity_per_s"]
    hopeless = cli("load", "-q", "--size", "48", "--steps", "4", "--find-capacity", "p95(done)<1ms", server=real_server)
    assert hopeless.returncode == 3
    assert b"broken even with one job at a time" in hopeless.stdout


def test_a_default_workload_is_there() -> None:
    """Small jobs of pictures that are drawn, the same every time."""
    assert Workload((Entry(),), 1).draw().content == Workload((Entry(),), 1).draw().content
