"""Sends requests when they are due, regardless of earlier ones, and waits for all of them to end.

In an open loop the intended send times are fixed in advance: delays by a busy load generator or a stalled server count as
waiting. In a closed loop a request is due when the previous one in its lane has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from impasto.load.arrivals import Stage
from impasto.load.records import Record
from impasto.load.workload import Request, Workload

AFTER_ERROR_S = 1.0
"""How long a lane of a closed loop waits after an error."""
CHAOS = ("cancel", "reattach", "duplicate", "slow")


class Target(Protocol):
    """Destination of the requests. Times are those of the running loop's clock."""

    async def perform(self, request: Request, record: Record, now: Callable[[], float]) -> None:
        """Perform one request to its end and fill its record; cancelling this call abandons the request."""
        ...


@dataclass(frozen=True)
class Plan:
    """Plan of a run.

    Attributes:
        due: Send times, for an open loop; None for a closed one.
        lanes: Requests in flight over time, for a closed loop.
        jobs: Maximum number of requests; None for no limit.
        duration_s: How long to send; None for no limit. ``jobs`` or ``duration_s`` is required.
        drain_s: How long to wait afterwards for requests in flight.
        chaos: Share of the requests for each injected fault.
        seed: Seed of the chaos.
    """

    due: Iterator[float] | None = None
    lanes: Sequence[Stage] = ()
    jobs: int | None = None
    duration_s: float | None = None
    drain_s: float = 600.0
    chaos: dict[str, float] = field(default_factory=dict)
    seed: int = 0


class Stop:
    """Stops a run early, with a report: first it stops sending, then it abandons requests in flight."""

    def __init__(self) -> None:
        self.sending = asyncio.Event()
        self.waiting = asyncio.Event()

    def once_more(self) -> None:
        """Stop sending; the second call also stops waiting."""
        (self.waiting if self.sending.is_set() else self.sending).set()


Watch = Callable[[list[Record], float], None]


async def run(
    plan: Plan,
    workload: Workload,
    target: Target,
    on_tick: Watch = lambda _records, _now: None,
    stop: Stop | None = None,
) -> list[Record]:
    """Run a plan to its end and return the records of all requests, in the order of their intended sends.

    Args:
        plan: Plan of the run.
        workload: Source of the requests.
        target: Destination of the requests.
        on_tick: Called every half second with the current records and time.
        stop: Stops the run early.

    Raises:
        ValueError: If the plan limits neither the number of requests nor the duration, or has an unknown kind of chaos.
    """
    runner = _Runner(plan, workload, target, stop or Stop())
    watching = asyncio.create_task(runner.watch(on_tick))
    try:
        await runner.send()
        await runner.drain()
    finally:
        watching.cancel()
    on_tick(runner.records, runner.now())
    return runner.records


class _Runner:
    def __init__(self, plan: Plan, workload: Workload, target: Target, stop: Stop) -> None:
        unknown = set(plan.chaos) - set(CHAOS)
        if unknown or not 0 <= sum(plan.chaos.values()) <= 1 or min(plan.chaos.values(), default=0) < 0:
            raise ValueError(f"chaos must be shares of {', '.join(CHAOS)} that add up to at most 1; got {plan.chaos}")
        endless = plan.due is None and (not plan.lanes or math.isinf(plan.lanes[-1].seconds))
        if plan.jobs is None and plan.duration_s is None and endless:
            raise ValueError("the number of jobs or the duration must be given")
        self._plan, self._workload, self._target, self._stop = plan, workload, target, stop
        # Separate from the generator of the arrivals, so that faults do not depend on the interval before a request.
        self._rng = random.Random(f"{plan.seed}/chaos")  # noqa: S311 - nothing is secret here
        self._loop = asyncio.get_running_loop()
        self._zero = self._loop.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self.records: list[Record] = []

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return self._loop.time() - self._zero

    async def watch(self, on_tick: Watch) -> None:
        """Call ``on_tick`` every half second until cancelled."""
        while True:
            on_tick(self.records, self.now())
            await asyncio.sleep(0.5)

    async def send(self) -> None:
        """Send all requests of the plan, unless stopped."""
        sending = asyncio.create_task(self._open_loop(self._plan.due) if self._plan.due is not None else self._closed_loop())
        stopping = asyncio.create_task(self._stop.sending.wait())
        await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending

    async def _open_loop(self, due: Iterator[float]) -> None:
        """Send at the given times."""
        for number in itertools.count():
            at = next(due, None)
            if at is None or self._over(number, at):
                return
            if at > self.now():
                await asyncio.sleep(at - self.now())
            self._start(at)
            if number % 16 == 15:  # sending late requests must not block the event loop
                await asyncio.sleep(0)

    async def _closed_loop(self) -> None:
        """Keep the current stage's number of requests in flight, until the last stage is over."""
        number = 0
        while not self._over(number, self.now()):
            wanted = self._lanes()
            if wanted is None:
                return
            if len(self._tasks) < wanted:
                self._start(self.now())
                number += 1
                continue
            waits: Awaitable[object] = asyncio.wait(self._tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            await (waits if self._tasks else asyncio.sleep(0.1))

    async def drain(self) -> None:
        """Wait for requests in flight; those that do not end in time stay censored."""
        if self._tasks:
            stopping = asyncio.create_task(self._stop.waiting.wait())
            ending = asyncio.create_task(asyncio.wait(self._tasks))
            await asyncio.wait({ending, stopping}, timeout=self._plan.drain_s, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            stopping.cancel()
        for record in self.records:
            if record.outcome == "censored":
                record.given_up = self.now()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _over(self, number: int, at: float) -> bool:
        plan = self._plan
        return (plan.jobs is not None and number >= plan.jobs) or (plan.duration_s is not None and at >= plan.duration_s)

    def _lanes(self) -> int | None:
        into = self.now()
        for stage in self._plan.lanes:
            if into < stage.seconds:
                return max(1, round(stage.amount(into)))
            into -= stage.seconds
        return None if self._plan.lanes else 1

    def _start(self, intended: float) -> None:
        request = self._workload.draw()
        record = Record(len(self.records), request.entry.name, intended, chaos=self._draw_chaos(request))
        self.records.append(record)
        task = asyncio.create_task(self._perform(request, record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, request: Request, record: Record) -> None:
        record.sent = self.now()
        try:
            await self._target.perform(request, record, self.now)
        except Exception as error:
            record.outcome, record.reason, record.message = "error", type(error).__name__, str(error)
        if record.outcome == "error" and self._plan.due is None:
            await asyncio.sleep(AFTER_ERROR_S)  # do not flood a server that rejects requests

    def _draw_chaos(self, request: Request) -> str:
        drawn = self._rng.random()
        if request.entry.call != "job":
            return ""
        for kind, share in self._plan.chaos.items():
            if drawn < share:
                return kind
            drawn -= share
        return ""
