"""Signals that stop a program reach all processes of its terminal, while only the server decides when its own end.

Ctrl-C, a closed terminal and some service managers signal the whole process group. A child that has not started yet would end,
so it inherits the signals as blocked, and ignores them once it runs.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Start child processes that these signals do not end; they arrive in this process after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stops() -> None:
    """Ignore the signals, in a child process."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
