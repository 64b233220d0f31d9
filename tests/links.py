"""A TCP relay on the loopback that behaves as links do: slow, with holes, and cut."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

BUFFER_BYTES = 65_536
"""What the relay holds for a direction, like a home router."""
PIECE_BYTES = 4096


class Link:
    """A relay to a server. Use it as a context manager; its connections end with it.

    Args:
        server: HOST:PORT of the server.
        bytes_per_s: Rate in each direction; 0 for no limit.
        hole_s: Longest silence of a connection, once, at a random byte.
        cuts: Number of connections that are cut at a random byte; later ones are left alone.
        cut_within: Fewest and most bytes that such a connection carries.
        seed: Seed of the instants.
        mute: Whether a connection carries only the first piece of what the server sends, as long as this attribute is set.
    """

    def __init__(
        self,
        server: str,
        *,
        bytes_per_s: float = 0,
        hole_s: float = 0,
        cuts: int = 0,
        cut_within: tuple[int, int] = (0, 20_000),
        seed: int = 0,
        mute: bool = False,
    ) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._rate, self._hole_s = bytes_per_s, hole_s
        self._cuts, self._cut_within = cuts, cut_within
        self.mute = mute
        self._draw = random.Random(seed)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        self.sever()

    def sever(self) -> None:
        """End all connections; new ones are accepted."""
        with self._lock:
            still = list(self._open)
        for end in still:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            _Connection(self, client, server).start()

    def _forget(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(ends)
        for end in ends:
            end.close()


class _Connection:
    """The two directions of one connection."""

    def __init__(self, link: Link, client: socket.socket, server: socket.socket) -> None:
        self._link = link
        self._ends = (client, server)
        draw = link._draw
        with link._lock:
            link._open.update(self._ends)
            self._limit = draw.randrange(*link._cut_within) if link._cuts > 0 else None
            self._hole = (draw.randrange(20_000), draw.uniform(0, link._hole_s)) if link._hole_s else None
            self._abrupt = draw.random() < 0.5
            link._cuts -= link._cuts > 0
        self._bytes = 0
        self._running = 2
        self._how = socket.SHUT_RDWR
        self._was_cut = False
        self._greeted = False

    def start(self) -> None:
        for source, sink in (self._ends, self._ends[::-1]):
            source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := self._receive(source):
                self._bytes += len(data)
                if self._link._rate:
                    time.sleep(len(data) / self._link._rate)
                if self._hole and self._bytes > self._hole[0]:
                    seconds, self._hole = self._hole[1], None
                    time.sleep(seconds)
                if self._limit is not None and self._bytes > self._limit:
                    self._cut(sink, data)
                    break
                sink.sendall(data)
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(self._how)
        with self._link._lock:
            self._running -= 1
            last = self._running == 0
        if last:
            self._link._forget(*self._ends)

    def _receive(self, source: socket.socket) -> bytes:
        if source is self._ends[1]:  # the server's end
            while self._link.mute and self._greeted:
                time.sleep(0.01)
            self._greeted = True
        return source.recv(PIECE_BYTES)

    def _cut(self, sink: socket.socket, data: bytes) -> None:
        """Let part of the data through, then end the connection, half of the time by a reset."""
        with self._link._lock:
            self._link.cut += not self._was_cut
            self._was_cut = True
        sink.sendall(data[: len(data) // 2])
        if self._abrupt:
            self._how = socket.SHUT_RD  # sends nothing; closing then resets the connection
            for end in self._ends:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
