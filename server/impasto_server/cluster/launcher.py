"""What starts and ends worker processes on the hosts of a cluster. The server decides; a launcher only carries out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class LauncherError(RuntimeError):
    """A launcher cannot work at all; the message says what to change."""


@dataclass(frozen=True)
class Node:
    """One host of the cluster.

    Args:
        name: Unique within the cluster and over time; a host that comes back may have a new one.
        host: Name or address, for people.
        devices_total: Devices for workers that the host offers.
        devices_free: Those that no worker has.
        alive: Whether the cluster counts the host as alive; this may be minutes behind the truth.
    """

    name: str
    host: str
    devices_total: int
    devices_free: int
    alive: bool


OnDied = Callable[[str, str], None]
"""Gets the name of a worker and why its process ended."""
OnNodes = Callable[[Sequence[Node]], None]
"""Gets all hosts."""


@dataclass(frozen=True)
class WorkerCommand:
    """How a worker is started on its host.

    Args:
        join: Address (HOST:PORT) where the server accepts workers, as the hosts see it.
        token_file: File with the worker's token; it must be on each host. Empty means none.
        device: The worker's device: ``cpu``, or ``cuda`` for the one device that the launcher makes visible.
        extra: Further arguments.
        program: What to run; empty means ``impasto worker`` with the Python that runs the launcher's part on the host.
    """

    join: str
    token_file: str = ""
    device: str = "cpu"
    extra: tuple[str, ...] = ()
    program: tuple[str, ...] = ()

    def line(self, name: str) -> list[str]:
        """Return the command line of the worker with this name. Call it on the worker's host."""
        program = self.program or (sys.executable, "-m", "impasto", "worker")
        token = ("--token-file", self.token_file) if self.token_file else ()
        return [*program, "--join", self.join, *token, "--name", name, "--device", self.device, "--once", *self.extra]


class Launcher(Protocol):
    """Starts and ends workers. All methods and callbacks run on the event loop.

    A worker has its name from :meth:`place` until ``on_died`` names it, once, or :meth:`end` is called. After :meth:`end`
    nothing more is reported about it, and the name may be placed again at once: the new worker is another process.
    """

    async def start(self, on_died: OnDied, on_nodes: OnNodes) -> None:
        """Begin to work.

        Args:
            on_died: Called when the process of a worker ended that was not ended by :meth:`end`.
            on_nodes: Called with all hosts when something about them changed.

        Raises:
            LauncherError: If it can never work with these settings.
        """
        ...

    def place(self, name: str) -> None:
        """Start a worker of this name on some host with a free device, or as soon as there is one. Never blocks.

        A name that is placed already stays as it is.
        """
        ...

    def end(self, name: str) -> None:
        """End a worker's process wherever it is: SIGTERM, then SIGKILL. Never blocks; unknown names are ignored."""
        ...

    def want(self, devices: int) -> None:
        """Say how many devices the cluster should have in all, those in use included. A fixed cluster ignores it."""
        ...

    async def stop(self) -> None:
        """End all workers and stop. Returns when they have ended, or after some seconds for hosts that do not answer."""
        ...
