"""Workers on the hosts of a Ray cluster. Ray itself is in a child process, which may die at any time."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import secrets
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from dataclasses import dataclass

from impasto_server.cluster.guard import GRACE_S
from impasto_server.cluster.launcher import LauncherError, Node, OnDied, OnNodes, WorkerCommand
from impasto_server.cluster.ray_connect import check_address
from impasto_server.cluster.ray_messages import (
    Connected,
    Died,
    End,
    Ended,
    Message,
    Nodes,
    Place,
    Placed,
    Refused,
    Settings,
    Synchronized,
    Want,
    decode,
    encode,
)

logger = logging.getLogger(__name__)
RESTART_DELAYS_S = (0.2, 1.0, 2.0, 5.0, 10.0)
"""The child is restarted after the first delay; if it ends again before it was connected, after the next."""
START_S = 15.0
"""Seconds that a start waits for the cluster; afterwards the launcher continues to try."""
SILENCE_S = 90.0
"""A child that says nothing for this long is killed; Ray itself ends it 61 s after the control store died."""
STOP_MARGIN_S = 5.0
"""Seconds beyond the grace time that a stop waits for hosts that do not answer."""


@dataclass
class _Worker:
    name: str
    known: bool = False
    """Whether its actor was created, so that its absence means that it died."""


class RayLauncher:
    """Starts workers as detached actors of Ray; see :class:`~impasto_server.cluster.launcher.Launcher`.

    A Ray node must run on this machine (it may offer nothing). The environment's RAY_AUTH_MODE, RAY_AUTH_TOKEN and
    RAY_AUTH_TOKEN_PATH are those of the child.

    Args:
        address: HOST:PORT of Ray's control store.
        command: How a worker is started on its host.
        namespace: Ray's namespace of the actors. Each server needs its own: actors that it does not know are ended.
        resource: What a worker takes one of: ``GPU``, or ``CPU`` where the cluster has no GPU.
        grace_s: Seconds between SIGTERM and SIGKILL at an end.
        child: The child's command line without the descriptor of its socket, for tests.

    Raises:
        ValueError: If the address or the resource is none.
    """

    def __init__(
        self,
        address: str,
        command: WorkerCommand,
        *,
        namespace: str = "impasto",
        resource: str = "GPU",
        grace_s: float = GRACE_S,
        child: Sequence[str] | None = None,
    ) -> None:
        check_address(address)
        if resource not in ("GPU", "CPU"):
            raise ValueError(f"resource must be GPU or CPU, got {resource!r}")
        self._settings = Settings(address, namespace, secrets.token_hex(4), resource, command, grace_s)
        self._line = tuple(child or (sys.executable, "-m", "impasto_server.cluster.ray_process"))
        self._needs_ray = child is None
        self._keys: dict[str, str] = {}
        self._workers: dict[str, _Worker] = {}
        self._ending: set[str] = set()
        self._devices: int | None = None
        self._count = 0
        self._nodes: tuple[Node, ...] | None = None
        self._on_died: OnDied = lambda name, cause: None
        self._on_nodes: OnNodes = lambda nodes: None
        self._writer: asyncio.StreamWriter | None = None
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._connected = False
        self._all_ended = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the cluster can be reached now, as far as is known."""
        return self._connected

    @property
    def child_pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._process.pid if self._process else None

    async def start(self, on_died: OnDied, on_nodes: OnNodes) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`. A cluster that cannot be reached yet is tried again."""
        if self._needs_ray and importlib.util.find_spec("ray") is None:
            raise LauncherError("Ray is not installed: pip install 'impasto[ray]', the same version on all hosts")
        self._on_died, self._on_nodes = on_died, on_nodes
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._supervise())
        try:
            await asyncio.wait_for(asyncio.shield(self._first), START_S)
        except TimeoutError:
            self._first.cancel()  # what happens later is logged
            logger.warning("the cluster at %s does not answer yet; it is tried again", self._settings.address)
        except LauncherError:
            await self._cancel()
            raise

    def place(self, name: str) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        if name in self._keys:
            return
        self._count += 1
        key = f"{name}@{self._settings.session}-{self._count}"
        self._keys[name] = key
        self._workers[key] = _Worker(name)
        self._send(Place(key, name))

    def end(self, name: str) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        key = self._keys.pop(name, None)
        if key is not None:
            del self._workers[key]
            self._ending.add(key)
            self._send(End(key))

    def want(self, devices: int) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        if devices != self._devices:
            self._devices = devices
            self._send(Want(devices))

    async def stop(self) -> None:
        """See :class:`~impasto_server.cluster.launcher.Launcher`."""
        for name in list(self._keys):
            self.end(name)
        if self._devices:
            self.want(0)
        if self._connected:
            self._ending.add("")  # the child answers in order: all that was sent before was read
            self._send(End(""))
            self._all_ended.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), self._settings.grace_s + STOP_MARGIN_S)
        if self._ending - {""}:
            logger.warning("%d workers in the Ray cluster did not confirm their end", len(self._ending - {""}))
        await self._cancel()

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _send(self, message: Message) -> None:
        """Send to a connected child; what it misses it gets at its start."""
        if self._connected and self._writer is not None:
            self._writer.write(encode(message))

    async def _supervise(self) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                was_connected = await self._run_child()
            except OSError as error:
                was_connected = False
                logger.error("the process with Ray's driver could not be started: %s", error)  # noqa: TRY400 - no traceback
            failures = 0 if was_connected else failures + 1
            if was_connected:
                logger.error("the process with Ray's driver ended after %.0f s; it is restarted", time.monotonic() - started)
            await asyncio.sleep(RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)])

    async def _run_child(self) -> bool:
        """Run one child to its end; return whether it was connected to the cluster."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            self._process = process = await asyncio.create_subprocess_exec(
                *self._line, str(descriptor), pass_fds=[descriptor], stdin=DEVNULL, stdout=DEVNULL, start_new_session=True
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 24)
        self._writer = writer
        was_connected = False
        try:
            writer.write(encode(self._settings))
            while line := await self._line_of(reader):
                self._receive(decode(line))
                was_connected = was_connected or self._connected
        except (TimeoutError, ConnectionError, ValueError) as error:
            logger.error("the process with Ray's driver is killed: %s", str(error) or f"silent for {SILENCE_S:.0f} s")  # noqa: TRY400
        finally:
            self._connected, self._writer, self._process = False, None, None
            writer.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return was_connected

    async def _line_of(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(SILENCE_S):  # not wait_for, which loses a cancellation that comes with a line
            return await reader.readline()

    def _receive(self, message: Message) -> None:
        if isinstance(message, Connected):
            self._synchronize(message.ray)
        elif isinstance(message, Refused):
            self._refused(message)
        elif isinstance(message, Placed):
            if message.key in self._workers:
                self._workers[message.key].known = True
        elif isinstance(message, Died):
            worker = self._workers.pop(message.key, None)
            if worker is not None:
                del self._keys[worker.name]
                self._on_died(worker.name, message.cause)
        elif isinstance(message, Ended):
            self._note_ended({message.key})
        elif isinstance(message, Nodes) and message.nodes != self._nodes:
            self._nodes = message.nodes
            self._on_nodes(message.nodes)

    def _synchronize(self, version: str) -> None:
        """Tell a new child what should exist; it ends everything else, also what was to end."""
        logger.info("connected to the Ray %s cluster at %s", version, self._settings.address)
        self._connected = True
        for key, worker in self._workers.items():
            self._send(Place(key, worker.name, worker.known))
        self._send(Synchronized())
        if self._devices is not None:
            self._send(Want(self._devices))
        self._note_ended(set(self._ending))
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def _refused(self, message: Refused) -> None:
        if self._first is None or self._first.done():
            logger.error("%s; it is tried again", message.text)
        elif message.permanent:
            self._first.set_exception(LauncherError(message.text))
        else:
            logger.warning("%s; it is tried again", message.text)
            self._first.set_result(None)

    def _note_ended(self, keys: set[str]) -> None:
        self._ending -= keys
        if not self._ending:
            self._all_ended.set()
