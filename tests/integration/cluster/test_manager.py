"""A server that starts its workers by itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

import impasto
from impasto_server.app import StartError, serving
from impasto_server.cluster.launcher import WorkerCommand
from impasto_server.cluster.local import LocalLauncher
from impasto_server.cluster.manager import ClusterManager, limits_of
from impasto_server.cluster.scaling import Limits, Load
from impasto_server.config import ConfigError, ServerConfig
from tests.integration.cluster.conftest import ROOT, Cluster, until

pytestmark = pytest.mark.cluster


@asynccontextmanager
async def managed(running: Cluster, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> AsyncIterator[ClusterManager]:
    """Start fake workers on this machine as the load wants them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    program = (sys.executable, "-m", "tests.integration.cluster.fake_process")
    command = WorkerCommand(running.running.worker_address, program=program)
    jobs = running.running.jobs
    load = lambda: Load(jobs.dispatcher.queued, 100.0 * jobs.dispatcher.queued, jobs.dispatcher.running)  # noqa: E731
    manager = ClusterManager(LocalLauncher(command, 4), limits, running.pool, load, lambda: jobs.dispatcher.running_on)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop()


async def test_workers_come_with_the_work_and_go_after_it(
    cluster: Callable[..., Any], submit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one to three and back to one; a killed one is replaced; each job is done once, and no process is left."""
    limits = Limits(1, 3, target_s=60, shrink_after_s=2)
    async with cluster() as running, impasto.AsyncClient(running.running.address) as client:
        async with managed(running, monkeypatch, limits) as manager:
            await until(lambda: running.pool.all_ready and len(running.pool.workers) == 1, 60)
            jobs = [await submit(client, steps=400, seed=seed) for seed in range(4)]
            await until(lambda: sum(bool(status.ready) for status in running.pool.workers) == 3, 60)
            first = next(iter(running.pool.workers)).handle.name
            launcher: Any = manager._launcher
            guard = launcher.pids()[first]
            for child in psutil.Process(guard).children(recursive=True):
                os.kill(child.pid, signal.SIGKILL)
            await until(lambda: not running.pool.has(first))
            for job in jobs:
                assert (await job.result(120)).job.step == 400
            await until(lambda: len(running.pool.workers) == 1, 60)
            guards = list(launcher.pids().values())
        await until(lambda: not any(psutil.pid_exists(pid) for pid in guards), 20)


@pytest.mark.parametrize(("workers", "limits"), [("auto", (1, 1 << 20)), ("3", (3, 3)), ("1..4", (1, 4))], ids=str)
def test_the_number_of_workers_is_a_number_or_a_range(workers: str, limits: tuple[int, int]) -> None:
    found = limits_of(workers)
    assert (found.least, found.most) == limits


@pytest.mark.parametrize("workers", ["", "many", "4..1", "0..2", "0", "1..", "-1"])
def test_other_numbers_of_workers_are_refused(workers: str) -> None:
    """The message names the setting and says what it takes."""
    with pytest.raises(ValueError, match="workers must be"):
        limits_of(workers)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cluster": "local"}, "cluster needs worker_listen"),
        ({"device": "none"}, "device none needs worker_listen"),
        ({"worker_tokens": "file"}, "worker_tokens needs worker_listen"),
        ({"worker_listen": "0.0.0.0:1"}, "worker_tokens must be set"),
        ({"worker_listen": "nowhere"}, "worker_listen must be HOST:PORT"),
        ({"worker_listen": "127.0.0.1:0", "worker_address": "x"}, "worker_address must be HOST:PORT"),
        ({"worker_listen": "127.0.0.1:0", "worker_device": "tpu"}, "worker_device must be"),
        ({"workers": "2"}, "workers 2 needs cluster"),
        ({"worker_listen": "127.0.0.1:0", "cluster": "local", "worker_tokens": "f"}, "needs worker_token_file"),
        ({"web": "127.0.0.1:50051"}, "web 127.0.0.1:50051 is the address of another port"),
    ],
)
def test_settings_of_workers_that_contradict_one_another_are_refused(settings: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ServerConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cluster": "ray://head:10001"}, "cluster: .*ray://"),
        ({"cluster": "local", "workers": "none"}, "cluster: workers must be"),
    ],
)
async def test_a_cluster_that_cannot_be_is_refused_at_the_start(tmp_path: Any, settings: dict[str, str], text: str) -> None:
    config = ServerConfig(
        listen="127.0.0.1:0",
        worker_listen="127.0.0.1:0",
        device="none",
        data_dir=str(tmp_path),
        **settings,  # type: ignore[arg-type]
    )
    with pytest.raises(StartError, match=text):
        async with serving(config, []):
            pass
