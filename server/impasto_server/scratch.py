"""Temporary folders that a later process removes if theirs was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder that only this user may enter, and remove it afterwards.

    Its process holds a lock in it, which ends with the process. Folders of this user with the same prefix and without one are
    left over, and removed first.

    Args:
        prefix: Of its name.
        parent: Where; the system's temporary folder if None.
    """
    _remove_left_over(prefix, Path(parent or tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        partial = folder / f"{_LOCK}.partial"
        with partial.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            partial.rename(folder / _LOCK)  # it is never seen without its lock
            yield folder


def _remove_left_over(prefix: str, parent: Path) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, or just removed; one without a lock file is not finished
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
