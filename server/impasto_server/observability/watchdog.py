"""Sees to it that nothing holds the event loop up, or fails on it, without being told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from impasto_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)

BLOCKED_S = 0.1
"""The loop must turn at least this often; longer is a fault of the server's, or a machine without time for it."""
BEAT_S = 0.02
TELL_AGAIN_S = 10.0
"""A stack is logged no more often than this; every time is counted."""


class Watchdog:
    """A thread that looks whether the loop turns, and logs where it stands when it does not.

    Args:
        metrics: Where the times are counted.
        blocked_s: How long the loop may take for a turn.
    """

    def __init__(self, metrics: Metrics, blocked_s: float = BLOCKED_S) -> None:
        self._metrics = metrics
        self._blocked_s = blocked_s
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._beaten = time.monotonic()
        self._told = -TELL_AGAIN_S
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    async def beat(self) -> None:
        """Tell that the loop turns, for ever."""
        self._thread.start()
        try:
            while True:
                self._beaten = time.monotonic()
                await asyncio.sleep(BEAT_S)
        finally:
            self._stopped.set()

    def _watch(self) -> None:
        counted = 0.0
        while not self._stopped.wait(self._blocked_s / 2):
            beaten = self._beaten
            late = time.monotonic() - beaten
            if late > self._blocked_s and beaten != counted:
                counted = beaten  # each turn once, however long it takes
                self._metrics.blocked.inc()
                self._tell(sys._current_frames().get(self._thread_id), late)

    def _tell(self, frame: FrameType | None, late: float) -> None:
        now = time.monotonic()
        if frame is None or now - self._told < TELL_AGAIN_S:
            return
        self._told = now
        stack = "".join(traceback.format_stack(frame, limit=12))
        logger.warning("the event loop has been held up for %.0f ms, here:\n%s", late * 1e3, stack)


@contextlib.contextmanager
def counted_faults(metrics: Metrics) -> Iterator[None]:
    """Count and log the exceptions that nobody awaits: of callbacks and of tasks."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        metrics.faults.labels("unseen").inc()
        logger.error("an exception on the event loop: %s", context.get("message", ""), exc_info=context.get("exception"))

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)
