"""``impasto worker``: runs an agent for each device until a signal ends them."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import grpc

from impasto_server.cluster.agent import Agent, AgentSettings, LostError, RefusedError
from impasto_server.workers.messages import WorkerSettings
from impasto_server.workers.process import ProcessWorker, WorkerHandle


class ProgramError(Exception):
    """The worker cannot run; the message says why."""


def run_worker(
    devices: Sequence[str],
    *,
    server: str,
    token_file: Path | None = None,
    tls_ca: Path | None = None,
    tls: bool = False,
    weights: str = "auto",
    name: str | None = None,
    host: str | None = None,
    scratch: Path | None = None,
    cuda_graphs: bool = False,
    once: bool = False,
    make: Callable[[WorkerSettings], WorkerHandle] = ProcessWorker,
) -> None:
    """Run an agent for each device until SIGTERM, SIGHUP or Ctrl-C; see :class:`AgentSettings`.

    Args:
        devices: Each gets an agent; with several, the device is appended to the name.
        server: HOST:PORT of the server's port for workers.
        token_file: File with the token; ``$IMPASTO_TOKEN`` by default.
        tls_ca: CA of the server's certificate.
        tls: Whether to use TLS without a CA of one's own.
        weights: As for the server.
        name: Name of the worker.
        host: Name of this machine.
        scratch: Folder for pictures and checkpoints.
        cuda_graphs: As for the server.
        once: Whether to end when the connection is lost.
        make: Makes the handle of the worker's process.

    Raises:
        ProgramError: If it cannot run.
    """
    if not re.fullmatch(r".+:\d+", server):
        raise ProgramError(f"join: must be HOST:PORT, got {server!r}")
    token = (
        _read("token_file", token_file).decode(errors="replace").strip() if token_file else os.environ.get("IMPASTO_TOKEN", "")
    )
    authority = _read("tls_ca", tls_ca) if tls_ca else None
    if scratch is not None and not scratch.is_dir():
        raise ProgramError(f"scratch: {scratch} is not a folder")
    host = host or socket.gethostname()
    general = AgentSettings(
        server=server,
        name="",
        host=host,
        device="",
        weights=weights,
        version=importlib.metadata.version("impasto"),
        token=token,
        credentials=grpc.ssl_channel_credentials(authority) if tls or authority else None,
        scratch=scratch,
        cuda_graphs=cuda_graphs,
    )
    names = [f"{name or host}:{device}" if name is None or len(devices) > 1 else name for device in devices]
    settings = [replace(general, name=each, device=device) for each, device in zip(names, devices, strict=True)]
    asyncio.run(_run(settings, make, once=once))


async def _run(settings: Sequence[AgentSettings], make: Callable[[WorkerSettings], WorkerHandle], *, once: bool) -> None:
    agents = [Agent(each, make) for each in settings]
    loop = asyncio.get_running_loop()

    def leave() -> None:
        for agent in agents:
            agent.leave()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, os._exit, 130)  # the second time at once: the server notices

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, leave)
    try:
        async with asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(agent.run(once=once))
    except* (RefusedError, LostError) as group_error:
        raise ProgramError(str(group_error.exceptions[0])) from None


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProgramError(f"{name}: {path}: {error.strerror}") from None
