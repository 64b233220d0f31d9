"""Reports what blocks the event loop or fails on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from impasto_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)

BLOCKED_S = 0.1
"""The loop must run at least this often; a longer gap is a fault of the server, or a lack of CPU time."""
BEAT_S = 0.02
TELL_AGAIN_S = 10.0
"""Minimum time between logged stacks; every block is counted."""


class Watchdog:
    """A thread that checks whether the loop runs, and logs its stack when it does not.

    Args:
        metrics: Counts the blocks.
        blocked_s: Longest time that one iteration of the loop may take.
    """

    def __init__(self, metrics: Metrics, blocked_s: float = BLOCKED_S) -> None:
        self._metrics = metrics
        self._blocked_s = blocked_s
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._last_beat = time.monotonic()
        self._logged = -TELL_AGAIN_S
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    async def beat(self) -> None:
        """Record forever that the loop runs."""
        self._thread.start()
        try:
            while True:
                self._last_beat = time.monotonic()
                await asyncio.sleep(BEAT_S)
        finally:
            self._stopped.set()

    def _watch(self) -> None:
        counted = 0.0
        while not self._stopped.wait(self._blocked_s / 2):
            beaten = self._last_beat
            late = time.monotonic() - beaten
            if late > self._blocked_s and beaten != counted:
                counted = beaten  # each iteration once, however long it takes
                self._metrics.blocked.inc()
                self._log_stack(sys._current_frames().get(self._thread_id), late)

    def _log_stack(self, frame: FrameType | None, late: float) -> None:
        now = time.monotonic()
        if frame is None or now - self._logged < TELL_AGAIN_S:
            return
        self._logged = now
        stack = traceback.extract_stack(frame, limit=12)
        own = next((entry for entry in reversed(stack) if "impasto" in entry.filename), stack[-1])
        text = (
            "the event loop was blocked for %.0f ms, by this server or by other programs on this machine; it was in %s (%s:%d)"
        )
        logger.warning(text, late * 1e3, own.name, Path(own.filename).name, own.lineno or 0)
        logger.debug("its stack:\n%s", "".join(stack.format()))


@contextlib.contextmanager
def counted_faults(metrics: Metrics) -> Iterator[None]:
    """Count and log unhandled exceptions of callbacks and tasks."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        metrics.faults.labels("unseen").inc()
        logger.error("unhandled exception on the event loop: %s", context.get("message", ""), exc_info=context.get("exception"))

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)
