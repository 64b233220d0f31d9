"""The server's side of its worker processes: starts them, communicates, and detects their exit."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import multiprocessing.resource_tracker
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

from impasto_server.stops import shielded
from impasto_server.workers.messages import Command, Report, WorkerSettings

logger = logging.getLogger(__name__)


class WorkerHandle(Protocol):
    """One worker as the pool sees it: a process here, or on another machine.

    Attributes:
        name: Unique among the pool's workers.
        host: Name of its host; empty for this one.
        device: Its device, for example ``cpu`` or ``cuda:0``.
    """

    name: str
    host: str
    device: str

    def start(self, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        """Start the worker. Both callbacks run on the event loop; ``on_exit`` gets the cause of its exit."""
        ...

    def send(self, command: Command) -> None:
        """Send the worker a command; never blocks. Commands to a dead worker are dropped."""
        ...

    def kill(self) -> None:
        """Kill the worker, whatever it does; ``on_exit`` is called as for any other exit."""
        ...

    async def stop(self) -> None:
        """Stop the worker permanently, whatever it does."""
        ...


class JoinedHandle(WorkerHandle, Protocol):
    """A worker that has joined from another machine.

    Attributes:
        heard: When its host was last heard, from ``time.monotonic()``.
    """

    heard: float

    def refuse(self, message: str) -> None:
        """End its stream because it cannot be used; the message tells it why."""
        ...


class ProcessWorker:
    """A worker in a separate process, started by spawn.

    Two threads keep the pipe's blocking calls off the event loop.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.name = self.device = settings.device
        self.host = ""
        self._settings = settings
        self._process: multiprocessing.process.BaseProcess | None = None
        self._outbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()

    @property
    def pid(self) -> int | None:
        """Process id, once started."""
        return self._process.pid if self._process else None

    def start(self, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        """See :class:`WorkerHandle`."""
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(theirs, self._settings), name=f"impasto-{self.name}", daemon=True)
        with shielded():
            multiprocessing.resource_tracker.ensure_running()  # which would unblock the signals while a worker starts
        with shielded():
            process.start()
        theirs.close()
        self._process = process
        self._outbox = queue.SimpleQueue()
        threading.Thread(target=_write, args=(ours, self._outbox, process), daemon=True).start()
        threading.Thread(target=_read, args=(ours, self._outbox, process, loop, on_report, on_exit), daemon=True).start()

    def send(self, command: Command) -> None:
        """See :class:`WorkerHandle`."""
        self._outbox.put(command)

    def kill(self) -> None:
        """See :class:`WorkerHandle`."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """See :class:`WorkerHandle`."""
        self._outbox.put(None)
        process = self._process
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.join)


def _run(connection: Connection, settings: WorkerSettings) -> None:
    """Enter the worker process; only what runs there imports the engine's networks."""
    from impasto_server.workers.main import worker_main  # noqa: PLC0415

    worker_main(connection, settings)


def _write(
    connection: Connection,
    outbox: queue.SimpleQueue[Command | None],
    process: multiprocessing.process.BaseProcess,
) -> None:
    while (command := outbox.get()) is not None:
        try:
            connection.send(command)
        except (BrokenPipeError, OSError):
            return
        except Exception:
            # Nothing was sent, and the worker would wait forever: it is killed and restarted, and its jobs resume or fail.
            logger.exception("a command could not be sent")
            process.kill()
            return


def _read(
    connection: Connection,
    outbox: queue.SimpleQueue[Command | None],
    process: multiprocessing.process.BaseProcess,
    loop: asyncio.AbstractEventLoop,
    on_report: Callable[[Report], None],
    on_exit: Callable[[str], None],
) -> None:
    try:
        while True:
            report = connection.recv()
            loop.call_soon_threadsafe(on_report, report)
    except (EOFError, OSError):
        outbox.put(None)
        process.join()
        connection.close()
        code = process.exitcode or 0
        cause = f"killed by signal {-code}" if code < 0 else f"exited with status {code}"
        try:
            loop.call_soon_threadsafe(on_exit, cause)
        except RuntimeError:  # the loop is closed: the server has stopped
            return
