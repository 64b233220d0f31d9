"""Runs one worker so that nothing of it outlives whoever started it.

A program of its own: ``python -I -S guard.py GRACE_S COMMAND...``, with a pipe as standard input. The worker gets its own
process group. The group ends (SIGTERM, then SIGKILL after the grace time) when the pipe closes, as it does when the starter is
killed; when the guard gets SIGTERM; and when the worker itself exits. Exits with the worker's status, or 128 + N if signal N
ended it.

The guard is two processes: Ray kills the children of an actor's process when that is killed, so the child only waits for the
one that does the work, which is not an actor's child and lives on until all is ended. If that one is killed, the kernel kills
the worker (Linux). Only the standard library is imported, without site-packages: a guard starts in 30 ms. It has one thread,
which is what PR_SET_PDEATHSIG and code between fork and exec need; the starter may have many.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_PR_SET_PDEATHSIG = 1


def guarded(command: Sequence[str], grace_s: float = GRACE_S) -> list[str]:
    """Return the command line that runs a command under a guard. Start it with a pipe as standard input."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(grace_s), *command]


def cause_of(status: int) -> str:
    """Return what a guard's exit status says about its worker."""
    signal_number = -status if status < 0 else status - 128
    return f"killed by signal {signal_number}" if signal_number > 0 else f"exited with status {status}"


def main(grace_s: float, command: Sequence[str]) -> int:
    """Run the command; see above."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    asked: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: asked.append(number))
    try:
        worker = _start(command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while worker.poll() is None and not asked:
        ready, _, _ = select.select([sys.stdin.fileno(), reader], [], [])
        if reader in ready:
            os.read(reader, 4096)
        if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 4096):
            break
    return _end(worker, grace_s)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    guard = os.getpid()

    def die_with_guard() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the call
            os._exit(1)

    return subprocess.Popen(  # noqa: S603
        list(command),
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=die_with_guard,  # noqa: PLW1509 - one thread
    )


def _end(worker: subprocess.Popen[bytes], grace_s: float) -> int:
    deadline = time.monotonic() + grace_s
    if worker.poll() is None:
        _signal_group(worker.pid, signal.SIGTERM)
        _signal_group(worker.pid, signal.SIGCONT)
    while worker.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    _signal_group(worker.pid, signal.SIGKILL)
    status = worker.wait()
    return 128 - status if status < 0 else status


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _wait(inner: int) -> int:
    """Pass signals on to the process that does the work, and return its status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(inner, number))
    _, status = os.waitpid(inner, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    process = os.fork()
    if process:
        raise SystemExit(_wait(process))
    os.setsid()
    raise SystemExit(main(float(sys.argv[1]), sys.argv[2:]))
