"""Accepts workers from other machines: checks who they are, adds them to the pool, and notices when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import grpc

from impasto.worker.v1 import worker_pb2 as pb
from impasto_server.auth.tokens import Tokens
from impasto_server.cluster import wire
from impasto_server.cluster.remote import RemoteWorker
from impasto_server.cluster.silence import silence
from impasto_server.domain.errors import ServiceError
from impasto_server.observability.metrics import Metrics
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
"""Valid names of workers, hosts and devices."""
GREETING_S = 10.0
"""Time that a new stream has for its greeting."""


class RefusedError(Exception):
    """A worker that cannot join.

    Attributes:
        code: Status code of the answer.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class WorkerHub:
    """Serves the workers' streams.

    Args:
        pool: Workers join it and leave it.
        tokens: Accepted tokens; None accepts any caller.
        version: This server's version; workers must have the same.
        checkpoint_interval_s: Passed to the workers.
        metrics: The metrics.
        folder: Parent of the folders for files that arrive, on the file system of the checkpoints.
        clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        pool: WorkerPool,
        tokens: Tokens | None,
        version: str,
        checkpoint_interval_s: float,
        metrics: Metrics,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._tokens, self._version = pool, tokens, version
        self._interval_s, self._metrics, self._folder, self._clock = checkpoint_interval_s, metrics, folder, clock
        self._workers: dict[str, RemoteWorker] = {}
        self._streams: set[asyncio.Task[Any]] = set()

    async def Join(self, request_iterator: AsyncIterator[pb.JoinRequest], context: Any) -> None:
        """See the contract."""
        del request_iterator  # read from the context, which holds one message at a time
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._streams.add(task)
        try:
            hello = await self._greet(context)
            await self._serve(hello, context)
        except RefusedError as error:
            logger.warning("a worker from %s was refused: %s", context.peer(), error)
            await context.abort(error.code, str(error))
        finally:
            self._streams.discard(task)

    async def close(self) -> None:
        """End all streams, once the pool stops; their workers are not lost, but join the next server."""
        for task in list(self._streams):
            task.cancel()
        if self._streams:
            await asyncio.wait(list(self._streams), timeout=wire.SILENCE_S)

    async def _greet(self, context: Any) -> pb.Hello:
        """Return a worker's greeting once it is accepted.

        Raises:
            RefusedError: If it is not.
        """
        if self._tokens is not None:
            found = dict(context.invocation_metadata() or ()).get("authorization")
            try:
                self._tokens.principal(found if isinstance(found, str) else None)
            except ServiceError as error:
                raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, f"the worker's token is not accepted: {error}") from None
        try:
            first = await asyncio.wait_for(context.read(), GREETING_S)
        except TimeoutError:
            first = grpc.aio.EOF
        if first is grpc.aio.EOF or first.WhichOneof("part") != "hello":
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "the stream does not begin with a greeting")
        hello: pb.Hello = first.hello
        ours = f"protocol {wire.PROTOCOL}, impasto {self._version}"
        theirs = f"protocol {hello.protocol}, impasto {hello.version}"
        if ours != theirs:
            text = f"the versions differ: the server has {ours}, the worker has {theirs}; install the same on both"
            raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, text)
        for field in ("name", "host", "device", "incarnation"):
            if not NAME.fullmatch(getattr(hello, field)):
                text = f"{field}: must be 1 to 128 letters, digits, and . _ : @ -, got {getattr(hello, field)!r}"
                raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, text)
        known = self._workers.get(hello.name)
        # The same worker may come back before its loss is noticed; one that was heard just now is another process.
        if known is not None and (known.host != hello.host or self._clock() - known.heard < 2 * wire.HEARTBEAT_S):
            text = f"name: a worker called {hello.name} has joined from host {known.host}; choose another with --name"
            raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, text)
        if known is None and self._pool.has(hello.name):
            raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"name: the server has a worker of its own called {hello.name}")
        return hello

    async def _serve(self, hello: pb.Hello, context: Any) -> None:
        with tempfile.TemporaryDirectory(prefix=".arriving-", dir=self._folder, ignore_cleanup_errors=True) as folder:
            before = self._workers.get(hello.name)
            if before is not None:
                self._metrics.fenced.inc()
                self._lose(before, "a newer incarnation of it has joined")
            worker = RemoteWorker(hello, Path(folder), self._count_bytes)
            self._workers[worker.name] = worker
            welcome = pb.Welcome(version=self._version, checkpoint_interval_s=self._interval_s)
            cause = "its stream was closed"
            try:
                await context.write(pb.JoinResponse(welcome=welcome))
                logger.info("worker %s has joined from host %s", worker.name, worker.host, extra={"device": worker.name})
                self._pool.join(worker)
                cause = await self._until_lost(worker, context)
            except asyncio.CancelledError:
                if self._workers.get(worker.name) is not worker:
                    return  # replaced by a newer incarnation
                cause = "its connection was lost"
                raise
            finally:
                self._lose(worker, cause)
                worker.close()
            refused = worker.refused
            if refused:
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, refused)

    def _lose(self, worker: RemoteWorker, cause: str) -> None:
        """Remove a worker from the pool; nothing that it still sends is passed on."""
        worker.fence()
        if self._workers.get(worker.name) is worker:
            del self._workers[worker.name]
            if worker.leaving:
                cause = "it was told to end"
            elif worker.refused:
                cause = "it was refused"
            elif self._pool.stopping:  # which ends the streams before they are closed here
                cause = "the server stops"
            else:
                self._metrics.lost_workers.labels(worker.host).inc()
            self._pool.leave(worker.name, cause, orderly=worker.leaving)

    async def _until_lost(self, worker: RemoteWorker, context: Any) -> str:
        """Serve a stream to its end; return why it ended."""
        tasks = {
            asyncio.create_task(self._read(worker, context)),
            asyncio.create_task(self._write(worker, context)),
            asyncio.create_task(self._listen(worker)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, worker: RemoteWorker, context: Any) -> str:
        while True:
            request = await context.read()
            if request is grpc.aio.EOF:
                return "it has ended its stream"
            if request.WhichOneof("part") == "leaving":
                worker.leaving = True
                self._pool.drain(worker.name)
                continue
            try:
                await worker.take(request)
            except wire.WireError as error:
                return f"it sent an invalid message: {error}"

    async def _write(self, worker: RemoteWorker, context: Any) -> str:
        async with contextlib.aclosing(worker.outbox.messages()) as messages:
            async for message in messages:
                await context.write(message)
        return "the server ended its stream"

    async def _listen(self, worker: RemoteWorker) -> str:
        cause = f"it {await silence(worker, self._clock)}"
        self._metrics.fenced.inc()
        return cause

    def _count_bytes(self, direction: str, size: int) -> None:
        self._metrics.stream_bytes.labels(direction).inc(size)
