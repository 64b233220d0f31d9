"""The pool of workers, of which one cannot start or does not end as it should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from impasto_engine.parameters import Parameters
from impasto_server.config import ServerConfig
from impasto_server.workers import pool as pool_module
from impasto_server.workers.messages import CannotStart, Report
from impasto_server.workers.pool import WorkerPool
from tests.unit.server.fakes import FakeWorker, spec


class Listener:
    """Notes which workers were lost."""

    def __init__(self) -> None:
        self.ready: list[str] = []
        self.lost: list[str] = []

    def on_ready(self, name: str) -> None:
        self.ready.append(name)

    def on_report(self, name: str, report: object) -> None:
        return

    def on_lost(self, name: str, cause: str, *, blame: bool = True) -> None:
        self.lost.append(name)

    def on_draining(self, name: str) -> None:
        return

    def on_memory(self, name: str) -> None:
        return


class Broken(FakeWorker):
    """Says that it cannot start, and ends, as a real worker's process does."""

    def start(self, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        self.ready = False
        super().start(on_report, on_exit)
        loop = asyncio.get_running_loop()
        loop.call_soon(on_report, CannotStart("CUDA error: device not ready"))
        loop.call_soon(on_exit, "exited with status 0")


def made(*workers: FakeWorker) -> tuple[WorkerPool, Listener]:
    pool, listener = WorkerPool(ServerConfig(), workers), Listener()
    pool.listen(listener)
    pool.start()
    return pool, listener


async def test_a_gpu_that_cannot_start_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server works with the rest, the broken one is tried again much later, and jobs do not wait for it."""
    monkeypatch.setattr(pool_module, "RESTART_DELAYS_S", (0.0,))
    good, broken = FakeWorker("cuda:0", "cuda:0"), Broken("cuda:1", "cuda:1")
    pool, listener = made(good, broken)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert listener.ready == ["cuda:0"]
    assert not pool.broken.done()
    assert pool.all_ready
    assert broken.births == 1
    await pool.stop()


async def test_a_broken_gpu_that_works_later_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another process has freed it."""
    monkeypatch.setattr(pool_module, "BROKEN_S", 0.01)
    broken = Broken("cuda:1", "cuda:1")
    pool, listener = made(FakeWorker("cuda:0", "cuda:0"), broken)
    await asyncio.sleep(0)
    broken.__class__ = FakeWorker
    broken.ready = True
    async with asyncio.timeout(60):
        while len(listener.ready) < 2:
            await asyncio.sleep(0.005)
    assert sorted(listener.ready) == ["cuda:0", "cuda:1"]
    await pool.stop()


async def test_a_server_without_any_device_ends_and_says_why() -> None:
    """With the message of every worker."""
    pool, _ = made(Broken("cuda:0", "cuda:0"), Broken("cuda:1", "cuda:1"))
    async with asyncio.timeout(60):
        text = await pool.broken
    assert text == "worker cuda:0: CUDA error: device not ready; worker cuda:1: CUDA error: device not ready"
    await pool.stop()


async def test_jobs_that_share_a_pass_are_booked_together() -> None:
    """By the arithmetic and the network that they will use, not by the names that they asked for."""
    pool, listener = made(FakeWorker())
    async with asyncio.timeout(60):
        while not listener.ready:
            await asyncio.sleep(0.005)

    def shape(**changes: object) -> object:
        return pool.ticket(replace(spec(), parameters=Parameters(**changes))).shape  # type: ignore[arg-type]

    assert shape() == shape(precision="float32") == shape(precision="tf32") == shape(network="vgg16:builtin")
    assert shape() != shape(precision="bfloat16")
    await pool.stop()
