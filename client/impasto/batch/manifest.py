"""The record of a batch: one line of JSON for each picture, on the disk before the next step."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from impasto.errors import ImpastoError

NAME = "manifest.jsonl"
FORMAT = 1
"""Version of the lines that this client writes and reads."""


class Manifest:
    """Appends lines, each synced, and knows what earlier runs have done. One process at a time may open it.

    Args:
        folder: Folder of the outputs.

    Raises:
        ImpastoError: If another process has it open.
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lock = threading.Lock()
        self._done: dict[str, str] = {}
        self._failed: set[str] = set()
        self._overruled: set[str] = set()
        """Outputs whose last line is of a later failure, with other options."""
        self.lines = 0
        self._file: BinaryIO = self.path.open("a+b")
        try:
            _exclude_others(self._file, folder)
            self._read()
        except BaseException:
            self._file.close()
            raise
        sync_folder(folder)

    def _read(self) -> None:
        """Read the lines of earlier runs, and remove a last line that a crash left incomplete."""
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(whole)
                break
            whole += len(line)
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):  # of somebody else
                values = _values(line)
                self.lines += 1
                self._note(values)
        self._file.seek(0, os.SEEK_END)

    def done(self, output: str, key: str) -> bool:
        """Whether an earlier run, or this one, has made an output with these inputs and options."""
        return self._done.get(output) == key

    def keep(self, output: str) -> None:
        """Make the last line of an output that is kept that of its picture, if it is of a later failure.

        Raises:
            OSError: If it cannot be written.
        """
        if output not in self._overruled:
            return
        made = [line for line in entries(self.path) if line.get("output") == output and line.get("status") == "succeeded"]
        if made:
            self.append(made[-1])

    def append(self, values: Mapping[str, Any]) -> None:
        """Add a line and wait until it is on the disk.

        Raises:
            OSError: If it cannot be written.
        """
        text = json.dumps({"manifest": FORMAT, **values}, ensure_ascii=False)
        line = text.encode("utf-8", "backslashreplace") + b"\n"  # bytes of names that are not UTF-8 as \\udcXX, which is JSON
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:  # which has no name of a file
                raise OSError(error.errno, error.strerror, str(self._file.name)) from None
            self.lines += 1
            self._note(values)

    def _note(self, values: Mapping[str, Any]) -> None:
        if values["status"] == "succeeded":
            self._done[str(values["output"])] = str(values["key"])
            self._overruled.discard(str(values["output"]))
        else:
            self._failed.add(str(values.get("request_id")))
            self._overruled.add(str(values.get("output")))

    def failed(self, request_id: str) -> bool:
        """Whether it is recorded that the job of a request ended without a picture."""
        return request_id in self._failed

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Manifest:
        """Return the manifest itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release the file."""
        self.close()


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a manifest; lines of other programs are left out."""
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            values = _values(line)
            if isinstance(values, dict) and values.get("manifest") == FORMAT:
                yield values


def _values(line: bytes) -> Any:
    """Return the values of a line; earlier versions wrote names that are not UTF-8 as they are."""
    return json.loads(line.decode("utf-8-sig", "surrogateescape"))


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk; where the system cannot do that, nothing happens."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exclude_others(file: BinaryIO, folder: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where two runs in one folder are not detected
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ImpastoError(f"another 'impasto batch' writes to {folder}; wait for its end", reason="FOLDER_IN_USE") from None
