"""Time of the scheduler at a thousand devices: a job ends, another arrives, and `decide` follows, with 256 jobs waiting.

The fleet is full; each round ends a running job, submits a new one and decides, and jobs that must leave are parked in the next
round. Nothing else is in the clock. The reference is the implementation without sums and indices from the tests, measured in
turns with the scheduler where that does not take hours. Run by `make bench-scheduler`; writes `results/scheduler.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from engine import ROOT, about

from impasto_server.scheduling.scheduler import Capacity, Demand, Preemption, Scheduler, Ticket

sys.path.insert(0, str(ROOT))
from tests.unit.server.scheduling.reference import ReferenceScheduler

GIB = 1 << 30
WAITING = 256
SIDES = (256, 384, 512, 768, 1024)
Any_Scheduler = Scheduler | ReferenceScheduler


@dataclass(frozen=True)
class Scenario:
    """Attributes: capacity of each worker, whether every job has its own shape, and priorities of jobs."""

    capacity: Capacity
    own_shapes: bool = False
    priorities: tuple[int, ...] = (0,)


SLOTS, MEMORY = Capacity(16, 1000 * GIB, 8), Capacity(64, 16 * GIB, 8)
SCENARIOS = {
    "slots": Scenario(SLOTS),
    "slots, own shapes": Scenario(SLOTS, own_shapes=True),
    "slots, priorities": Scenario(SLOTS, priorities=(-1, 0, 0, 0, 1)),
    "memory": Scenario(MEMORY),
    "memory, own shapes": Scenario(MEMORY, own_shapes=True),
    "memory, priorities": Scenario(MEMORY, own_shapes=True, priorities=(-1, 0, 0, 0, 1)),
}


class Fleet:
    """A full fleet with jobs waiting, in virtual time: a job arrives each 10 ms."""

    def __init__(self, scheduler: Any_Scheduler, scenario: Scenario, devices: int) -> None:
        self.scheduler, self.scenario = scheduler, scenario
        self.draw = random.Random(0)  # noqa: S311 - not a secret
        self.now, self.names = 0.0, 0
        self.leaving: list[str] = []
        self.running: list[str] = []
        for number in range(devices):
            scheduler.worker_ready(f"gpu-{number}", scenario.capacity)

    def ticket(self) -> Ticket:
        """Return the next job."""
        self.names += 1
        self.now += 0.01
        width, height = self.draw.choice(SIDES), self.draw.choice(SIDES)
        if self.scenario.own_shapes:
            width, height = self.draw.randint(200, 1100), self.draw.randint(200, 1100)
        pixels = width * height
        demand = Demand(1000 * pixels, 3000 * pixels)
        return Ticket(f"j{self.names}", pixels, self.now, self.draw.choice(self.scenario.priorities), (width, height), demand)

    def submit(self) -> None:
        """Submit the next job."""
        self.scheduler.submit(self.ticket())

    def decide(self) -> None:
        """Carry out the decisions."""
        for decision in self.scheduler.decide():
            (self.leaving if isinstance(decision, Preemption) else self.running).append(decision.job_id)

    def fill(self) -> None:
        """Submit jobs until so many wait."""
        while self.scheduler.queued < WAITING:
            self.submit()
            self.decide()
            for job_id in self.leaving:
                self.scheduler.parked(job_id)
            self.leaving.clear()

    def round(self) -> tuple[float, float]:
        """End, arrival, decide; return the seconds that passed, and those of the processor."""
        while True:
            job_id = self.running.pop(self.draw.randrange(len(self.running)))
            if self.scheduler.worker_of(job_id) and job_id not in self.leaving:
                break
        left, self.leaving = self.leaving, []
        ticket = self.ticket()
        began, busy = time.perf_counter(), time.thread_time()
        self.scheduler.remove(job_id)
        for other in left:
            self.scheduler.parked(other)
        self.scheduler.submit(ticket)
        decisions = self.scheduler.decide()
        took, busy = time.perf_counter() - began, time.thread_time() - busy
        for decision in decisions:
            (self.leaving if isinstance(decision, Preemption) else self.running).append(decision.job_id)
        while self.scheduler.queued > WAITING:  # what else was preempted, or does not fit; the oldest stay
            self.scheduler.remove(self.scheduler.waiting()[-1])
        self.fill()
        return took, busy


def measure(scenario: Scenario, devices: int, rounds: int, compared: int) -> dict[str, float]:
    """Return the times of a round in ms: the median, the 99th percentile, and the reference's median where it was measured."""
    fleet = Fleet(Scheduler(), scenario, devices)
    fleet.fill()
    for _ in range(200):
        fleet.round()
    times = [fleet.round() for _ in range(rounds)]
    took, busy = (sorted(each[which] * 1e3 for each in times) for which in (0, 1))
    row = {"devices": devices, "running": fleet.scheduler.running, "waiting": fleet.scheduler.queued}
    for name, values in (("", took), ("cpu_", busy)):
        row |= {f"{name}p50_ms": statistics.median(values), f"{name}p99_ms": values[int(rounds * 0.99)]}
    if compared:
        other = Fleet(ReferenceScheduler(), scenario, devices)
        other.fill()
        row["reference_p50_ms"] = statistics.median(other.round()[0] * 1e3 for _ in range(compared))
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 250, 1000])
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--reference-up-to", type=int, default=64, help="devices up to which the reference is measured too")
    parser.add_argument("--scenario", choices=SCENARIOS, nargs="+", default=list(SCENARIOS))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.scenario:
        for devices in arguments.devices:
            compared = 10 if devices <= arguments.reference_up_to else 0
            row = {"scenario": name, **measure(SCENARIOS[name], devices, arguments.rounds, compared)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    report = {**about(), "rounds": arguments.rounds, "rows": rows}
    (Path(ROOT) / "benchmarks/results/scheduler.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
