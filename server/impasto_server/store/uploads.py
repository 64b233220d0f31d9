"""Files that clients upload once and use in many jobs, by the SHA-256 of their bytes. An interrupted upload can be resumed.

A file is written under its id with the suffix ``.partial`` and gets its name when it is complete and its hash is right; its
time of last use is its modification time. Sizes on disk are read once, when the server starts, and tracked from then on: space
is reserved before a file is sent, so that concurrent uploads keep to the limits too. Methods that access the disk block: call
them on a thread. A lock guards the totals.
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
from typing import BinaryIO

from impasto_server.domain.errors import ServiceError, invalid

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
MAX_FILES = 10_000
"""Maximum number of files of one owner, whatever their size."""
_ID = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial"


@dataclass
class _Usage:
    """Total size of all files, with the space reserved for uploads under way."""

    limit: int
    used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Uploads:
    """Files by owner: nobody can use another owner's file, even with its hash.

    Args:
        folder: Created if missing.
        retention_s: How long a file is kept after its last use.
        max_file_bytes: Larger files are rejected.
        max_bytes: Maximum size of all files together; one owner may use at most three quarters of it.
    """

    def __init__(self, folder: Path, retention_s: float, max_file_bytes: int, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._root = folder
        self._retention_s, self._max_file_bytes = retention_s, max_file_bytes
        self._usage = _Usage(max_bytes)
        self._folders: dict[str, Folder] = {}
        for path in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
            self._folders[path.name if path != folder else ""] = self._folder(path)

    def of(self, owner: str) -> Folder:
        """Return the files of an owner."""
        name = f"of-{hashlib.sha256(owner.encode()).hexdigest()[:32]}" if owner else ""
        if name not in self._folders:
            with _disk_errors_converted():
                self._folders[name] = self._folder(self._root / name)
        return self._folders[name]

    def _folder(self, path: Path) -> Folder:
        share = self._usage.limit if path == self._root else self._usage.limit * 3 // 4
        return Folder(path, self._retention_s, self._max_file_bytes, share, self._usage)

    def expire(self) -> None:
        """Delete files that were not used for the retention time. Blocks."""
        for folder in list(self._folders.values()):
            folder.expire()


class Folder:
    """The files of one owner.

    Args:
        folder: Created if missing.
        retention_s: How long a file is kept after its last use.
        max_file_bytes: Larger files are rejected.
        max_bytes: Maximum size of the files together.
        usage: Totals of all owners' files; own totals by default.
    """

    def __init__(
        self, folder: Path, retention_s: float, max_file_bytes: int, max_bytes: int, usage: _Usage | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._retention_s = retention_s
        self._max_file_bytes = max_file_bytes
        self._max_bytes = max_bytes
        self._usage = usage or _Usage(max_bytes)
        self._sizes: dict[str, int] = {}
        """Size of each file when complete, by its name on disk."""
        for entry in os.scandir(folder):
            if entry.is_file():
                self._add_size(entry.name, entry.stat().st_size)

    @property
    def bytes_kept(self) -> int:
        """Size of the files, with the reserved space."""
        return sum(self._sizes.values())

    def begin(self, image_id: str, size: int, offset: int) -> int:
        """Reserve space for a file and return how many of its bytes are stored: all of them if it is complete.

        Call :meth:`end` when the sender is done.

        Raises:
            ServiceError: If the id, the size or the offset is invalid, or there is no space.
        """
        if not _ID.fullmatch(image_id):
            raise invalid(("start.sha256", "must be 64 lower-case hex digits"))
        if not 0 < size <= self._max_file_bytes:
            raise invalid(("start.size_bytes", f"must be from 1 to {self._max_file_bytes}, got {size}"))
        stored = self._size(self._path(image_id))
        if stored and stored != size:
            raise invalid(("start.size_bytes", f"the file with this hash has {stored} bytes, got {size}"))
        known = stored or self._size(self._partial(image_id))
        if not 0 <= offset <= known:
            raise invalid(("start.offset_bytes", f"{known} bytes are stored, so it must be from 0 to {known}, got {offset}"))
        if stored:
            self._touch(image_id)
            return stored
        with self._usage.lock:
            self._reserve(f"{image_id}{_PARTIAL}", size)
        return known

    def end(self, image_id: str) -> None:
        """Release the space reserved for a file beyond its stored size."""
        partial = self._partial(image_id)
        with self._usage.lock:
            if partial.name in self._sizes:
                self._drop_size(partial.name)
                if partial.exists():
                    self._add_size(partial.name, self._size(partial))

    def put(self, image_id: str, offset: int, chunk: bytes, size: int) -> int:
        """Write a chunk at an offset; return the offset of the next one.

        Several senders of the same file may write at once: each writes the same bytes, at an offset that is stored already or
        next, so the stored part never shrinks and has no holes.

        Raises:
            ServiceError: If it exceeds the announced size, cannot be written, or the bytes before it were discarded.
        """
        if offset + len(chunk) > size:
            raise invalid(("chunk", f"exceeds the announced size of {size} bytes"))
        if self._path(image_id).exists():
            return offset + len(chunk)  # another sender was faster
        with _disk_errors_converted(), self._writable(image_id) as file:
            if offset > file.seek(0, os.SEEK_END):
                text = "the stored part of this file was discarded; send it again from where the server says"
                raise ServiceError("UPLOAD_RESTARTED", text, retry_s=0.1)
            file.seek(offset)
            file.write(chunk)
        return offset + len(chunk)

    def _writable(self, image_id: str) -> BinaryIO:
        return os.fdopen(os.open(self._partial(image_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")

    def complete(self, image_id: str, size: int, offset: int = 0) -> bool:
        """Give a complete file its name; return False if bytes are missing.

        Args:
            image_id: SHA-256 of the file.
            size: Its size.
            offset: Where this sender started.

        Raises:
            ServiceError: If its hash is wrong: it must be sent again from the start.
        """
        partial = self._partial(image_id)
        if self._path(image_id).exists():
            partial.unlink(missing_ok=True)  # of a second sender, who started before the first was done
            return True
        if self._size(partial) < size:
            return False
        with _disk_errors_converted(), partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != image_id:
            partial.unlink(missing_ok=True)
            if offset:  # the wrong bytes may be another sender's
                raise ServiceError("UPLOAD_RESTARTED", "the stored part of this file was wrong; send it again", retry_s=0.1)
            raise invalid(("start.sha256", f"the received file has another hash, {found}; send it again"))
        with self._usage.lock, contextlib.suppress(FileNotFoundError):  # two senders of the same file: one was first
            partial.replace(self._path(image_id))
            self._drop_size(partial.name)
            self._drop_size(image_id)
            self._add_size(image_id, size)
        return True

    def find(self, image_id: str) -> Path:
        """Return the path of a complete file.

        Raises:
            KeyError: If it does not exist.
        """
        if not _ID.fullmatch(image_id) or not self._path(image_id).exists():
            raise KeyError(image_id)
        self._touch(image_id)
        return self._path(image_id)

    def expire(self) -> None:
        """Delete files that were not used for the retention time."""
        oldest = time.time() - self._retention_s
        for name in list(self._sizes):
            path = self._folder / name
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime >= oldest:
                    continue
                path.unlink()
                with self._usage.lock:
                    self._drop_size(name)

    def _reserve(self, name: str, size: int) -> None:
        more = size - self._sizes.get(name, 0)
        if len(self._sizes) >= MAX_FILES and name not in self._sizes:
            text = f"{MAX_FILES} files are stored, which is the limit; unused files expire"
            raise ServiceError("STORAGE_FULL", text, retry_s=60.0)
        if self.bytes_kept + more > self._max_bytes or self._usage.used + more > self._usage.limit:
            raise ServiceError("STORAGE_FULL", "there is no space for more files", retry_s=60.0)
        self._drop_size(name)
        self._add_size(name, max(size, self._size(self._folder / name)))

    def _add_size(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._usage.used += size

    def _drop_size(self, name: str) -> None:
        self._usage.used -= self._sizes.pop(name, 0)

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
def _disk_errors_converted() -> Iterator[None]:
    """Convert disk errors into service errors; the stored part of a file can be resumed."""
    try:
        yield
    except OSError as error:
        logger.error("an uploaded file cannot be written: %s", error)  # noqa: TRY400 - the stack is not useful
        text = f"the server cannot write the file: {error.strerror or error}"
        raise ServiceError("STORAGE_FAILED", text, retry_s=30.0) from None
