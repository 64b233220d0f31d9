"""The manager of a cluster, with a launcher and a pool that only record."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from impasto_server.cluster.manager import BACKOFF_S, JOIN_S, ClusterManager
from impasto_server.cluster.scaling import Limits, Load


class Launcher:
    def __init__(self) -> None:
        self.running: list[str] = []
        self.ended: list[str] = []
        self.wanted = 0

    def place(self, name: str) -> None:
        self.running.append(name)

    def end(self, name: str) -> None:
        self.running.remove(name)
        self.ended.append(name)

    def want(self, devices: int) -> None:
        self.wanted = devices


class Pool:
    def __init__(self) -> None:
        self.joined: dict[str, bool] = {}
        self.draining: set[str] = set()

    @property
    def workers(self) -> list[Any]:
        handle = lambda name: SimpleNamespace(name=name, host=f"host-{name}")  # noqa: E731
        return [SimpleNamespace(handle=handle(name), ready=ready) for name, ready in self.joined.items()]

    def has(self, name: str) -> bool:
        return name in self.joined

    def is_draining(self, name: str) -> bool:
        return name in self.draining

    def drain(self, name: str) -> None:
        self.draining.add(name)

    def resume(self, name: str) -> None:
        self.draining.discard(name)


class World:
    def __init__(self, least: int = 1, most: int = 3, shrink_after_s: float = 10) -> None:
        self.now, self.load, self.running = 0.0, Load(), dict[str, int]()
        self.launcher, self.pool = Launcher(), Pool()
        limits = Limits(least, most, 60, shrink_after_s)
        self.manager = ClusterManager(
            self.launcher,
            limits,
            self.pool,
            lambda: self.load,
            lambda: self.running,
            clock=lambda: self.now,  # type: ignore[arg-type]
        )

    def look(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.manager.look()


def test_a_lost_worker_is_ended_and_replaced_at_once() -> None:
    """The launcher may learn of the loss of its host only later."""
    world = World()
    world.look()
    world.pool.joined["worker-1"] = True
    world.look()
    del world.pool.joined["worker-1"]
    world.look()
    assert (world.launcher.ended, world.launcher.running) == (["worker-1"], ["worker-2"])
    world.manager._on_died("worker-1", "killed")  # late news of it change nothing
    world.look()
    assert world.launcher.running == ["worker-2"]


def test_workers_that_end_before_they_are_ready_are_started_less_and_less_often() -> None:
    """Until one is ready."""
    world = World()
    starts = []
    for _ in range(200):
        world.look()
        if world.launcher.running:
            starts.append(world.now)
            world.manager._on_died(world.launcher.running.pop(), "exited with status 1")
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= BACKOFF_S[-1]
    world.look(BACKOFF_S[-1])
    world.pool.joined[world.launcher.running[0]] = True
    world.look()
    world.manager._on_died(world.launcher.running.pop(), "killed by signal 9")
    world.pool.joined.clear()
    world.look()
    assert len(world.launcher.running) == 1


def test_a_worker_that_never_joins_is_ended() -> None:
    world = World()
    world.look()
    world.look(JOIN_S + 1)
    assert world.launcher.ended == ["worker-1"]


def test_shrinking_drains_first_and_growing_takes_back_what_drains() -> None:
    """A worker with a job is never ended."""
    world = World(shrink_after_s=5)
    world.load = Load(3, 1000.0, 0)
    world.look()
    assert len(world.launcher.running) == 3
    world.pool.joined = dict.fromkeys(world.launcher.running, True)
    world.running = dict.fromkeys(world.launcher.running, 1)
    world.load = Load(0, 0.0, 1)
    for _ in range(10):
        world.look()
    assert len(world.pool.draining) == 2
    assert not world.launcher.ended
    world.load = Load(2, 1000.0, 1)
    world.look()
    assert len(world.pool.draining) == 0
    world.load = Load(0, 0.0, 1)
    for _ in range(10):
        world.look()
    world.running = {name: 0 for name in world.running if name in world.pool.draining}
    world.look()
    assert len(world.launcher.ended) == 2


def test_a_drain_by_hand_is_not_undone() -> None:
    """However much work waits; other workers come in its place."""
    world = World(most=2)
    world.look()
    world.pool.joined = {"worker-1": True}
    world.running = {"worker-1": 1}
    world.look()
    world.pool.drain("worker-1")
    world.load = Load(5, 1000.0, 1)
    for _ in range(5):
        world.look()
    assert world.pool.draining == {"worker-1"}
    assert not world.launcher.ended
    assert world.launcher.running == ["worker-1", "worker-2", "worker-3"]
