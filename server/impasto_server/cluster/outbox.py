"""What one end of a stream has to send: urgent messages first, then files piece by piece, and heartbeats between."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Generic, TypeVar

from impasto.worker.v1 import worker_pb2 as pb
from impasto_server.cluster.wire import HEARTBEAT_S, PIECE_BYTES

M = TypeVar("M")
Source = Callable[[], AsyncIterator[M]]


class Outbox(Generic[M]):
    """Messages in the order in which they are sent.

    A command that follows a file of its own job must not overtake it; everything else does. Not thread-safe.

    Args:
        heartbeat: Returns the message to send when there is nothing else.
    """

    def __init__(self, heartbeat: Callable[[], M]) -> None:
        self._heartbeat = heartbeat
        self._urgent: deque[M] = deque()
        self._slow: deque[tuple[str, Source[M]]] = deque()
        self._pending: Counter[str] = Counter()
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, message: M, job_id: str = "") -> None:
        """Send a message as soon as possible, but after what was put for the same job before."""
        if job_id and self._pending[job_id]:
            self.put_slowly(job_id, lambda: _single(message))
            return
        self._urgent.append(message)
        self._filled.set()

    def put_slowly(self, job_id: str, source: Source[M]) -> None:
        """Send the messages of a source one by one, with urgent messages between them."""
        self._slow.append((job_id, source))
        self._pending[job_id] += 1
        self._filled.set()

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        self._filled.set()

    async def messages(self) -> AsyncGenerator[M, None]:
        """Yield messages until the outbox is closed."""
        job_id, current = "", None
        while not self._closed:
            if self._urgent:
                yield self._urgent.popleft()
                continue
            if current is None and self._slow:
                job_id, source = self._slow.popleft()
                current = source()
            if current is not None:
                message = await anext(current, None)
                if message is None:
                    current = None
                    self._pending[job_id] -= 1
                    if not self._pending[job_id]:
                        del self._pending[job_id]
                else:
                    yield message
                continue
            self._filled.clear()
            try:
                await asyncio.wait_for(self._filled.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield self._heartbeat()


async def _single(message: M) -> AsyncIterator[M]:
    yield message


async def pieces(kind: pb.FileKind, name: str, content: bytes | Path) -> AsyncIterator[pb.Piece]:
    """Yield a file in pieces, read on a thread; an empty file is one empty piece.

    The file may be replaced meanwhile: what was opened is sent.

    Raises:
        OSError: If it cannot be read.
    """
    if isinstance(content, bytes):
        for at in range(0, max(1, len(content)), PIECE_BYTES):
            data = content[at : at + PIECE_BYTES]
            yield pb.Piece(kind=kind, name=name, offset_bytes=at, size_bytes=len(content), data=data)
        return
    with content.open("rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at == 0 or at < size:
            data = await asyncio.to_thread(file.read, PIECE_BYTES)
            if not data and size:
                raise OSError(f"{content.name} became shorter while it was sent")
            yield pb.Piece(kind=kind, name=name, offset_bytes=at, size_bytes=size, data=data)
            at += max(1, len(data))
