"""Stores the pairs of a job's history in a file of slots, so that a checkpoint writes only the new ones. Does not import torch.

A slot holds a pair: a step, then the change of the gradient; or two other tensors of that size, which are new each time. A
checkpoint has a table, which says which slot holds the pair at each place of the ring, and its hash. A slot that a checkpoint
on disk refers to is never overwritten, so that a crash while pairs are written damages no checkpoint. The other slots are used
again: about three times as many as the history are needed.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import count
from pathlib import Path

import xxhash

from impasto_server.failpoints import hit
from impasto_server.workers.direct import DirectFile, aligned

Buffer = memoryview
Key = int | tuple[str, str]
_SIZES = {"F32": 4, "F64": 8}


class PairsLostError(OSError):
    """The file does not have pairs that the next checkpoint needs."""


@dataclass(frozen=True)
class Pair:
    """A pair in the file.

    Attributes:
        slot: Where it is.
        digest: The XXH3 hash of its bytes, in hexadecimal.
    """

    slot: int
    digest: str


@dataclass(frozen=True)
class Table:
    """Where the pairs of a history are.

    Attributes:
        file: Name of the file, in the folder of the checkpoint.
        history: Number of places in the ring.
        shape: Shape of a canvas; a step and a change have as many values.
        dtype: Their type, as safetensors names it.
        pairs: The pairs by their place in the ring, and others by the names of two tensors.
    """

    file: str
    history: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = "F32"
    pairs: Mapping[Key, Pair] = field(default_factory=dict)

    @property
    def half_bytes(self) -> int:
        """Size of a step, or of a change."""
        return self.values * _SIZES[self.dtype]

    @property
    def half_space(self) -> int:
        """Space that a half takes in the file."""
        return aligned(self.half_bytes)

    @property
    def values(self) -> int:
        """Number of values of a step, and of a change."""
        return math.prod(self.shape)

    def dump(self) -> str:
        """Return the table as text."""
        pairs = [[key, pair.slot, pair.digest] for key, pair in self.pairs.items()]
        return json.dumps([self.file, self.history, self.shape, self.dtype, pairs])

    @staticmethod
    def parse(text: str) -> Table:
        """Return the table in a text.

        Raises:
            ValueError: If there is none.
        """
        try:
            file, history, shape, dtype, pairs = json.loads(text)
            found: dict[Key, Pair] = {_key(key): Pair(slot, digest) for key, slot, digest in pairs}
            table = Table(file, int(history), tuple(map(int, shape)), dtype, found)
            places = [key for key in found if isinstance(key, int)]
            if file != Path(file).name or dtype not in _SIZES or not all(0 <= place < history for place in places):
                raise ValueError("its values are impossible")
        except (TypeError, ValueError) as error:
            raise ValueError(f"no table of pairs: {error}") from None
        return table


class Ledger:
    """What is stored of a running job at one of its levels. Only the thread that writes changes it.

    Args:
        checkpoint: Path of the job's checkpoint. The file of pairs is beside it, and no other process writes to that.
        step: The step that the job begins with, if it has no pair then; None if it resumes.

    Attributes:
        step: The last step whose state is stored; None if the next state must be stored with all its pairs.
        table: Where the pairs of that state are.
    """

    def __init__(self, checkpoint: Path, step: int | None) -> None:
        self.step = step
        self.table = Table(file_beside(checkpoint, secrets.token_hex(8)))

    def reset(self) -> None:
        """Forget what is stored."""
        self.step, self.table = None, Table(self.table.file)


def file_beside(checkpoint: Path, token: str) -> str:
    """Return the name of a file of pairs beside a job's checkpoint."""
    return f"{checkpoint.name}.{token}.pairs"


def files_beside(checkpoint: Path) -> list[Path]:
    """Return the files of pairs beside a job's checkpoint."""
    return list(checkpoint.parent.glob(f"{escape(checkpoint.name)}.*.pairs"))


def add(folder: Path, table: Table, fresh: Mapping[Key, tuple[Buffer, Buffer]], taken: Container[int]) -> Table:
    """Write pairs into free slots, sync them, and return the table with them.

    Args:
        folder: The folder of the file. The file is made if the table has no pairs.
        table: Where the pairs are that do not change.
        fresh: The others: a step and a change, or two other tensors.
        taken: Slots that are not free, beside those of the table.

    Raises:
        PairsLostError: If the file has gone.
        OSError: If they cannot be written.
    """
    kept = {pair.slot for pair in table.pairs.values()}
    free = (slot for slot in count() if slot not in kept and slot not in taken)
    pairs = dict(table.pairs)
    try:
        opened = DirectFile(folder / table.file, make=not kept)
    except FileNotFoundError:
        raise PairsLostError(f"{table.file} has gone") from None
    with opened as file:
        for (key, halves), slot in zip(fresh.items(), free, strict=False):
            digest = xxhash.xxh3_128()
            for number, half in enumerate(halves):
                file.write(half, (2 * slot + number) * table.half_space, digest.update)
            pairs[key] = Pair(slot, digest.hexdigest())
            hit("checkpoint.between_pairs")
        file.sync()
    hit("checkpoint.after_pairs")
    return replace(table, pairs=pairs)


def read(descriptor: int, table: Table, key: Key, into: tuple[Buffer, Buffer]) -> bool:
    """Read a pair into memory; return whether it is what was written.

    Raises:
        OSError: If it cannot be read.
    """
    pair = table.pairs[key]
    whole = all(
        os.preadv(descriptor, [half], (2 * pair.slot + number) * table.half_space) == table.half_bytes
        for number, half in enumerate(into)
    )
    digest = xxhash.xxh3_128()
    for half in into:
        digest.update(half)
    return whole and digest.hexdigest() == pair.digest


def is_whole(path: Path, table: Table) -> bool:
    """Whether a file has all pairs of a table.

    Raises:
        OSError: If it cannot be read.
    """
    into = Buffer(bytearray(table.half_bytes)), Buffer(bytearray(table.half_bytes))
    with path.open("rb") as file:
        return all(read(file.fileno(), table, key, into) for key in table.pairs)


def _key(value: int | list[str]) -> Key:
    if isinstance(value, int):
        return value
    first, second = map(str, value)
    return first, second
