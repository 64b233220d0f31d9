"""Workers as processes of this machine that join over the network: for tests of clusters, and to try one."""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio.subprocess import PIPE, Process
from collections import deque

from impasto_server.cluster.guard import GRACE_S, cause_of, guarded
from impasto_server.cluster.launcher import Node, OnDied, OnNodes, WorkerCommand

logger = logging.getLogger(__name__)


class LocalLauncher:
    """Starts workers on this machine; see :class:`~impasto_server.cluster.launcher.Launcher`.

    If the server is killed, the workers' guards see their pipes close and end the workers.

    Args:
        command: How a worker is started.
        devices: Number of workers at a time; more wait until one ends.
        grace_s: Seconds between SIGTERM and SIGKILL at an end.
    """

    def __init__(self, command: WorkerCommand, devices: int, grace_s: float = GRACE_S) -> None:
        if devices < 1:
            raise ValueError(f"devices must be at least 1, got {devices}")
        self._command = command
        self._devices = devices
        self._grace_s = grace_s
        self._waiting: deque[str] = deque()
        self._starting: set[str] = set()
        self._running: dict[str, Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_died: OnDied = lambda name, cause: None
        self._on_nodes: OnNodes = lambda nodes: None
        self._stopping = False
        self._told: Node | None = None

    async def start(self, on_died: OnDied, on_nodes: OnNodes) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        self._on_died, self._on_nodes = on_died, on_nodes
        self._advance()

    def pids(self) -> dict[str, int]:
        """Return the process ids of the running workers' guards."""
        return {name: process.pid for name, process in self._running.items()}

    def place(self, name: str) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        if name not in self._waiting and name not in self._starting and name not in self._running:
            self._waiting.append(name)
            self._advance()

    def end(self, name: str) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        if name in self._waiting:
            self._waiting.remove(name)
        self._starting.discard(name)
        process = self._running.pop(name, None)
        if process is not None:
            _close(process)

    def want(self, devices: int) -> None:
        """Ignored: this machine has the devices it has."""

    async def stop(self) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        self._stopping = True
        self._waiting.clear()
        self._starting.clear()
        for name in list(self._running):
            self.end(name)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _advance(self) -> None:
        """Start what waits while devices are free; a process that is ending still has its device."""
        while self._waiting and len(self._tasks) < self._devices and not self._stopping:
            name = self._waiting.popleft()
            self._starting.add(name)
            task = asyncio.create_task(self._run(name))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        node = Node("local", socket.gethostname(), self._devices, self._devices - len(self._tasks), alive=True)
        if node != self._told:
            self._told = node
            self._on_nodes([node])

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a worker's process was not followed to its end", exc_info=error)
        self._advance()

    async def _run(self, name: str) -> None:
        line = guarded(self._command.line(name), self._grace_s)
        try:
            process = await asyncio.create_subprocess_exec(*line, stdin=PIPE, start_new_session=True)
        except OSError as error:
            if name in self._starting:
                self._starting.discard(name)
                self._on_died(name, f"could not be started: {error}")
            return
        if name in self._starting:
            self._starting.discard(name)
            self._running[name] = process
        else:  # it was ended meanwhile
            _close(process)
        status = await process.wait()
        _close(process)
        if self._running.get(name) is process:
            del self._running[name]
            self._on_died(name, cause_of(status))


def _close(process: Process) -> None:
    """Close the pipe to a guard, which then ends its worker."""
    if process.stdin is not None:
        process.stdin.close()
