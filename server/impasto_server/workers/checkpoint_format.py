"""The outer form of a checkpoint: magic string with the version, SHA-256 of the rest, the rest. Does not import torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from impasto_server.workers.messages import checkpoint_files

MAGIC = b"impasto checkpoint 2\n"
HASH_BYTES = 32


def is_whole(path: Path) -> bool:
    """Whether a file is a complete checkpoint of this version, whoever owns it."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC) + HASH_BYTES)
            return head.startswith(MAGIC) and hashlib.file_digest(file, "sha256").digest() == head[len(MAGIC) :]
    except OSError:
        return False


def newest_whole(path: Path) -> Path | None:
    """Return a job's newest checkpoint that is complete; None if it has none."""
    return next((candidate for candidate in checkpoint_files(path) if is_whole(candidate)), None)


def keep(path: Path, received: Path) -> None:
    """Give a received file the name of a job's newest checkpoint, and keep the one before.

    Raises:
        OSError: If the file cannot be moved.
    """
    newest, before = checkpoint_files(path)
    if newest.exists():
        newest.replace(before)
    received.replace(newest)
