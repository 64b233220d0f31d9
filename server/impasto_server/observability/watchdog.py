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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)

BLOCKED_S = 0.1
"""The loop must run at least this often; a longer gap is a fault of the server, or a lack of CPU time."""
BEAT_S = 0.02
TELL_AGAIN_S = 10.0
"""Minimum time between logged stacks; every block is counted."""
LASTING_S = 1.0
"""A block is logged when it ends, or after this time."""


@dataclass(frozen=True)
class _Block:
    """A turn of the loop that takes too long.

    Attributes:
        began: When it began, by the monotonic clock.
        stack: Where the loop was.
        waited_s: How long its thread had waited for a processor before.
    """

    began: float
    stack: traceback.StackSummary
    waited_s: float


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
        self._thread_id, self._task_id = threading.get_ident(), threading.get_native_id()
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
        block: _Block | None = None
        waited_s = self._waited_s()
        while not self._stopped.wait(self._blocked_s / 2):
            beaten, now = self._last_beat, time.monotonic()
            if block is not None and (beaten != block.began or now - block.began > LASTING_S):
                self._tell(block, (now if beaten == block.began else beaten) - block.began)
                block = None
            if now - beaten <= self._blocked_s:
                waited_s = self._waited_s()
            elif beaten != counted:
                counted = beaten  # each turn once, however long it takes
                self._metrics.blocked.inc()
                frame = sys._current_frames().get(self._thread_id)
                block = _Block(beaten, traceback.extract_stack(frame, limit=12), waited_s) if frame else None

    def _waited_s(self) -> float:
        """Return how long the loop's thread has waited for a processor so far; 0 where the system does not say it."""
        try:
            waited_ns = Path(f"/proc/self/task/{self._task_id}/schedstat").read_text().split()[1]
        except (OSError, IndexError):
            return 0.0
        return int(waited_ns) / 1e9

    def _tell(self, block: _Block, lasted_s: float) -> None:
        """Log a block; with a level for developers if a processor was what the loop lacked."""
        waited_s = self._waited_s() - block.waited_s
        if waited_s > lasted_s / 2:
            logger.debug("the event loop waited %.0f of %.0f ms for a processor", waited_s * 1e3, lasted_s * 1e3)
            return
        if block.began - self._logged < TELL_AGAIN_S:
            return
        self._logged = block.began
        own = next((entry for entry in reversed(block.stack) if "impasto" in entry.filename), block.stack[-1])
        text = "the event loop was blocked for %.0f ms; it was in %s (%s:%d)"
        logger.warning(text, lasted_s * 1e3, own.name, Path(own.filename).name, own.lineno or 0)
        logger.debug("its stack:\n%s", "".join(block.stack.format()))


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
