"""The scheduler against the reference without sums and indices: random walks over all methods, compared after each step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from impasto_server.scheduling import round as round_module
from impasto_server.scheduling.scheduler import Assignment, Capacity, Decision, Demand, Preemption, Scheduler, Ticket
from tests.unit.server.scheduling.reference import ReferenceScheduler


@dataclass(frozen=True)
class World:
    """What a walk draws from.

    Attributes:
        workers: How many there are at most.
        slots, memory, groups: Of a worker.
        shapes: How many shapes jobs have; 0 for a shape of its own for each job.
        held, passing: Bounds of a job's demand.
        priorities: Of jobs.
        waiting: About how many jobs wait.
    """

    workers: int = 6
    slots: tuple[int, ...] = (0, 1, 2, 4)
    memory: tuple[int | None, ...] = (None,)
    groups: tuple[int, ...] = (1,)
    shapes: int = 3
    held: tuple[int, int] = (0, 0)
    passing: tuple[int, int] = (0, 0)
    priorities: tuple[int, ...] = (0,)
    waiting: int = 12
    alone: float = 0.0


WORLDS = {
    "slots bind": World(),
    "slots and priorities": World(priorities=(-2, -1, 0, 0, 1, 2)),
    "memory binds": World(slots=(3, 16), memory=(80, 100, 120), held=(5, 60), passing=(0, 40), groups=(1, 2, 4)),
    "memory and priorities": World(
        slots=(3, 16), memory=(80, 100, 120, None), held=(5, 60), passing=(0, 40), groups=(1, 2), priorities=(-1, 0, 0, 1, 2)
    ),
    "a shape for each job": World(slots=(4, 8), memory=(90, 140), held=(1, 50), passing=(1, 50), shapes=0, priorities=(0, 1)),
    "suspects": World(slots=(1, 4, 8), memory=(None, 100), held=(0, 60), alone=0.4, priorities=(0, 0, 1)),
    "many workers": World(workers=50, slots=(1, 2), memory=(60, 100, None), held=(0, 70), passing=(0, 20), priorities=(0, 1)),
    "many of one": World(workers=40, slots=(4,), shapes=1, waiting=40, priorities=(0, 3)),
}


@dataclass
class Walk:
    """Two schedulers that must agree."""

    world: World
    draw: random.Random
    new: Scheduler = field(default_factory=Scheduler)
    old: ReferenceScheduler = field(default_factory=ReferenceScheduler)
    now: float = 0.0
    names: int = 0
    jobs: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def fill(self) -> None:
        """Ready the workers, and submit jobs until so many wait."""
        for _ in range(self.world.workers):
            self.ready()
        for _ in range(1000):
            if self.new.queued >= self.world.waiting:
                break
            self.submit()
            self.decide()

    def step(self) -> None:
        """One change, the same for both; then every answer is compared."""
        self.now += self.draw.choice((0.0, 0.5, 5.0, 30.0))
        few = self.new.queued < self.world.waiting
        moves: list[tuple[float, Callable[[], None]]] = [
            (10 if few else 2, self.submit),
            (4, self.end),
            (4, self.park),
            (1, self.ready),
            (1, self.resize),
            (0.5, self.lose),
        ]
        move = self.draw.choices([move for _, move in moves], [weight for weight, _ in moves])[0]
        move()
        if self.draw.random() < 0.8:
            self.decide()
        self.compare()

    def both(self, method: str, *arguments: object, **more: object) -> object:
        """Call both; return their common answer."""
        new, old = (getattr(scheduler, method)(*arguments, **more) for scheduler in (self.new, self.old))
        assert new == old, f"{method}{arguments}: {new}, not {old}"
        return old

    def ticket(self) -> Ticket:
        world, draw = self.world, self.draw
        self.names += 1
        shape = draw.randrange(world.shapes) if world.shapes else self.names
        # Jobs of a shape mostly need the same, as in the service; some do not.
        fixed = random.Random(shape) if draw.random() < 0.7 else draw
        demand = Demand(fixed.randint(*world.held), fixed.randint(*world.passing))
        pixels = fixed.choice((0, 64, 256, 1024))
        arrived = self.now if draw.random() < 0.9 else 0.0
        alone = draw.random() < world.alone
        return Ticket(f"j{self.names}", pixels, arrived, draw.choice(world.priorities), shape, demand, alone)

    def capacity(self) -> Capacity:
        world, draw = self.world, self.draw
        return Capacity(draw.choice(world.slots), draw.choice(world.memory), draw.choice(world.groups))

    def worker(self) -> str:
        return f"w{self.draw.randrange(self.world.workers)}"

    def submit(self) -> None:
        ticket = self.ticket()
        self.both("could_hold", ticket)
        self.both("fits_now", ticket)
        self.both("submit", ticket)
        self.both("submit", ticket)
        self.jobs.append(ticket.job_id)

    def end(self) -> None:
        job_id = self.draw.choice([*self.jobs[-200:], "nobody"])
        self.both("remove", job_id)
        if job_id in self.jobs:
            self.jobs.remove(job_id)

    def park(self) -> None:
        """Mostly those that were asked to leave."""
        job_id = self.leaving.pop() if self.leaving and self.draw.random() < 0.9 else self.draw.choice([*self.jobs, "nobody"])
        self.both("parked", job_id)

    def ready(self) -> None:
        """Also one that is there: it is empty again."""
        before = set(self.old.running_on())
        name = self.worker()
        if name in before and self.draw.random() < 0.9:
            return
        self.both("worker_ready", name, self.capacity())
        self.seen.add("replaced" if name in before else "ready")

    def resize(self) -> None:
        self.both("resize", self.worker(), self.capacity())

    def lose(self) -> None:
        if self.both("worker_lost", self.worker(), suspects=self.draw.random() < 0.2 + self.world.alone):
            self.seen.add("lost")

    def decide(self) -> None:
        decisions = self.both("decide")
        assert isinstance(decisions, list)
        for decision in decisions:
            self.note(decision)

    def note(self, decision: Decision) -> None:
        self.seen.add("assigned" if isinstance(decision, Assignment) else "preempted")
        if isinstance(decision, Preemption):
            self.leaving.append(decision.job_id)

    def compare(self) -> None:
        for question in ("waiting", "hopeless", "running_on"):
            self.both(question)
        assert (self.new.queued, self.new.running) == (self.old.queued, self.old.running)
        for job_id in [*self.draw.sample(self.jobs, min(3, len(self.jobs))), "nobody"]:
            for question in ("position", "worker_of", "waits", "__contains__"):
                self.both(question, job_id)
        self.both("runs_on", self.worker())


@pytest.mark.parametrize(("seed", "few"), [(0, round_module.FEW), (1, 0)])
@pytest.mark.parametrize("world", WORLDS)
def test_decisions_equal_those_of_the_reference(world: str, seed: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same decisions in the same order, and the same answers to every question, whatever binds, by both ways to look."""
    monkeypatch.setattr(round_module, "FEW", few)
    walk = Walk(WORLDS[world], random.Random(f"{world} {seed}"))
    walk.fill()
    for _ in range(200 if WORLDS[world].workers > 20 else 400):
        walk.step()
    wanted = {"assigned", "ready", "lost", *({"preempted"} if len(set(WORLDS[world].priorities)) > 1 else ())}
    assert walk.seen >= wanted, walk.seen
