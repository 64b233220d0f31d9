"""Writing past the page cache, on disks that can do that and on others."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from impasto_server.workers import direct
from impasto_server.workers.direct import ALIGNMENT, DirectFile, aligned


@pytest.mark.parametrize("refuses", ["nothing", "opening", "writing", "most"])
def test_bytes_arrive_whatever_the_disk_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str) -> None:
    """At their positions, padded with zeros, and seen once; also if direct writes are refused, or written in part only."""
    opened, written = os.open, os.pwrite

    def opens(path: Path, flags: int, mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, mode)

    def writes(descriptor: int, data: memoryview, at: int) -> int:
        if refuses == "most":
            return written(descriptor, data[:ALIGNMENT], at)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return written(descriptor, data, at)

    if refuses == "opening":
        monkeypatch.setattr(os, "open", opens)
    if refuses in ("writing", "most"):
        monkeypatch.setattr(os, "pwrite", writes)
    path, pieces = tmp_path / "a", [os.urandom(5), os.urandom((3 << 20) + 4097), os.urandom(ALIGNMENT), b"", os.urandom(99)]
    expected, seen = b"", bytearray()
    with DirectFile(path, make=True) as file:
        for piece in pieces:
            file.write(memoryview(piece), len(expected), seen.extend)
            expected += piece + bytes(aligned(len(piece)) - len(piece))
        file.sync()
    assert path.read_bytes() == expected
    assert bytes(seen) == b"".join(pieces)


def test_errors_of_the_disk_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that does not exist, a disk that is full, a write that is refused in any form."""
    with pytest.raises(FileNotFoundError):
        DirectFile(tmp_path / "a", make=False)
    for number in (errno.ENOSPC, errno.EINVAL):

        def refused(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch, DirectFile(tmp_path / "a", make=True) as file:
            patch.setattr(direct.os, "pwrite", refused)
            with pytest.raises(OSError, match=os.strerror(number)):
                file.write(memoryview(b"abc"), 0, len)
