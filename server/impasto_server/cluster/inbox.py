"""Files that arrive in pieces."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO

from impasto.worker.v1 import worker_pb2 as pb
from impasto_server.cluster.wire import WireError


class Inbox:
    """Assembles files.

    Args:
        folder: Where unfinished files are kept; it belongs to one stream.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[tuple[int, str], tuple[BinaryIO, int]] = {}
        self._finished = 0

    async def take(self, piece: pb.Piece) -> Path | None:
        """Add a piece; return the file when it is complete. The caller moves it away.

        Raises:
            WireError: If the piece is not the next one.
            OSError: If it cannot be written; the rest of the file is ignored.
        """
        key = (piece.kind, piece.name)
        path = self._folder / f"{pb.FileKind.Name(piece.kind)}-{piece.name}"
        if "/" in piece.name or piece.name.startswith("."):
            raise WireError(f"{piece.name!r} is not a valid file name")
        if piece.offset_bytes == 0:
            self._drop(key)
            self._open[key] = (path.open("wb"), 0)
        file, at = self._open.get(key, (None, 0))
        if file is None:
            return None  # its beginning could not be written
        if piece.offset_bytes != at or at + len(piece.data) > piece.size_bytes:
            self._drop(key)
            raise WireError(f"{piece.name}: the piece at {piece.offset_bytes} does not follow {at}")
        try:
            await asyncio.to_thread(file.write, piece.data)
        except OSError:
            self._drop(key)
            raise
        at += len(piece.data)
        self._open[key] = (file, at)
        if at < piece.size_bytes:
            return None
        self._drop(key)
        # The next file of this name may begin to arrive while this one is still being checked and moved.
        self._finished += 1
        return path.replace(path.with_name(f"{self._finished}.{path.name}"))

    def _drop(self, key: tuple[int, str]) -> None:
        file, _ = self._open.pop(key, (None, 0))
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close unfinished files."""
        for key in list(self._open):
            self._drop(key)
