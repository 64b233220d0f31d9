"""Decodes pictures in separate processes: the files are untrusted, and decoding may take minutes or gigabytes, or crash.

A decoder opens one request's pictures at a time. It is killed when it takes too much CPU time or when no caller waits for it
any more, and a new one replaces it. Nothing else runs there, and the server's own threads never decode.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import importlib
import logging
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from impasto_server.domain.errors import ServiceError, invalid
from impasto_server.stops import ignore_stops, shielded

logger = logging.getLogger(__name__)

DECODERS = 2
CPU_S = 8.0
"""CPU time that one picture may take: the largest allowed picture takes two or three seconds."""
WALL_S = 120.0
"""Wall clock time that a whole request may take, on a loaded machine."""
MEMORY_BYTES = 3 << 30
"""Address space that a decoder may use beyond its size at start."""
LEFT_CPU_S = 0.25
"""CPU time that a picture may still take once no caller waits for it: less than the start of a new decoder takes."""
LEFT_WALL_S = 3.0
LOOK_S = 0.1
"""How often a working decoder is checked."""
_START = "from impasto_server.pictures.decoders import serve; import sys; serve(int(sys.argv[1]), sys.argv[2])"


class _GoneError(Exception):
    """A decoder died before it started the work."""


@dataclass
class _Decoder:
    """One decoder process, as the server sees it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    killed: bool = False

    @classmethod
    def start(cls, preload: str) -> _Decoder:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", _START, str(theirs.fileno()), preload]
            with shielded():
                process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603
        return cls(process, Connection(ours.detach()))

    @property
    def lives(self) -> bool:
        return not self.killed and self.process.poll() is None

    def kill(self) -> None:
        self.killed = True
        self.process.kill()

    def close(self) -> None:
        self.kill()
        self.process.wait()
        self.connection.close()

    def call(self, work: _Work) -> Any:
        """Let it do the work; blocks.

        Raises:
            ServiceError: The function's error; or INVALID_ARGUMENT with the picture at which it was killed or died.
        """
        field, begun = "request", False
        try:
            self.connection.send((work.function, work.arguments))
            began, spent = time.monotonic(), self._cpu_s()
            while True:
                while not self.connection.poll(LOOK_S):
                    cpu_s, wall_s = (LEFT_CPU_S, LEFT_WALL_S) if work.left else (CPU_S, WALL_S)
                    # Before its first message a new process imports its modules, which is not the picture's fault.
                    if (begun and self._cpu_s() - spent > cpu_s) or time.monotonic() - began > wall_s:
                        self.kill()
                        raise invalid((field, f"takes more than {CPU_S:.0f} s to decode; save it again with another program"))
                kind, value = self.connection.recv()
                begun = True
                if kind == "at":
                    field, spent = value, self._cpu_s()
                elif kind == "invalid":
                    raise invalid(*value)
                elif kind == "failed":
                    logger.error("a picture could not be decoded, because of a fault in the server or in Pillow:\n%s", value)
                    raise invalid((field, "cannot be decoded"))
                else:
                    return value
        except (EOFError, OSError):
            self.killed = True
            if not begun:
                raise _GoneError from None
            raise invalid((field, "cannot be decoded: the decoder process died")) from None

    def _cpu_s(self) -> float:
        try:
            with open(f"/proc/{self.process.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0.0  # not Linux, or the process is gone: the wall clock limits it
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class _Work:
    """Work for a decoder."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    decoder: _Decoder | None
    preload: str
    left: bool = False
    """No caller waits for it any more."""

    def do(self) -> Any:
        """Let a decoder do it; start one if there is none. Blocks."""
        if self.decoder is not None:
            try:
                return self.decoder.call(self)
            except _GoneError:  # it died while it was idle: no picture is the cause
                self.decoder.close()
        self.decoder = _Decoder.start(self.preload)
        try:
            return self.decoder.call(self)
        except _GoneError:
            raise invalid(("request", "cannot be decoded: the decoder process died")) from None


_idle: list[_Decoder] = []
"""Decoders kept for the next server of this process, so that tests need not start their own."""


@atexit.register
def _stop() -> None:
    while _idle:
        _idle.pop().close()


class Decoders:
    """The decoders of one server. Start and close it on the event loop.

    Args:
        count: Number of decoders.
        preload: Module that a decoder imports at its start, so that the first request does not wait for it.
    """

    def __init__(self, count: int = DECODERS, preload: str = "") -> None:
        self._count = count
        self._preload = preload
        self._places = asyncio.Semaphore(count)
        self._turns: dict[str, tuple[asyncio.Semaphore, int]] = {}
        self._threads = ThreadPoolExecutor(count, "decoding")
        self._free: list[_Decoder] = []
        self._closed = False

    @contextlib.asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for an owner's turn: one request per owner is decoded at a time, so that no owner delays the others.

        Args:
            owner: The caller; anonymous callers have as many turns as there are decoders.
        """
        turns, users = self._turns.get(owner, (asyncio.Semaphore(1 if owner else self._count), 0))
        self._turns[owner] = turns, users + 1
        try:
            async with turns:
                yield
        finally:
            turns, users = self._turns.pop(owner)
            if users > 1:
                self._turns[owner] = turns, users - 1

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a decoder and return its result. If the caller leaves, the decoder soon stops the work.

        Args:
            function: Importable; its last argument is called with the field that is being decoded.
            *arguments: Picklable arguments.

        Raises:
            ServiceError: The function's error; or INVALID_ARGUMENT for a picture that takes too much time or memory.
        """
        await self._places.acquire()
        work = _Work(function, arguments, self._take(), self._preload)
        doing = asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)
        doing.add_done_callback(self._done)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            work.left = True
            raise

    def _done(self, doing: asyncio.Future[Any]) -> None:
        self._places.release()
        if not doing.cancelled():
            doing.exception()  # if its caller has left, nobody else retrieves it

    def _do(self, work: _Work) -> Any:
        try:
            return work.do()
        finally:  # in the thread: the event loop may be gone before the work is done
            self._give_back(work)

    def _give_back(self, work: _Work) -> None:
        if work.decoder is None:
            return
        if not work.decoder.lives:
            work.decoder.close()
        elif self._closed:
            _idle.append(work.decoder)
        else:
            self._free.append(work.decoder)

    def _take(self) -> _Decoder | None:
        for place in (self._free, _idle):
            while place:
                decoder = place.pop()
                if decoder.lives:
                    return decoder
        return None

    def close(self) -> None:
        """Release the decoders."""
        self._closed = True
        _idle.extend(self._free)
        self._free.clear()
        self._threads.shutdown(wait=False)


# The code below runs in the decoder process.


def serve(descriptor: int, preload: str) -> None:
    """Run the requested functions until the connection closes. The entry point of the process."""
    ignore_stops()
    _bound_memory()
    if preload:
        importlib.import_module(preload)
    connection = Connection(descriptor)
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_answer(connection, function, arguments))


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", function(*arguments, lambda field: connection.send(("at", field)))
    except ServiceError as error:
        return "invalid", error.violations
    except MemoryError:
        return "invalid", (("request", "one of its pictures needs too much memory to decode"),)
    except Exception:
        import traceback  # noqa: PLC0415

        return "failed", traceback.format_exc()


def _bound_memory() -> None:
    try:
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep other decoders of this user from opening a large picture; the system releases the lock if this one is killed."""
    path = os.path.join(tempfile.gettempdir(), f"impasto-decoding-{os.getuid()}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
