"""The server's side of stand-in workers: who joined, from where, and who still lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from impasto_server.cluster.launcher import Node, WorkerCommand

STANDIN = Path(__file__).with_name("standin_worker.py")


@dataclass
class Joined:
    """One process of a worker."""

    name: str
    pid: int
    child: int
    raylet: int
    gpus: str
    device: str
    writer: asyncio.StreamWriter
    at: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    lost: float | None = None


class Joining:
    """Accepts stand-in workers, and keeps what a launcher reports."""

    def __init__(self) -> None:
        self.all: list[Joined] = []
        self.died: list[tuple[str, str]] = []
        self.died_at: list[float] = []
        self.nodes: list[Node] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._follow, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server
        self._server.close()
        for joined in self.all:
            joined.writer.close()

    def command(self, *extra: str) -> WorkerCommand:
        """Return the command of stand-in workers that join here."""
        return WorkerCommand(f"127.0.0.1:{self.port}", extra=extra, program=(sys.executable, str(STANDIN)))

    def on_died(self, name: str, cause: str) -> None:
        self.died.append((name, cause))
        self.died_at.append(time.monotonic())

    def on_nodes(self, nodes: object) -> None:
        self.nodes = list(nodes)  # type: ignore[call-overload]

    def live(self, name: str) -> list[Joined]:
        """Return the connected processes of this name."""
        return [joined for joined in self.all if joined.name == name and joined.lost is None]

    def one(self, name: str) -> Joined:
        (joined,) = self.live(name)
        return joined

    def orphans(self) -> list[psutil.Process]:
        """Return every process of a worker of this server, its guards and children too."""
        mark = f"127.0.0.1:{self.port}"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and any(mark in part for part in process.cmdline()):
                    found.append(process)
        return found

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            joined = Joined(**json.loads(await reader.readline()), writer=writer)
            self.all.append(joined)
            try:
                while await reader.readline():
                    joined.heard = time.monotonic()
            finally:
                joined.lost = time.monotonic()


async def until(condition: Callable[[], object], limit_s: float, state: Callable[[], object] = str) -> float:
    """Wait until the condition holds; return how long it took. If it does not hold in time, the state is told."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit_s:
            raise AssertionError(f"not within {limit_s} s: {state()}")
        await asyncio.sleep(0.02)
    return time.monotonic() - start
