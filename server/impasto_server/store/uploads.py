"""Files that clients send once and name in many jobs, by the SHA-256 of their bytes. An upload that broke off can be resumed.

A file grows under its id with the ending ``.partial`` and gets its name when it is whole and its hash is right; its time of
last use is its time stamp on the disk. What lies there is counted once, when the server starts, and kept in books from then on:
room is reserved before a file is sent, so that many at once keep to the limits too. What touches the disk blocks: call it on a
thread. The books are behind a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from impasto_server.domain.errors import ServiceError, invalid

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
MAX_FILES = 10_000
"""Files of one owner at a time, whatever their size."""
_ID = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial"


@dataclass
class _Books:
    """What all files take, with what is reserved for those that are being sent."""

    limit: int
    used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Uploads:
    """Files by their owner: nobody can name another's, whoever knows its hash.

    Args:
        folder: Made if it is not there.
        retention_s: How long a file is kept after its last use.
        max_file_bytes: Larger ones are refused.
        max_bytes: What all files may take together; those of one owner at most three quarters of it.
    """

    def __init__(self, folder: Path, retention_s: float, max_file_bytes: int, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._root = folder
        self._retention_s, self._max_file_bytes = retention_s, max_file_bytes
        self._books = _Books(max_bytes)
        self._folders: dict[str, Folder] = {}
        for path in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
            self._folders[path.name if path != folder else ""] = self._folder(path)

    def of(self, owner: str) -> Folder:
        """Return the files of an owner."""
        name = f"of-{hashlib.sha256(owner.encode()).hexdigest()[:32]}" if owner else ""
        if name not in self._folders:
            with _disk_errors_told():
                self._folders[name] = self._folder(self._root / name)
        return self._folders[name]

    def _folder(self, path: Path) -> Folder:
        share = self._books.limit if path == self._root else self._books.limit * 3 // 4
        return Folder(path, self._retention_s, self._max_file_bytes, share, self._books)

    def expire(self) -> None:
        """Delete the files that were not used for long. Blocks."""
        for folder in list(self._folders.values()):
            folder.expire()


class Folder:
    """The files of one owner.

    Args:
        folder: Made if it is not there.
        retention_s: How long a file is kept after its last use.
        max_file_bytes: Larger ones are refused.
        max_bytes: What they may take together.
        books: What all owners' files take; its own by default.
    """

    def __init__(
        self, folder: Path, retention_s: float, max_file_bytes: int, max_bytes: int, books: _Books | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._retention_s = retention_s
        self._max_file_bytes = max_file_bytes
        self._max_bytes = max_bytes
        self._books = books or _Books(max_bytes)
        self._sizes: dict[str, int] = {}
        """What each file takes, or is going to take, by its name on the disk."""
        for entry in os.scandir(folder):
            if entry.is_file():
                self._book(entry.name, entry.stat().st_size)

    @property
    def bytes_kept(self) -> int:
        """What the files take, and what is reserved."""
        return sum(self._sizes.values())

    def begin(self, image_id: str, size: int, offset: int) -> int:
        """Reserve room for a file and return how many bytes of it are there: all of them if it is complete.

        Call :meth:`end` when its sender has gone.

        Raises:
            ServiceError: If the id, the size or the offset cannot be, or there is no room.
        """
        if not _ID.fullmatch(image_id):
            raise invalid(("start.sha256", "must be 64 lower-case hex digits"))
        if not 0 < size <= self._max_file_bytes:
            raise invalid(("start.size_bytes", f"must be from 1 to {self._max_file_bytes}, got {size}"))
        there = self._size(self._path(image_id))
        if there and there != size:
            raise invalid(("start.size_bytes", f"the file of this hash has {there} bytes, got {size}"))
        known = there or self._size(self._partial(image_id))
        if not 0 <= offset <= known:
            raise invalid(("start.offset_bytes", f"{known} bytes are there, so it must be from 0 to {known}, got {offset}"))
        if there:
            self._touch(image_id)
            return there
        with self._books.lock:
            self._reserve(f"{image_id}{_PARTIAL}", size)
        return known

    def end(self, image_id: str) -> None:
        """Give back what was reserved for a file beyond what lies there."""
        partial = self._partial(image_id)
        with self._books.lock:
            if partial.name in self._sizes:
                self._unbook(partial.name)
                if partial.exists():
                    self._book(partial.name, self._size(partial))

    def put(self, image_id: str, offset: int, chunk: bytes, size: int) -> int:
        """Write a piece where it belongs; returns where the next one does.

        Raises:
            ServiceError: If it goes beyond the size that was told, or the disk does not take it.
        """
        if offset + len(chunk) > size:
            raise invalid(("chunk", f"goes beyond the {size} bytes that were told"))
        with _disk_errors_told(), self._partial(image_id).open("r+b" if self._partial(image_id).exists() else "wb") as file:
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
        with _disk_errors_told(), partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != image_id:
            partial.unlink(missing_ok=True)
            raise invalid(("start.sha256", f"the file that came has another hash, {found}; send it again"))
        with self._books.lock, contextlib.suppress(FileNotFoundError):  # two senders of the same file: one was first
            partial.replace(self._path(image_id))
            self._unbook(partial.name)
            self._unbook(image_id)
            self._book(image_id, size)
        return True

    def find(self, image_id: str) -> Path:
        """Return where a whole file lies.

        Raises:
            KeyError: If it is not there.
        """
        if not _ID.fullmatch(image_id) or not self._path(image_id).exists():
            raise KeyError(image_id)
        self._touch(image_id)
        return self._path(image_id)

    def expire(self) -> None:
        """Delete the files that were not used for long."""
        oldest = time.time() - self._retention_s
        for name in list(self._sizes):
            path = self._folder / name
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime >= oldest:
                    continue
                path.unlink()
                with self._books.lock:
                    self._unbook(name)

    def _reserve(self, name: str, size: int) -> None:
        more = size - self._sizes.get(name, 0)
        if len(self._sizes) >= MAX_FILES and name not in self._sizes:
            text = f"{MAX_FILES} files are kept, which is the limit; they go when they were not used for long"
            raise ServiceError("STORAGE_FULL", text, retry_s=60.0)
        if self.bytes_kept + more > self._max_bytes or self._books.used + more > self._books.limit:
            raise ServiceError("STORAGE_FULL", "there is no room for more files", retry_s=60.0)
        self._unbook(name)
        self._book(name, max(size, self._size(self._folder / name)))

    def _book(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._books.used += size

    def _unbook(self, name: str) -> None:
        self._books.used -= self._sizes.pop(name, 0)

    def _touch(self, image_id: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._path(image_id))

    def _path(self, image_id: str) -> Path:
        return self._folder / image_id

    def _partial(self, image_id: str) -> Path:
        return self._folder / f"{image_id}{_PARTIAL}"

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


@contextlib.contextmanager
def _disk_errors_told() -> Iterator[None]:
    """Tell of a disk that takes nothing in the words of the contract; what came of a file until then can be resumed."""
    try:
        yield
    except OSError as error:
        logger.error("an uploaded file cannot be written: %s", error)  # noqa: TRY400 - where is of no interest
        text = f"the server's disk does not take the file: {error.strerror or error}"
        raise ServiceError("STORAGE_FAILED", text, retry_s=30.0) from None
