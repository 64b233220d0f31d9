"""A server in this process, and workers on "other machines": subprocesses that join it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import impasto
from impasto_server.app import RunningServer, serving
from impasto_server.config import ServerConfig

ROOT = Path(__file__).parents[3]


class Host:
    """A machine with one worker."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self.process, self.name = process, name

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kill it, unless it has ended; a frozen one too."""
        if self.process.poll() is None:
            self.kill()


class Cluster:
    """A server with workers that have joined."""

    def __init__(self, running: RunningServer, folder: Path, started: list[Host]) -> None:
        self.running, self.folder, self.started = running, folder, started
        self.hosts: list[Host] = []

    @property
    def pool(self) -> Any:
        return self.running.jobs.pool

    def add_real(self, name: str) -> Host:
        """Add a host with the real engine."""
        command = [sys.executable, "-m", "impasto", "worker", "--join", self.running.worker_address, "--device", "cpu"]
        return self._add(name, [*command, "--weights", "builtin", "--name", name, "--host", f"host-{name}"])

    def add(self, name: str, *, host: str = "", server: str = "", weights: str = "same", **environment: str) -> Host:
        """Add a host with a fake engine."""
        command = [sys.executable, "-m", "tests.integration.cluster.fake_process"]
        command += ["--join", server or self.running.worker_address, "--name", name]
        command += ["--host", host or f"host-{name}", "--weights", weights]
        return self._add(name, command, **environment)

    def _add(self, name: str, command: list[str], **environment: str) -> Host:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        with (self.folder / f"{name}.{len(self.hosts)}.log").open("w") as log:
            added = Host(subprocess.Popen(command, cwd=ROOT, env=env, stderr=log, text=True), name)
        self.hosts.append(added)
        self.started.append(added)
        return added

    def log(self, host: Host) -> str:
        return (self.folder / f"{host.name}.{self.hosts.index(host)}.log").read_text()

    async def until_ready(self, *names: str, within_s: float = 120) -> None:
        ready = lambda: {status.handle.name for status in self.pool.workers if status.ready}  # noqa: E731
        await until(lambda: set(names) <= ready(), within_s)

    async def close(self) -> None:
        for host in self.hosts:
            host.end()


async def until(condition: Callable[[], bool], within_s: float = 120.0) -> float:
    """Wait for a condition; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, "it did not happen in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@asynccontextmanager
async def _cluster(folder: Path, started: list[Host], **settings: Any) -> AsyncIterator[Cluster]:
    config = ServerConfig(
        **{
            "listen": "127.0.0.1:0",
            "worker_listen": "127.0.0.1:0",
            "device": "none",
            "data_dir": str(folder / "data"),
            "checkpoint_interval_s": 0.2,
            "grace_s": 0.2,
            **settings,
        }
    )
    async with serving(config, []) as running:
        cluster = Cluster(running, folder, started)
        try:
            yield cluster
        finally:
            await cluster.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a context manager that runs a server for workers that join; those that outlive it end with the test."""
    started: list[Host] = []
    yield lambda **settings: _cluster(tmp_path, started, **settings)
    for host in started:
        host.end()


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def submit(png: Callable[..., bytes]) -> Callable[..., Any]:
    """Return a function that submits a small job."""

    async def submit(client: impasto.AsyncClient, steps: int = 100, seed: int = 0, **options: Any) -> impasto.AsyncJob:
        return await client.submit(png(seed=seed), png(seed=1), size_px=48, steps=steps, levels=1, **options)

    return submit
