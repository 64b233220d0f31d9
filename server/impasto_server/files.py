"""Atomic writes of files, and detection of changes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LOOK_AGAIN_S = 1.0
"""Minimum time between checks of watched files."""


@contextmanager
def written_whole(
    path: Path, *, sync: bool = True, partial: Path | None = None, before_rename: Callable[[], None] = lambda: None
) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete; on an error, nothing of it remains.

    Args:
        path: The name. An existing file is replaced.
        sync: Whether the file is synced to disk first, and its folder afterwards.
        partial: Its temporary name, in the same folder; by default one that no other thread uses.
        before_rename: Called when the file is complete, before it gets its name.

    Raises:
        OSError: If the file cannot be written.
    """
    partial = partial or path.with_name(f"{path.name}.{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        before_rename()
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync the entries of a folder to disk.

    Raises:
        OSError: If that fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileWatch:
    """Detects changes of files. Not thread-safe.

    Args:
        paths: The files.
        clock: Returns monotonic seconds.
    """

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._checked = clock()
        self._stamps = self._stamp()

    def changed(self) -> bool:
        """Whether a file has changed since this last returned True; checks at most once a second."""
        now = self._clock()
        if now - self._checked < LOOK_AGAIN_S:
            return False
        self._checked = now
        stamps = self._stamp()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        return True

    def _stamp(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(map(_stamp_of, self._paths))


def _stamp_of(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
