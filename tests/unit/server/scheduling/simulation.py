"""A fleet in virtual time around the real scheduler: arrivals, cancels, failures, preemptions and lost workers at random.

It keeps its own books of who is where and checks every decision against them; it trusts nothing that the scheduler says of
itself. One step is one event.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass

from impasto_server.scheduling.scheduler import AGING_S, Assignment, Capacity, Demand, Preemption, Scheduler, Ticket

SHAPES = (
    ("small", 64, Demand(20, 10)),
    ("middle", 256, Demand(80, 40)),
    ("wide", 192, Demand(60, 30)),
    ("large", 1024, Demand(320, 160)),
)
STEP_S_PER_PIXEL = 1e-3
LEAVE_S = 0.05
REPAIR_S = 20.0
LOSS_RATE, CANCEL_SHARE, FAILURE_SHARE, KILLER_SHARE = 1 / 400, 0.05, 0.02, 0.003
MAX_LOSSES_OF_A_JOB = 3


@dataclass
class _Body:
    """A job as it really is."""

    ticket: Ticket
    place: float
    steps: int
    killer: bool
    worker: str = ""
    leaving: bool = False
    suspect: bool = False
    losses: int = 0


class Simulation:
    """See the module.

    Args:
        seed: Of everything that happens.
        workers: Capacity of each by name.
        load: Work that arrives, as a share of what the fleet can do.
        max_queued: More jobs that wait are refused, as admission does.
    """

    def __init__(self, seed: int, workers: dict[str, Capacity], load: float = 0.9, max_queued: int = 64) -> None:
        self._draw = random.Random(seed)
        self._capacities = workers
        self._up: set[str] = set()
        self._scheduler = Scheduler()
        self._max_queued = max_queued
        self._bodies: dict[str, _Body] = {}
        self._on: dict[str, dict[str, _Body]] = {name: {} for name in workers}
        self._events: list[tuple[float, int, str, str]] = []
        self._births: Counter[str] = Counter()
        self._count = 0
        self._names = 0
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self.longest_wait_s = 0.0
        mean_work = sum(pixels for _, pixels, _ in SHAPES) / len(SHAPES) * STEP_S_PER_PIXEL * 10.5
        self._gap_s = mean_work / (load * len(workers))
        for name in workers:
            self._push(0.0, "up", name)
        self._push(0.0, "arrive", "")

    def run(self, steps: int) -> None:
        """Let so many events happen, then let the fleet become idle without new jobs, and check that nothing is left."""
        for _ in range(steps):
            self._event(arrivals=True)
        while self._bodies:
            assert self._events, f"nothing happens any more, and {len(self._bodies)} jobs are left"
            self._event(arrivals=False)
        assert (self._scheduler.queued, self._scheduler.running) == (0, 0)
        assert self.counts["accepted"] == sum(self.counts[end] for end in ("done", "cancelled", "failed"))

    def _push(self, delay_s: float, kind: str, name: str) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay_s, self._count, kind, name))

    def _event(self, *, arrivals: bool) -> None:
        self.now, _, kind, name = heapq.heappop(self._events)
        self.counts["events"] += 1
        if kind == "arrive":
            if arrivals:
                self._arrive()
                self._push(self._draw.expovariate(1 / self._gap_s), "arrive", "")
        elif kind == "up":
            self._up.add(name)
            self._births[name] += 1
            self._scheduler.worker_ready(name, self._capacities[name])
            self._push(0.0, "round", f"{name}/{self._births[name]}")
        elif kind == "round":
            name, birth = name.split("/")
            if name in self._up and int(birth) == self._births[name]:
                self._round(name)
        elif kind == "left":
            name, birth = name.split("/")
            body = self._bodies.get(name)
            if body is not None and body.leaving and body.worker and int(birth) == self._births[body.worker]:
                assert self._scheduler.parked(name)
                self._off(name, body)
        elif kind == "cancel" and name in self._bodies:
            self._end(name, "cancelled")
        self._decide()

    def _arrive(self) -> None:
        self._names += 1
        name = f"j{self._names}"
        shape, pixels, demand = self._draw.choice(SHAPES)
        priority = self._draw.choice((-1, 0, 0, 0, 0, 1, 2))
        ticket = Ticket(name, pixels, self.now, priority, shape, demand)
        full = sum(not body.worker for body in self._bodies.values()) >= self._max_queued
        if full:
            self.counts["refused"] += 1
            return
        self._scheduler.submit(ticket)
        self.counts["accepted"] += 1
        killer = self._draw.random() < KILLER_SHARE
        self._bodies[name] = _Body(ticket, self.now - priority * AGING_S, self._draw.randint(1, 20), killer)
        if self._draw.random() < CANCEL_SHARE:
            self._push(self._draw.expovariate(1 / 30), "cancel", name)

    def _round(self, worker: str) -> None:
        """One step of every job on a worker."""
        on = self._on[worker]
        if self._draw.random() < LOSS_RATE or any(body.killer and self._draw.random() < 0.3 for body in on.values()):
            self._lose(worker)
            return
        pixels = 0
        for name, body in list(on.items()):
            pixels += body.ticket.pixels
            if body.leaving:
                continue
            body.steps -= 1
            if self._draw.random() < FAILURE_SHARE / 10:
                self._end(name, "failed")
            elif body.steps <= 0:
                self._end(name, "done")
        self._push(max(pixels * STEP_S_PER_PIXEL, 0.05), "round", f"{worker}/{self._births[worker]}")

    def _lose(self, worker: str) -> None:
        self.counts["lost workers"] += 1
        self._up.discard(worker)
        on = self._on[worker]
        assert set(self._scheduler.worker_lost(worker)) == set(on)
        for name, body in list(on.items()):
            self._off(name, body)
            body.suspect = True
            body.losses += 1
            if body.losses >= MAX_LOSSES_OF_A_JOB:
                self._end(name, "failed")
        self._push(self._draw.expovariate(1 / REPAIR_S), "up", worker)

    def _off(self, name: str, body: _Body) -> None:
        del self._on[body.worker][name]
        body.worker, body.leaving = "", False

    def _end(self, name: str, how: str) -> None:
        body = self._bodies.pop(name)
        if body.worker:
            del self._on[body.worker][name]
        self._scheduler.remove(name)
        self.counts[how] += 1

    def _decide(self) -> None:
        waiting_before = None
        for decision in self._scheduler.decide():
            body = self._bodies[decision.job_id]
            if isinstance(decision, Assignment):
                assert not body.worker, f"{decision.job_id} runs on {body.worker} already"
                assert decision.worker in self._up
                body.worker = decision.worker
                self._on[decision.worker][decision.job_id] = body
                self._check_room(decision.worker)
                self.counts["started"] += 1
                self.longest_wait_s = max(self.longest_wait_s, self.now - max(body.ticket.arrived, body.place))
            else:
                assert isinstance(decision, Preemption)
                assert (body.worker, body.leaving) == (decision.worker, False)
                if waiting_before is None:
                    waiting_before = [other for other in self._bodies.values() if not other.worker]
                assert any(
                    other.ticket.priority > body.ticket.priority and other.place <= body.place for other in waiting_before
                ), "preempted for nobody who may"
                body.leaving = True
                self._push(LEAVE_S, "left", f"{decision.job_id}/{self._births[decision.worker]}")
                self.counts["preempted"] += 1
        self._check_no_overtaking()

    def _check_room(self, worker: str) -> None:
        """Slots, memory and solitude, worked out afresh."""
        capacity, on = self._capacities[worker], list(self._on[worker].values())
        assert len(on) <= capacity.slots
        assert len(on) == 1 or not any(body.suspect for body in on), "a suspect has company"
        held = sum(body.ticket.demand.held for body in on)
        largest = 0
        for shape, _, demand in SHAPES:
            together = min(capacity.group, sum(body.ticket.shape == shape for body in on))
            largest = max(largest, together * demand.passing)
        assert capacity.memory is None or held + largest <= capacity.memory

    def _check_no_overtaking(self) -> None:
        """The first in line waits only if it fits nowhere as things are."""
        waiting = [body for body in self._bodies.values() if not body.worker]
        if not waiting:
            return
        first = min(waiting, key=lambda body: (body.place, int(body.ticket.job_id[1:])))
        for worker in self._up:
            on = self._on[worker]
            if first.suspect or any(body.suspect for body in on.values()):
                assert on, "a suspect waits before an empty worker"
                continue
            name = first.ticket.job_id
            on[name] = first
            try:
                self._check_room(worker)
            except AssertionError:
                continue
            finally:
                del on[name]
            raise AssertionError(f"{name} waits at {self.now}, though {worker} has room")
