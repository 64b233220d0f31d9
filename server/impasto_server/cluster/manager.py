"""Keeps as many workers on the cluster as there is work for, within the operator's limits.

The launcher starts and ends processes; whether a worker has joined, and what it runs, is known from the pool. A worker that was
joined and is lost is ended and replaced at once: the launcher may notice the loss of a host only much later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from impasto_server.cluster.launcher import Launcher, Node
from impasto_server.cluster.scaling import Limits, Load, Scaler, Worker
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the load is looked at."""
JOIN_S = 300.0
"""A worker that was started must join within this time; a host may have to be added first."""
BACKOFF_S = (0.0, 1.0, 5.0, 30.0, 60.0)
"""Pause before the next start after workers that ended before they were ready, in a row."""


@dataclass
class _Placed:
    """A worker that the launcher was told to start."""

    since: float
    joined: bool = False
    ready: bool = False


class ClusterManager:
    """Starts and ends workers.

    Args:
        launcher: Starts and ends their processes.
        limits: What the operator set.
        pool: Knows the workers that have joined.
        load: Returns what there is to do.
        running_on: Returns the number of running jobs of each worker.
        prefix: Names of workers begin with it.
        clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        launcher: Launcher,
        limits: Limits,
        pool: WorkerPool,
        load: Callable[[], Load],
        running_on: Callable[[], dict[str, int]],
        prefix: str = "worker",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launcher, self._pool, self._load, self._running_on = launcher, pool, load, running_on
        self._scaler, self._prefix, self._clock = Scaler(limits), prefix, clock
        self._placed: dict[str, _Placed] = {}
        self._drained: set[str] = set()
        self._count = self._failures = 0
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None
        self.nodes: tuple[Node, ...] = ()

    async def start(self) -> None:
        """Begin.

        Raises:
            LauncherError: If the launcher can never work.
        """
        await self._launcher.start(self._on_died, self._on_nodes)
        self._task = asyncio.create_task(self._look_forever())

    async def stop(self) -> None:
        """End all workers."""
        if self._task is not None:
            self._task.cancel()
        await self._launcher.stop()

    async def _look_forever(self) -> None:
        while True:
            try:
                self.look()
            except Exception:  # a cluster that is looked after no more would shrink by every loss
                logger.exception("the cluster could not be looked after; trying again")
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Compare what there is with what is wanted, and act."""
        now = self._clock()
        self._follow(now)
        running = self._running_on()
        hosts = {status.handle.name: status.handle.host for status in self._pool.workers}
        workers = [
            Worker(name, hosts.get(name, ""), running.get(name, 0), name in self._drained)
            for name in self._placed
            if name in self._drained or not self._pool.is_draining(name)  # else an operator drains it, and ends that
        ]
        decision = self._scaler.decide(now, self._load(), workers)
        self._launcher.want(decision.devices)
        for name in decision.drain:
            self._drained.add(name)
            self._pool.drain(name)
        for name in decision.resume:
            self._drained.discard(name)
            self._pool.resume(name)
        for name in decision.end:
            logger.info("worker %s is no longer needed", name, extra={"device": name})
            self._end(name)
        if now >= self._not_before:
            for _ in range(decision.add):
                self._place(now)

    def _follow(self, now: float) -> None:
        """Note which workers have joined, and end those that are lost or never came."""
        ready = {status.handle.name for status in self._pool.workers if status.ready}
        for name, placed in list(self._placed.items()):
            if name in ready and not placed.ready:
                placed.ready = True
                self._failures, self._not_before = 0, 0.0
            if self._pool.has(name):
                placed.joined = True
            elif placed.joined:
                self._end(name)
            elif now - placed.since > JOIN_S:
                logger.error("worker %s has not joined within %.0f s: it is ended", name, JOIN_S, extra={"device": name})
                self._fail(now)
                self._end(name)

    def _place(self, now: float) -> None:
        self._count += 1
        name = f"{self._prefix}-{self._count}"
        self._placed[name] = _Placed(now)
        logger.info("worker %s is started", name, extra={"device": name})
        self._launcher.place(name)

    def _end(self, name: str) -> None:
        del self._placed[name]
        self._drained.discard(name)
        self._launcher.end(name)

    def _fail(self, now: float) -> None:
        self._failures += 1
        self._not_before = now + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]

    def _on_died(self, name: str, cause: str) -> None:
        placed = self._placed.pop(name, None)
        self._drained.discard(name)
        if placed is None:
            return
        logger.error("the process of worker %s has ended: %s", name, cause, extra={"device": name})
        if not placed.ready:
            self._fail(self._clock())

    def _on_nodes(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        free = sum(node.devices_free for node in nodes if node.alive)
        total = sum(node.devices_total for node in nodes if node.alive)
        logger.info("hosts in the cluster: %d; devices: %d, %d of them free", len(nodes), total, free)


def limits_of(workers: str) -> Limits:
    """Return the limits in a setting: ``MIN..MAX``, a number, or ``auto`` for none.

    Raises:
        ValueError: If it is none of them; the message says what is.
    """
    if workers == "auto":
        return Limits(1, 1 << 20)
    least, dots, most = workers.partition("..")
    try:
        limits = Limits(int(least), int(most if dots else least))
    except ValueError as error:
        text = str(error) if "must be" in str(error) else f"workers must be auto, a number or MIN..MAX, got {workers!r}"
        raise ValueError(text) from None
    if not limits.least:
        raise ValueError(f"workers must be at least 1, since jobs are accepted only while a worker is ready; got {workers}")
    return limits
