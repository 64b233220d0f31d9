"""The program on a worker's host: it dials the server, runs the worker's process, and passes commands, reports and files on.

It is a process of its own, so that it answers while the worker computes, and can tell a lost process from a lost host. When the
connection is lost it kills the worker's process: the server has given the jobs to others by then. Unless told otherwise it then
dials again, as a new incarnation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from impasto.worker.v1 import worker_pb2 as pb
from impasto.worker.v1 import worker_pb2_grpc as pb_grpc
from impasto_server.cluster import wire
from impasto_server.cluster.desk import Desk
from impasto_server.cluster.silence import silence
from impasto_server.scratch import scratch_folder
from impasto_server.workers.messages import WorkerSettings
from impasto_server.workers.process import ProcessWorker, WorkerHandle

logger = logging.getLogger(__name__)

GREETING_S = 10.0
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Delays before the server is dialled again; the last one repeats."""
LEAVING_S = 30.0
"""Time that the jobs have to leave before this program ends."""
FINAL = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""Statuses after which dialling again is of no use."""


class RefusedError(Exception):
    """The server does not accept this worker; the message says why."""


class LostError(Exception):
    """The connection was lost, or could not be made; the message says how."""


@dataclass(frozen=True)
class AgentSettings:
    """Settings of a worker's host.

    Attributes:
        server: HOST:PORT of the server's port for workers.
        name: Name of the worker, unique among the server's workers.
        host: Name of the host.
        device: Device to compute on.
        weights: As for the server.
        version: Version of impasto.
        token: Sent to the server; empty for none.
        credentials: TLS; None for none.
        scratch: Parent of the folder for pictures and checkpoints; None for the system's temporary folder.
        cuda_graphs: As for the server.
    """

    server: str
    name: str
    host: str
    device: str
    weights: str
    version: str
    token: str = ""
    credentials: grpc.ChannelCredentials | None = None
    scratch: Path | None = None
    cuda_graphs: bool = False


class Agent:
    """Keeps a worker joined to its server.

    Args:
        settings: The settings.
        make: Makes the handle of the worker's process.
    """

    def __init__(self, settings: AgentSettings, make: Callable[[WorkerSettings], WorkerHandle] = ProcessWorker) -> None:
        self._settings, self._make = settings, make
        self._leaving = asyncio.Event()
        self._joined = False

    def leave(self) -> None:
        """Let the jobs continue elsewhere, and end."""
        self._leaving.set()

    async def run(self, *, once: bool = False) -> None:
        """Work until told to leave.

        Args:
            once: End when a connection that was established is lost, instead of dialling again.

        Raises:
            RefusedError: If the server does not accept the worker.
            LostError: If the connection is lost and ``once`` is set.
        """
        failures = 0
        while not self._leaving.is_set():
            self._joined = False
            try:
                await self._session()
            except LostError as error:
                if self._joined and once:
                    raise
                failures = 0 if self._joined else failures + 1
                delay_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                logger.warning("%s; dialling again in %.1f s", error, delay_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), delay_s)

    async def _session(self) -> None:
        """Join, and work until the stream ends."""
        settings = self._settings
        options = [*wire.CHANNEL_OPTIONS, ("grpc.enable_retries", 0)]
        channel = (
            grpc.aio.secure_channel(settings.server, settings.credentials, options=options)
            if settings.credentials
            else grpc.aio.insecure_channel(settings.server, options=options)
        )
        metadata = (("authorization", f"Bearer {settings.token}"),) if settings.token else ()
        async with channel:
            stub: Any = pb_grpc.WorkerServiceStub(channel)
            call = stub.Join(metadata=metadata)
            try:
                welcome = await self._greet(call)
                self._joined = True
                logger.info("worker %s has joined %s", settings.name, settings.server)
                with scratch_folder("impasto-worker-", settings.scratch) as folder:
                    await self._work(call, welcome, folder)
            except grpc.aio.AioRpcError as error:
                raise self._ended(error.code(), error.details() or "") from None
            finally:
                call.cancel()

    def _ended(self, code: grpc.StatusCode, details: str) -> Exception:
        server = self._settings.server
        if code in FINAL:
            return RefusedError(f"{server} refuses this worker: {details}")
        if code is grpc.StatusCode.OK:
            return LostError(f"{server} has ended the stream")
        return LostError(f"no connection to {server}: {details or code.name}")

    async def _greet(self, call: Any) -> pb.Welcome:
        settings = self._settings
        hello = pb.Hello(
            protocol=wire.PROTOCOL,
            version=settings.version,
            name=settings.name,
            host=settings.host,
            incarnation=str(uuid.uuid4()),
            device=settings.device,
        )
        try:
            async with asyncio.timeout(GREETING_S):
                await call.write(pb.JoinRequest(hello=hello))
                first = await call.read()
                if first is grpc.aio.EOF:
                    raise self._ended(await call.code(), await call.details())
        except TimeoutError:
            raise LostError(f"{settings.server} does not answer") from None
        except asyncio.InvalidStateError:  # the call ended before it was written
            raise self._ended(await call.code(), await call.details()) from None
        if first.WhichOneof("part") != "welcome":
            raise RefusedError(f"{settings.server} does not greet this worker")
        welcome: pb.Welcome = first.welcome
        return welcome

    async def _work(self, call: Any, welcome: pb.Welcome, folder: Path) -> None:
        settings = self._settings
        worker = self._make(
            WorkerSettings(
                settings.device,
                settings.weights,
                welcome.checkpoint_interval_s,
                settings.cuda_graphs,
                whole_checkpoints=True,
            )
        )
        with ThreadPoolExecutor(1, "encoding") as encoding:
            desk = Desk(worker, folder, encoding)
            tasks = {
                asyncio.create_task(work)
                for work in (self._read(call, desk), self._write(call, desk), self._listen(desk), self._leave(desk))
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                error = next(iter(done)).exception()
                if error is not None:
                    raise error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await desk.close()

    async def _read(self, call: Any, desk: Desk) -> None:
        while True:
            response = await call.read()
            if response is grpc.aio.EOF:
                raise self._ended(await call.code(), await call.details())
            desk.heard = time.monotonic()
            try:
                await desk.take(response)
            except wire.WireError as error:
                raise RefusedError(f"{self._settings.server} sent an invalid message: {error}") from None

    async def _write(self, call: Any, desk: Desk) -> None:
        async with contextlib.aclosing(desk.outbox.messages()) as messages:
            async for message in messages:
                try:
                    await call.write(message)
                except asyncio.InvalidStateError:  # the call has ended; the reader says how
                    await asyncio.sleep(wire.SILENCE_S)
                    raise LostError("the stream has ended") from None

    async def _listen(self, desk: Desk) -> None:
        """End the session when the server is silent for too long."""
        raise LostError(f"{self._settings.server} {await silence(desk)}")

    async def _leave(self, desk: Desk) -> None:
        """Wait until told to leave; then let the jobs leave, and end the session."""
        await self._leaving.wait()
        logger.info("leaving; jobs that continue elsewhere, or wait: %d", len(desk.jobs))
        desk.outbox.put(pb.JoinRequest(leaving=pb.Leaving()))
        deadline = time.monotonic() + LEAVING_S
        await asyncio.sleep(2 * desk.COLLECT_S)  # a job may be on its way here
        while (desk.jobs or desk.sending) and time.monotonic() < deadline:  # noqa: ASYNC110 - once in a process's life
            await asyncio.sleep(0.05)
        logger.info("worker %s has left", self._settings.name)
