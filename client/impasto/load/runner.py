"""Sends requests when they are due, whatever becomes of the earlier ones, and waits for all of them to end.

In an open loop a request's intended send is fixed beforehand: what a busy tester or a stalled server delays counts as waiting.
In a closed loop a request is intended when the one before it in its lane has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from impasto.load.arrivals import Stage
from impasto.load.records import Record
from impasto.load.workload import Request, Workload

CHAOS = ("cancel", "reattach", "duplicate", "slow")


class Target(Protocol):
    """What requests are sent to. Times come from the running loop's clock."""

    async def perform(self, request: Request, record: Record, now: Callable[[], float]) -> None:
        """Do one request to its end and note in its record what happened; raise nothing."""
        ...


@dataclass(frozen=True)
class Plan:
    """How a run goes.

    Attributes:
        due: When to send, for an open loop; None for a closed one.
        lanes: Requests in flight over time, for a closed loop.
        jobs: Requests at most; None for no limit.
        duration_s: When nothing more is sent; None for no limit. One of both is needed.
        drain_s: How long to wait for what is under way then.
        chaos: Share of the requests that something is done to on purpose.
        seed: Of the chaos.
    """

    due: Iterator[float] | None = None
    lanes: Sequence[Stage] = ()
    jobs: int | None = None
    duration_s: float | None = None
    drain_s: float = 600.0
    chaos: dict[str, float] = field(default_factory=dict)
    seed: int = 0


Watch = Callable[[list[Record], float], None]


async def run(plan: Plan, workload: Workload, target: Target, on_tick: Watch = lambda _records, _now: None) -> list[Record]:
    """Run a plan to its end and return what became of every request that was intended, in the order of their intended sends.

    Args:
        plan: How it goes.
        workload: What is sent.
        target: To what.
        on_tick: Told every half second how things stand.
    """
    runner = _Runner(plan, workload, target)
    watching = asyncio.create_task(runner.watch(on_tick))
    try:
        await (runner.open_loop(plan.due) if plan.due is not None else runner.closed_loop())
        await runner.drain()
    finally:
        watching.cancel()
    on_tick(runner.records, runner.now())
    return runner.records


class _Runner:
    def __init__(self, plan: Plan, workload: Workload, target: Target) -> None:
        if plan.jobs is None and plan.duration_s is None:
            raise ValueError("say how many jobs, or how long")
        self._plan, self._workload, self._target = plan, workload, target
        self._rng = random.Random(plan.seed)  # noqa: S311 - nothing is secret here
        self._loop = asyncio.get_running_loop()
        self._zero = self._loop.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self.records: list[Record] = []

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return self._loop.time() - self._zero

    async def watch(self, on_tick: Watch) -> None:
        """Tell how things stand for ever."""
        while True:
            on_tick(self.records, self.now())
            await asyncio.sleep(0.5)

    async def open_loop(self, due: Iterator[float]) -> None:
        """Send at the given times."""
        for number in itertools.count():
            at = next(due, None)
            if at is None or self._over(number, at):
                return
            if at > self.now():
                await asyncio.sleep(at - self.now())
            self._start(at)
            if number % 16 == 15:  # what is late must not keep the loop from what has arrived
                await asyncio.sleep(0)

    async def closed_loop(self) -> None:
        """Keep as many in flight as the stage of the moment says."""
        number = 0
        while not self._over(number, self.now()):
            wanted = self._lanes()
            if len(self._tasks) < wanted:
                self._start(self.now())
                number += 1
                continue
            waits: Awaitable[object] = asyncio.wait(self._tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            await (waits if self._tasks else asyncio.sleep(0.1))

    async def drain(self) -> None:
        """Wait for what is under way; what does not end in time stays censored."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._plan.drain_s)
        for record in self.records:
            if record.outcome == "censored":
                record.given_up = self.now()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _over(self, number: int, at: float) -> bool:
        plan = self._plan
        return (plan.jobs is not None and number >= plan.jobs) or (plan.duration_s is not None and at >= plan.duration_s)

    def _lanes(self) -> int:
        into = self.now()
        for stage in self._plan.lanes:
            if into < stage.seconds:
                return max(1, round(stage.amount(into)))
            into -= stage.seconds
        return max(1, round(self._plan.lanes[-1].end)) if self._plan.lanes else 1

    def _start(self, intended: float) -> None:
        request = self._workload.draw()
        record = Record(len(self.records), request.entry.name, intended, chaos=self._draw_chaos())
        self.records.append(record)
        task = asyncio.create_task(self._perform(request, record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, request: Request, record: Record) -> None:
        record.sent = self.now()
        await self._target.perform(request, record, self.now)

    def _draw_chaos(self) -> str:
        drawn = self._rng.random()
        for kind, share in self._plan.chaos.items():
            if drawn < share:
                return kind
            drawn -= share
        return ""
