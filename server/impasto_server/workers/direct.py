"""Writes a file past the system's page cache, where the file system can do that. Does not import torch.

A checkpoint is read after a crash only, and memory for its pages costs more time than writing it (docs/lab/performance.md).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

ALIGNMENT = 4096
"""Positions and sizes of what is written are multiples of this, and so is the address of the memory."""
_STAGE_BYTES = 1 << 20
_DIRECT = getattr(os, "O_DIRECT", 0)
_sync = getattr(os, "fdatasync", os.fsync)


def aligned(size: int) -> int:
    """Return the space that something of this size takes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class DirectFile:
    """A file that is open for writing.

    Args:
        path: The file.
        make: Whether to make it if it does not exist.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path, *, make: bool) -> None:
        flags = os.O_WRONLY | (os.O_CREAT if make else 0)
        try:
            self._descriptor = os.open(path, flags | _DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._descriptor = os.open(path, flags, 0o666)
        self._stage = memoryview(mmap.mmap(-1, _STAGE_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def write(self, data: memoryview, at: int, seen: Callable[[memoryview], object]) -> None:
        """Write bytes at a position, with zeros up to the next multiple of the alignment.

        Args:
            data: The bytes.
            at: The position, a multiple of the alignment.
            seen: Called with each part of the bytes.

        Raises:
            OSError: If they cannot be written.
        """
        for start in range(0, len(data), _STAGE_BYTES):
            part = data[start : start + _STAGE_BYTES]
            size, space = len(part), aligned(len(part))
            self._stage[:size] = part
            self._stage[size:space] = bytes(space - size)
            seen(self._stage[:size])
            self._write(self._stage[:space], at + start)

    def sync(self) -> None:
        """Wait until everything is on disk.

        Raises:
            OSError: If that fails.
        """
        _sync(self._descriptor)

    def _write(self, data: memoryview, at: int) -> None:
        while data:
            try:
                written = os.pwrite(self._descriptor, data, at)
            except OSError as error:
                flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & _DIRECT:
                    raise
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_DIRECT)  # its disk needs something else
                continue
            data, at = data[written:], at + written
