"""Opens pictures in processes of their own: files from strangers, whose decoding may take minutes, gigabytes, or a crash.

A decoder opens one request's pictures at a time. It is killed when it takes too much processor time or when nobody waits for it
any more, and a new one takes its place. Nothing else runs there, and the server's own threads never decode.
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
import signal
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

logger = logging.getLogger(__name__)

DECODERS = 2
CPU_S = 8.0
"""Processor time that one picture may take: the largest allowed takes two or three seconds."""
WALL_S = 120.0
"""Time that a whole request may take, on a machine that has little to give."""
MEMORY_BYTES = 3 << 30
"""Address space that a decoder may have beyond what it starts with."""
LEFT_CPU_S = 0.25
"""Processor time that a picture may still take once nobody waits for it: less than a new decoder's start takes."""
LEFT_WALL_S = 3.0
LOOK_S = 0.1
"""How often a decoder at work is looked at."""
_START = "from impasto_server.pictures.decoders import serve; import sys; serve(int(sys.argv[1]), sys.argv[2])"


class _GoneError(Exception):
    """A decoder died before it began."""


@dataclass
class _Decoder:
    """One process, seen from the server."""

    process: subprocess.Popen[bytes]
    connection: Connection
    killed: bool = False

    @classmethod
    def start(cls, preload: str) -> _Decoder:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", _START, str(theirs.fileno()), preload]
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
        """Let it do its work; blocks.

        Raises:
            ServiceError: What the function raises; or INVALID_ARGUMENT that names the picture over which it was killed or died.
        """
        field, begun = "request", False
        try:
            self.connection.send((work.function, work.arguments))
            began, spent = time.monotonic(), self._cpu_s()
            while True:
                while not self.connection.poll(LOOK_S):
                    cpu_s, wall_s = (LEFT_CPU_S, LEFT_WALL_S) if work.left else (CPU_S, WALL_S)
                    if self._cpu_s() - spent > cpu_s or time.monotonic() - began > wall_s:
                        self.kill()
                        raise invalid((field, f"takes more than {CPU_S:.0f} s to decode; save it again with another program"))
                kind, value = self.connection.recv()
                begun = True
                if kind == "at":
                    field, spent = value, self._cpu_s()
                elif kind == "invalid":
                    raise invalid(*value)
                elif kind == "failed":
                    logger.error("a picture could not be decoded, by a fault of the server's or Pillow's:\n%s", value)
                    raise invalid((field, "cannot be decoded"))
                else:
                    return value
        except (EOFError, OSError):
            self.killed = True
            if not begun:
                raise _GoneError from None
            raise invalid((field, "cannot be decoded: the process that tried it died")) from None

    def _cpu_s(self) -> float:
        try:
            with open(f"/proc/{self.process.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0.0  # no Linux, or it is gone: the wall clock bounds it
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class _Work:
    """What a decoder is to do."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    decoder: _Decoder | None
    preload: str
    left: bool = False
    """Nobody waits for it any more."""

    def do(self) -> Any:
        """Let a decoder do it; starts one if there is none. Blocks."""
        if self.decoder is not None:
            try:
                return self.decoder.call(self)
            except _GoneError:  # it died while it was idle, which is nobody's picture's fault
                self.decoder.close()
        self.decoder = _Decoder.start(self.preload)
        try:
            return self.decoder.call(self)
        except _GoneError:
            raise invalid(("request", "cannot be decoded: the process that tried it died")) from None


_idle: list[_Decoder] = []
"""Decoders that wait for the next server of this process, so that tests need not start theirs."""


@atexit.register
def _stop() -> None:
    while _idle:
        _idle.pop().close()


class Decoders:
    """The decoders of one server. Start and close it on the event loop.

    Args:
        count: How many work at a time.
        preload: Module that a decoder imports when it starts, so that the first request does not wait for that.
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
        """Wait for an owner's turn: one request of each is taken in at a time, so that no owner's keep the others' waiting.

        Args:
            owner: Who asks; where owners are not told apart, as many at a time as there are decoders.
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
        """Let a decoder do something and return what it returns. Who leaves takes the decoder's work with him.

        Args:
            function: Importable; its last argument is called with the field that is worked on.
            *arguments: That can be pickled.

        Raises:
            ServiceError: What the function raises; or INVALID_ARGUMENT for a picture that takes too much.
        """
        await self._places.acquire()
        work = _Work(function, arguments, self._take(), self._preload)
        doing = asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)
        doing.add_done_callback(lambda _: self._places.release())
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            work.left = True
            raise

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
        """Let the decoders go."""
        self._closed = True
        _idle.extend(self._free)
        self._free.clear()
        self._threads.shutdown(wait=False)


# What follows runs in the decoder.


def serve(descriptor: int, preload: str) -> None:
    """Do what is asked over a connection until it closes. The entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
        return "invalid", (("request", "a picture of it needs too much memory to decode"),)
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
    """Keep other decoders of this user from opening a large picture too; released by the system if this one is killed."""
    path = os.path.join(tempfile.gettempdir(), f"impasto-decoding-{os.getuid()}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
