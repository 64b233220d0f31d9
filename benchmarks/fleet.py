"""Cost of step reports, and a simulated fleet of a thousand devices in front of the real dispatcher, table and durable store.

First, processor time of a step report, one by one and in runs, with the store in memory and durable. Then the fleet: fake
workers whose messages hold a run of steps of each of their jobs, while 256 jobs wait and a new job is submitted for each that
ends. Nothing waits for time: messages follow one another at once, and each is one turn of the event loop, so that the figures
are those of a server under as much load as it can take. Housekeeping runs as in the server, each half second. Turns are timed
with the thread's processor time too, since the machine may be shared. Run by `make bench-fleet`; writes `results/fleet.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from engine import ROOT, about

from impasto_server.garbage import ShortCollections
from impasto_server.store.memory import MemoryStore
from impasto_server.store.sqlite import DurableStore

sys.path.insert(0, str(ROOT))
from tests.unit.server.fleet import Fleet

HOUSEKEEPING_S = 0.5
WAITING = 256


def store(folder: str, *, durable: bool) -> MemoryStore:
    """Return a store for many jobs."""
    return DurableStore(Path(folder), 3600.0, 100_000, 1 << 40) if durable else MemoryStore(3600.0, 100_000, Path(folder))


async def reports(*, durable: bool, together: int, steps: int) -> float:
    """Return the processor time of one step report in microseconds, over all threads, with eight jobs."""
    with tempfile.TemporaryDirectory(prefix="impasto-bench-") as folder:
        fleet = Fleet(store(folder, durable=durable), devices=1, slots=8)
        await fleet.start()
        for _ in range(8):
            await fleet.submit(steps=100_000)
        (worker,) = fleet.workers
        fleet.turn(worker, 1)
        messages = [worker.message(together) for _ in range(steps // together)]
        receiver = fleet.parts.pool._receiver
        await fleet.parts.dispatcher.flushed()
        began = time.process_time()
        for message in messages:
            if together == 1:
                for report in message:
                    receiver.on_report(worker.name, report)
            else:
                receiver.on_reports(worker.name, message)
            await asyncio.sleep(0)
        await fleet.parts.dispatcher.flushed()
        took = time.process_time() - began
        await fleet.parts.shutdown.stop()
    return took / sum(len(message) for message in messages) * 1e6


class Times:
    """Wall and processor times by name, in ms."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, list[float]] = defaultdict(list)
        self.cpu: defaultdict[str, list[float]] = defaultdict(list)
        self._collecting = 0.0, 0.0

    def measured(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is timed at each call."""

        def timed(*arguments: Any, **more: Any) -> Any:
            began, busy = time.perf_counter(), time.thread_time()
            try:
                return work(*arguments, **more)
            finally:
                self.wall[name].append((time.perf_counter() - began) * 1e3)
                self.cpu[name].append((time.thread_time() - busy) * 1e3)

        return timed

    def summary(self) -> dict[str, dict[str, float]]:
        """Return medians, 99th percentiles and maxima."""
        rows = {}
        for name, wall in ((name, wall) for name, wall in self.wall.items() if wall):
            row: dict[str, float] = {"calls": len(wall)}
            for kind, values in (("wall", sorted(wall)), ("cpu", sorted(self.cpu[name]))):
                row |= {f"{kind}_p50_ms": statistics.median(values), f"{kind}_p99_ms": values[int(len(values) * 0.99)]}
                row |= {f"{kind}_max_ms": values[-1]}
            rows[name] = {key: round(value, 4) for key, value in row.items()}
        return rows

    def collected(self, phase: str, info: dict[str, int]) -> None:
        """Time the garbage collector's full collections: a callback of ``gc``."""
        if info["generation"] == 2 and phase == "start":
            self._collecting = time.perf_counter(), time.thread_time()
        elif info["generation"] == 2:
            began, busy = self._collecting
            self.wall["full collection"].append((time.perf_counter() - began) * 1e3)
            self.cpu["full collection"].append((time.thread_time() - busy) * 1e3)


@asynccontextmanager
async def timed_turns(times: Times) -> Any:
    """Time each turn of the event loop: everything that it runs between two looks at what is ready."""
    loop: Any = asyncio.get_running_loop()
    select = loop._selector.select
    began, busy = time.perf_counter(), time.thread_time()

    def measured(timeout: float | None) -> Any:
        nonlocal began, busy
        times.wall["turn"].append((time.perf_counter() - began) * 1e3)
        times.cpu["turn"].append((time.thread_time() - busy) * 1e3)
        found = select(timeout)
        began, busy = time.perf_counter(), time.thread_time()
        return found

    loop._selector.select = measured
    try:
        yield
    finally:
        loop._selector.select = select


async def housekeeping(fleet: Fleet, times: Times, wrong: list[str]) -> None:
    """Do what the server's housekeeping does, with its pauses."""
    parts = fleet.parts
    work = {
        "look": parts.supervisor.look,
        "expire": parts.supervisor.expire,
        "gauges": parts.gauges.measure,
        "audit": lambda: wrong.extend(parts.supervisor.audit()),
    }
    while True:
        for name, each in work.items():
            times.measured(name, each)()
            await asyncio.sleep(0)
        await asyncio.sleep(HOUSEKEEPING_S)


async def simulate(devices: int, slots: int, seconds: float, together: int) -> dict[str, Any]:
    """Let a full fleet run for some seconds."""
    times, wrong = Times(), list[str]()
    with tempfile.TemporaryDirectory(prefix="impasto-bench-") as folder:
        fleet = Fleet(store(folder, durable=True), devices, slots)
        parts = fleet.parts
        await fleet.start()
        parts.dispatcher._metrics.expect((), [worker.name for worker in fleet.workers])
        pauses = ExitStack()
        collections = pauses.enter_context(ShortCollections())  # as the server does
        tasks = {asyncio.create_task(housekeeping(fleet, times, wrong))}
        began = time.perf_counter()
        parts.scheduler.decide = times.measured("decide", parts.scheduler.decide)  # type: ignore[method-assign]
        parts.pool.ticket = times.measured("ticket", parts.pool.ticket)  # type: ignore[method-assign]
        for first in range(0, devices * slots + WAITING, 64):
            numbers = range(first, min(first + 64, devices * slots + WAITING))
            each = (fleet.submit(steps=fleet.draw.randint(20, 200), priority=number % 3 - 1) for number in numbers)
            await asyncio.gather(*each)
        filled_s = time.perf_counter() - began
        print(f"{parts.scheduler.running} jobs run, {parts.scheduler.queued} wait after {filled_s:.1f} s", flush=True)
        for values in (*times.wall.values(), *times.cpu.values()):
            values.clear()
        turn = times.measured("message", fleet.turn)
        gc.callbacks.insert(0, times.collected)
        steps = messages = 0
        async with timed_turns(times):
            began, busy = time.perf_counter(), time.process_time()
            while time.perf_counter() - began < seconds:
                for worker in fleet.workers:
                    steps += turn(worker, together)
                    messages += 1
                    await asyncio.sleep(0)
                    if parts.scheduler.queued + len(tasks) - 1 < WAITING:
                        job = fleet.submit(steps=fleet.draw.randint(20, 200), priority=len(fleet.jobs) % 3 - 1)
                        tasks.add(task := asyncio.create_task(job))
                        task.add_done_callback(tasks.discard)
            took, busy = time.perf_counter() - began, time.process_time() - busy
        for task in tasks:
            task.cancel()
        gc.callbacks.remove(times.collected)
        frozen, began = gc.get_freeze_count(), time.thread_time()
        garbage = collections.collect_whole()
        whole_ms = (time.thread_time() - began) * 1e3
        print(f"{garbage} of {frozen} frozen objects were garbage; the whole collection took {whole_ms:.0f} ms")
        pauses.close()
        ended = sum(parts.dispatcher.get(job.job_id).state.ended for job in fleet.jobs)
        await parts.shutdown.stop()
    return {
        "devices": devices,
        "jobs_running": devices * slots,
        "steps_of_a_run": together,
        "steps": steps,
        "messages": messages,
        "jobs_ended": ended,
        "seconds": round(took, 1),
        "steps_per_second": round(steps / took),
        "cpu_us_per_step": round(busy / max(1, steps) * 1e6, 1),
        "inconsistent": len(wrong),
        "times": times.summary(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=4, help="jobs of each device")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--together", type=int, default=5, help="steps of a run: ten steps a second, two messages a second")
    parser.add_argument("--rounds", type=int, default=3, help="of the cost of reports; the median counts")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    costs: defaultdict[tuple[bool, int], list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for durable in (False, True):
            for together in (1, 5, 10):
                costs[durable, together].append(asyncio.run(reports(durable=durable, together=together, steps=600)))
    rows = [
        {"durable": durable, "together": together, "us_per_step": [round(value, 1) for value in values]}
        for (durable, together), values in costs.items()
    ]
    print(json.dumps(rows, indent=1), flush=True)
    fleet = asyncio.run(simulate(arguments.devices, arguments.slots, arguments.seconds, arguments.together))
    report = {**about(), "reports": rows, "fleet": fleet}
    print(json.dumps(fleet, indent=1))
    (ROOT / "benchmarks/results/fleet.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
