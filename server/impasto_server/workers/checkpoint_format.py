"""The outer form of a checkpoint: magic string with the version, SHA-256 of the rest, the rest. Does not import torch.

The rest is a safetensors block. Version 2 is complete in one file. In version 3 the block's metadata have a table of the pairs,
which are in a file beside it (:mod:`impasto_server.workers.pairs`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from impasto_server.workers import pairs
from impasto_server.workers.messages import checkpoint_files
from impasto_server.workers.pairs import Pair, Table

MAGIC = b"impasto checkpoint 2\n"
"""A complete file."""
MAGIC_PARTS = b"impasto checkpoint 3\n"
"""A file with a table of pairs."""
HASH_BYTES = 32
HISTORY = ("steps", "changes")
"""The tensors whose rows are the pairs."""
TABLE = "pairs"
"""The table's name in the metadata."""
_PIECE_BYTES = 1 << 20
_HEADER_BYTES = 1 << 24
"""No header is longer; the length in a damaged file may be any."""


def is_whole(path: Path) -> bool:
    """Whether a file is a complete checkpoint of a known version, whoever owns it, and its pairs are complete too."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC) + HASH_BYTES)
            if not head.startswith((MAGIC, MAGIC_PARTS)) or hashlib.file_digest(file, "sha256").digest() != head[len(MAGIC) :]:
                return False
        if head.startswith(MAGIC):
            return True
        table = table_of(path)
        return table is not None and pairs.is_whole(path.with_name(table.file), table)
    except OSError:
        return False


def newest_whole(path: Path) -> Path | None:
    """Return a job's newest checkpoint that is complete; None if it has none."""
    return next((candidate for candidate in checkpoint_files(path) if is_whole(candidate)), None)


def table_of(path: Path) -> Table | None:
    """Return the table of a checkpoint without verifying the file; None if it has none, is missing, or cannot be parsed.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC_PARTS:
                return None
            return Table.parse(_header(file)["__metadata__"][TABLE])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def slots_in_use(path: Path, file: str) -> set[int]:
    """Return the slots of a file of pairs that a job's checkpoints refer to. One that cannot be read uses none."""
    used: set[int] = set()
    for checkpoint in checkpoint_files(path):
        with contextlib.suppress(OSError):
            if (table := table_of(checkpoint)) is not None and table.file == file:
                used |= {pair.slot for pair in table.pairs.values()}
    return used


def keep(path: Path, received: Path) -> None:
    """Give a received file the name of a job's newest checkpoint, and keep the one before.

    Raises:
        OSError: If the file cannot be moved.
    """
    newest, before = checkpoint_files(path)
    if newest.exists():
        newest.replace(before)
    received.replace(newest)
    remove_strays(path)


def remove(path: Path) -> None:
    """Remove a job's checkpoints and its pairs."""
    for file in (*checkpoint_files(path), *pairs.files_beside(path)):
        file.unlink(missing_ok=True)


def remove_strays(path: Path) -> None:
    """Remove files of pairs that no checkpoint of a job refers to; those that cannot be removed now are removed later."""
    with contextlib.suppress(OSError):
        found = [table_of(checkpoint) for checkpoint in checkpoint_files(path)]
        used = {table.file for table in found if table is not None}
        for file in pairs.files_beside(path):
            if file.name not in used:
                file.unlink(missing_ok=True)


def write_hashed(file: BinaryIO, magic: bytes, pieces: Iterator[bytes | memoryview]) -> int:
    """Write a checkpoint's magic string, the SHA-256 of its pieces, and the pieces; return the size."""
    file.write(magic)
    file.write(bytes(HASH_BYTES))
    digest, length = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        length += file.write(piece)
    file.seek(len(magic))
    file.write(digest.digest())
    return len(magic) + HASH_BYTES + length


def block_head(header: Mapping[str, object]) -> bytes:
    """Return the start of a safetensors block: everything before the tensors."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def as_one_file(path: Path, target: Path) -> Path:
    """Return a complete checkpoint as one file: itself, or a target to which it and its pairs are written.

    Raises:
        OSError: If it cannot be read, or the target cannot be written.
    """
    table = table_of(path)
    if table is None:
        return path
    with path.open("rb") as file, path.with_name(table.file).open("rb") as stored, target.open("wb") as out:
        write_hashed(out, MAGIC, _joined(file, stored, table))
    return target


def _joined(file: BinaryIO, stored: BinaryIO, table: Table) -> Iterator[bytes | memoryview]:
    """Yield the block of a checkpoint with its pairs as tensors. Places without a pair are zero."""
    header = _header(file)
    del header["__metadata__"][TABLE]
    end = max((about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"), default=0)
    order: list[tuple[Pair | None, int]] = []
    groups: list[tuple[tuple[str, str], list[Pair | None], tuple[int, ...]]] = [
        (HISTORY, [table.pairs.get(place) for place in range(table.history)], (1, table.history, table.values))
    ]
    groups += [(key, [pair], table.shape) for key, pair in table.pairs.items() if isinstance(key, tuple)]
    for names, found, shape in groups:
        for number, name in enumerate(names):
            offsets = [end, end := end + len(found) * table.half_bytes]
            header[name] = {"dtype": table.dtype, "shape": shape, "data_offsets": offsets}
            order += [(pair, number) for pair in found]
    yield block_head(header)
    while piece := file.read(_PIECE_BYTES):
        yield piece
    for pair, number in order:
        if pair is None:
            yield bytes(table.half_bytes)
        else:
            stored.seek((2 * pair.slot + number) * table.half_space)
            yield stored.read(table.half_bytes)


def _header(file: BinaryIO) -> dict[str, Any]:
    file.seek(len(MAGIC) + HASH_BYTES)
    header: dict[str, Any] = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _HEADER_BYTES)))
    return header
