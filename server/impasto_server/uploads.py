"""Files that clients send once and name in many jobs, by the SHA-256 of their bytes. What broke off can be gone on with.

A file grows under its id with the ending ``.partial`` and gets its name when it is whole and its hash is right; its time of
last use is its time stamp on the disk. Everything here blocks; call it on a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from impasto_server.jobs import ServiceError, invalid

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
_ID = re.compile(r"[0-9a-f]{64}")


class Uploads:
    """Files by their owner: nobody can name another's, whoever knows its hash. Arguments as for :class:`Folder`."""

    def __init__(self, folder: Path, retention_s: float, max_file_bytes: int, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._root = folder
        self._limits = (retention_s, max_file_bytes, max_bytes)
        self._folders: dict[str, Folder] = {}

    def of(self, owner: str) -> Folder:
        """Return the files of an owner."""
        if owner not in self._folders:
            name = f"of-{hashlib.sha256(owner.encode()).hexdigest()[:32]}" if owner else ""
            with _on_a_well_disk():
                self._folders[owner] = Folder(self._root / name, *self._limits, self._root)
        return self._folders[owner]


class Folder:
    """A folder of files.

    Args:
        folder: Made if it is not there.
        retention_s: How long a file is kept after its last use.
        max_file_bytes: Larger ones are refused.
        max_bytes: What all files in the root may take together.
        root: Folder of all owners' folders; this one by default.
    """

    def __init__(self, folder: Path, retention_s: float, max_file_bytes: int, max_bytes: int, root: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._root = root or folder
        self._folder = folder
        self._retention_s = retention_s
        self._max_file_bytes = max_file_bytes
        self._max_bytes = max_bytes

    def begin(self, image_id: str, size: int, offset: int) -> int:
        """Return how many bytes of a file are there, all of them if it is complete.

        Raises:
            ServiceError: If the id, the size or the offset cannot be.
        """
        if not _ID.fullmatch(image_id):
            raise invalid(("start.sha256", "must be 64 lower-case hex digits"))
        if not 0 < size <= self._max_file_bytes:
            raise invalid(("start.size_bytes", f"must be from 1 to {self._max_file_bytes}, got {size}"))
        self._expire()
        there = self._size(self._path(image_id))
        if there:
            self._touch(image_id)
            return there
        there = self._size(self._partial(image_id))
        if not 0 <= offset <= there:
            raise invalid(("start.offset_bytes", f"{there} bytes are there, so it must be from 0 to {there}, got {offset}"))
        if sum(path.stat().st_size for path in self._root.rglob("*") if path.is_file()) + size - there > self._max_bytes:
            raise ServiceError("RESOURCE_EXHAUSTED", "STORAGE_FULL", "there is no room for more files", retry_s=60.0)
        return there

    def put(self, image_id: str, offset: int, chunk: bytes, size: int) -> int:
        """Write a piece where it belongs; returns where the next one does.

        Raises:
            ServiceError: If it goes beyond the size that was told, or the disk does not take it.
        """
        if offset + len(chunk) > size:
            raise invalid(("chunk", f"goes beyond the {size} bytes that were told"))
        with _on_a_well_disk(), self._partial(image_id).open("r+b" if self._partial(image_id).exists() else "wb") as file:
            file.seek(offset)
            file.write(chunk)
            file.truncate()
        return offset + len(chunk)

    def complete(self, image_id: str, size: int) -> bool:
        """Give a file its name if all of it is there; False if not.

        Raises:
            ServiceError: If it is not the file that was told: it has to be sent again from the start.
        """
        if self._path(image_id).exists():
            return True
        partial = self._partial(image_id)
        if self._size(partial) < size:
            return False
        with _on_a_well_disk(), partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != image_id:
            partial.unlink()
            raise invalid(("start.sha256", f"the file that came has another hash, {found}; send it again"))
        partial.replace(self._path(image_id))
        return True

    def read(self, image_id: str) -> bytes:
        """Return a whole file.

        Raises:
            KeyError: If it is not there.
        """
        if not _ID.fullmatch(image_id) or not self._path(image_id).exists():
            raise KeyError(image_id)
        self._touch(image_id)
        return self._path(image_id).read_bytes()

    def _expire(self) -> None:
        oldest = time.time() - self._retention_s
        for path in self._root.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime < oldest:
                    path.unlink()

    def _touch(self, image_id: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._path(image_id))

    def _path(self, image_id: str) -> Path:
        return self._folder / image_id

    def _partial(self, image_id: str) -> Path:
        return self._folder / f"{image_id}.partial"

    @staticmethod
    def _size(path: Path) -> int:
        return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _on_a_well_disk() -> Iterator[None]:
    """Tell of a disk that takes nothing in the words of the contract; what came of a file until then can be gone on with."""
    try:
        yield
    except OSError as error:
        logger.error("an uploaded file cannot be written: %s", error)  # noqa: TRY400 - where is of no interest
        text = f"the server's disk does not take the file: {error.strerror or error}"
        raise ServiceError("UNAVAILABLE", "STORAGE_FAILED", text, retry_s=30.0) from None


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield a file in pieces."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
