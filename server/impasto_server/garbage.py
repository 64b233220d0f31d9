"""Short pauses for Python's garbage collector.

A full collection visits every object that lives, and stops the event loop meanwhile: 80 ms with 4,000 jobs. What survived one
is frozen here, so that the next visits only what was made since. Garbage in cycles of frozen objects, as ended calls leave it,
is freed by a whole collection when the server is idle, or after a quarter of an hour if it never is. Python 3.14 collects in
small steps by itself and makes no full collection unless asked.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

IDLE_S = 60.0
"""Least seconds from one whole collection to the next while the server is idle."""
BUSY_S = 900.0
"""The same while jobs run or wait."""


class ShortCollections:
    """Keeps full collections short until the end of the block, for the whole process.

    Attributes:
        freezes: Number of full collections since the last whole one, each of which froze what it left.
    """

    def __init__(self) -> None:
        self.freezes = 0

    def __enter__(self) -> Self:
        gc.freeze()
        gc.callbacks.append(self._freeze)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        gc.callbacks.remove(self._freeze)
        gc.unfreeze()

    def _freeze(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            gc.freeze()
            self.freezes += 1

    def collect_whole(self) -> int:
        """Visit frozen objects too, and return the number of objects that were garbage."""
        gc.unfreeze()
        found = gc.collect()
        self.freezes = 0
        return found


async def collect(idle: Callable[[], bool], *, look_s: float = 5.0) -> None:
    """Keep collections short until cancelled, and collect whole when the server is idle or it is time.

    Args:
        idle: Whether no job runs or waits.
        look_s: Seconds between two looks.
    """
    newest = time.monotonic()
    with ShortCollections() as collections:
        while True:
            await asyncio.sleep(look_s)
            if collections.freezes and time.monotonic() - newest >= (IDLE_S if idle() else BUSY_S):
                collections.collect_whole()
                newest = time.monotonic()
