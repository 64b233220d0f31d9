"""The load tester against servers whose truth is known, in virtual time, and against the real one."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
import selectors
import statistics
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from impasto.load.arrivals import Stage, offsets, stages, trace
from impasto.load.capacity import NO_ERRORS, best, find_capacity
from impasto.load.measures import Slo, interval, joined, load_report, quantile, samples_of, summarize
from impasto.load.page import page
from impasto.load.records import Record
from impasto.load.runner import Plan, run
from impasto.load.scrape import ScrapeError, growth, levels, means, parse, sampling, series
from impasto.load.workload import Entry, Request, Workload, WorkloadError, read_workload

from ..client.test_end_to_end import cli
from ..conftest import ServerProcess


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
    assert not Slo.parse("p95(done)<1000s").holds(report)
    assert report.value("censored") == pytest.approx(0.3)


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
    for wrong in ("x", "1:x", "0", "1:-5", "1-2", "-1:5"):
        with pytest.raises(ValueError, match="AMOUNT:SECONDS|above 0|needs its seconds"):
            stages(wrong)


def test_traces_are_read(tmp_path: Path) -> None:
    """Comments aside; times that fall are refused."""
    (tmp_path / "good").write_text("# a trace\n0.5\n\n1\n1\n")
    assert trace(tmp_path / "good") == [0.5, 1.0, 1.0]
    (tmp_path / "bad").write_text("2\n1\n")
    with pytest.raises(ValueError, match="must rise"):
        trace(tmp_path / "bad")


def test_capacity_is_found() -> None:
    """Of a server that keeps its gate up to 0.42 jobs a second: within the last halving; of one that never does: none."""

    def report(rate: float, limit: float) -> Any:
        record = Record(0, "a", 0.0, moments={"done": 1.0 if rate <= limit else 100.0}, outcome="ok")
        return summarize([record], 1.0, {})

    async def search(limit: float) -> Any:
        async def attempt(rate: float) -> Any:
            return report(rate, limit)

        return await find_capacity(attempt, [Slo.parse("p95(done)<30s"), NO_ERRORS], 0.1)

    found = best(asyncio.run(search(0.42)))
    assert found is not None
    assert 0.42 / 1.1 < found <= 0.42
    assert best(asyncio.run(search(0.0))) is None
    above = best(asyncio.run(search(0.03)))
    assert above is not None
    assert above <= 0.03


def test_a_rate_at_which_jobs_are_turned_away_is_no_capacity() -> None:
    """Though those that are taken are quick."""

    async def attempt(rate: float) -> Any:
        taken = [Record(n, "a", 0.0, moments={"done": 1.0}, outcome="ok") for n in range(9)]
        refused = Record(9, "a", 0.0, outcome="ok" if rate <= 0.2 else "error", reason="QUEUE_FULL")
        return summarize([*taken, refused], 10.0 / rate, {})

    trials = asyncio.run(find_capacity(attempt, [Slo.parse("p95(done)<30s"), NO_ERRORS], 0.1))
    assert best(trials) == pytest.approx(0.2, rel=0.05)
    assert all(trial.keeps_up for trial in trials)


@pytest.mark.parametrize(
    ("text", "metric", "below", "limit"),
    [
        ("p95(done)<30s", "p95(done)", True, 30.0),
        ("p99.9(acknowledged@sent) <= 50ms", "p99.9(acknowledged@sent)", True, 0.05),
        ("errors<0.1%", "errors", True, 0.001),
        ("throughput>30/min", "throughput", False, 0.5),
        ("max(done)<2min", "max(done)", True, 120.0),
    ],
)
def test_gates_are_understood(text: str, metric: str, below: bool, limit: float) -> None:
    """Figure, direction, limit and unit."""
    gate = Slo.parse(text)
    assert (gate.metric, gate.below) == (metric, below)
    assert gate.limit == pytest.approx(limit)


def test_gates_that_cannot_be_are_refused() -> None:
    """No figure, no limit, a figure that a run has not."""
    for text in ("p95(done)", "<3", "p95(done)<fast"):
        with pytest.raises(ValueError, match="FIGURE<LIMIT"):
            Slo.parse(text)
    report = summarize([Record(0, "a", 0.0, moments={"done": 1.0}, outcome="ok")], 1.0, {})
    with pytest.raises(ValueError, match="there is no figure 'p95\\(nothing\\)'"):
        Slo.parse("p95(nothing)<1s").holds(report)


def test_reports_go_to_files_and_are_joined(tmp_path: Path) -> None:
    """All figures come back; the percentiles of two runs together are those of all their requests."""
    reports = []
    for shift in (0, 100):
        records = [Record(n, "a", 0.0, moments={"done": float(n + shift)}, outcome="ok") for n in range(1, 101)]
        reports.append(summarize(records, 100.0, {"what": "test"}))
        reports[-1].save(tmp_path / f"{shift}.json")
    back = load_report(tmp_path / "0.json")
    assert back.measures == reports[0].measures
    assert joined(reports, "done")[50.0] == pytest.approx(100, rel=0.01)
    assert joined(reports, "done")[99.0] == pytest.approx(198, rel=0.01)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="is no report"):
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
        ("[[entry]]\nsise_px=3", "has sise_px"),
        ("[[entry]]\nweight=0", "must be above 0"),
        ("[[entry]]\ncall='x'", "call must be job or health"),
        ("x = 1", "holds \\[\\[entry\\]\\]"),
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
    assert (level.before, level.mean, level.highest, level.after) == (0.0, 2.0, 5.0, 1.0)
    assert growth(samples) == {"evaluations": 14.0}
    assert means(samples) == {"jobs at a step": 34 / 12}
    assert series(samples, "jobs at a step") == [(1.0, 3.0), (2.0, 2.0)]
    text = page(summarize([], 2.0, {}, samples))
    assert "<td>jobs waiting</td><td>0</td><td>2</td><td>5</td><td>1</td>" in text


async def test_an_address_without_the_metrics_is_refused() -> None:
    """Before any job is sent."""
    with pytest.raises(ScrapeError, match="gives no metrics"):
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
    assert samples_of([error], "done") == []


def test_a_real_run_with_chaos(real_server: ServerProcess, tmp_path: Path) -> None:
    """Mixed sizes, every kind of chaos: all are accounted for, nothing is incorrect, gates decide the exit code."""
    (tmp_path / "mix.toml").write_text(
        "[[entry]]\nsize_px=[48, 64]\nsteps=6\nvariants=3\n[[entry]]\nname='ping'\ncall='health'\n"
    )
    arguments = ["load", "--workload", str(tmp_path / "mix.toml"), "--jobs", "24", "--rate", "6", "--seed", "4", "-q"]
    arguments += ["--chaos", "cancel=15%,reattach=20%,duplicate=20%,slow=10%", "--json-out", str(tmp_path / "a.json")]
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


def test_a_default_workload_is_there() -> None:
    """Small jobs of pictures that are drawn, the same every time."""
    assert Workload((Entry(),), 1).draw().content == Workload((Entry(),), 1).draw().content
