"""Stores a canvas's state in a file: complete or absent, verified by hash, and without code.

A file has a magic string with the version, the SHA-256 of the rest, and a safetensors block whose metadata name its owner. It
is written under a temporary name, synced and renamed, so that a crash leaves the old file or the new one; the previous
checkpoint is kept, in case the disk loses the newest. If the caller has a ledger, the pairs of L-BFGS, which are most of a
state, are written first, to a file beside it: only those that are new (:mod:`impasto_server.workers.pairs`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from impasto_engine.optimizers import HISTORY
from impasto_engine.parameters import OptimizerName
from impasto_engine.samples import SampleState
from impasto_server.failpoints import hit
from impasto_server.files import written_whole
from impasto_server.workers import pairs
from impasto_server.workers.checkpoint_format import (
    HASH_BYTES,
    MAGIC,
    MAGIC_PARTS,
    TABLE,
    block_head,
    remove_strays,
    slots_in_use,
    write_hashed,
)
from impasto_server.workers.messages import checkpoint_files
from impasto_server.workers.pairs import Buffer, Key, Ledger, Pair, PairsLostError, Table

CANVASES = (("canvas", "trial"), ("gradient", "direction"))
"""Tensors of L-BFGS as large as a step, which are stored as the pairs are."""
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


class CheckpointError(Exception):
    """An unusable checkpoint; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A sample's state and its owner.

    Attributes:
        owner: Names the job, its network and its arithmetic, which must all be the same to resume.
        state: Everything the sample needs.
        elapsed_s: Time that its steps took.
    """

    owner: str
    state: SampleState
    elapsed_s: float = 0.0


def write(path: Path, checkpoint: Checkpoint, ledger: Ledger | None = None) -> int:
    """Write a checkpoint, and keep the previous one beside it; return how many bytes were written.

    Args:
        path: Where.
        checkpoint: The checkpoint. Its state may lack pairs that the ledger has.
        ledger: What is stored of the job already; it is brought up to date. Without it, everything is written to one file.

    Raises:
        OSError: If it cannot be written; the previous one is kept then, and the ledger stays as it is.
    """
    state = checkpoint.state
    about = {
        "owner": checkpoint.owner,
        "optimizer": state.optimizer,
        "step": str(state.step),
        "elapsed_s": str(checkpoint.elapsed_s),
    }
    hit("checkpoint.before_write")
    if ledger is None or not state.history:
        size = _write_file(path, MAGIC, _pieces(state.tensors, about))
    else:
        table, written = _store_pairs(path, state, ledger)
        apart = {*HISTORY, *(name for key in table.pairs if isinstance(key, tuple) for name in key)}
        rest = {name: tensor for name, tensor in state.tensors.items() if name not in apart}
        size = written + _write_file(path, MAGIC_PARTS, _pieces(rest, {**about, TABLE: table.dump()}))
        ledger.step, ledger.table = state.step, table
    remove_strays(path)
    return size


def _write_file(path: Path, magic: bytes, pieces: Iterator[bytes | memoryview]) -> int:
    """Write a checkpoint's own file; return its size."""
    newest, before = checkpoint_files(path)
    with written_whole(newest, partial=path.with_name(path.name + ".partial"), before_rename=_keep(before, newest)) as file:
        size = write_hashed(file, magic, pieces)
        hit("checkpoint.before_fsync")
    hit("checkpoint.after_rename")
    return size


def _store_pairs(path: Path, state: SampleState, ledger: Ledger) -> tuple[Table, int]:
    """Write the pairs that are new since the last state that was stored; return where all are, and how many bytes were written.

    Raises:
        PairsLostError: If pairs are missing; the next state must have all.
        OSError: If they cannot be written.
    """
    try:
        return _store_new_pairs(path, state, ledger)
    except PairsLostError:
        ledger.reset()
        if len(state.places) < state.history:
            raise
    return _store_new_pairs(path, state, ledger)


def _store_new_pairs(path: Path, state: SampleState, ledger: Ledger) -> tuple[Table, int]:
    changed = state.latest(state.history if ledger.step is None else state.step - ledger.step)
    rows = {place: row for row, place in enumerate(state.places) if place in changed}
    known: dict[Key, Pair | None] = {place: ledger.table.pairs.get(place) for place in state.valid if place not in changed}
    kept = {place: pair for place, pair in known.items() if pair is not None}
    fresh: dict[Key, tuple[Buffer, Buffer]] = {
        place: _row(state.tensors, rows[place]) for place in state.valid if place in rows
    }
    if len(kept) + len(fresh) < len(state.valid):
        raise PairsLostError("not all pairs are known")
    fresh |= {(first, second): (_bytes(state.tensors[first]), _bytes(state.tensors[second])) for first, second in CANVASES}
    name, canvas = ledger.table.file, state.tensors["canvas"]
    taken = slots_in_use(path, name) | {pair.slot for pair in ledger.table.pairs.values()}
    table = Table(name, state.history, tuple(canvas.shape), _DTYPES[canvas.dtype], kept)
    return pairs.add(path.parent, table, fresh, taken), 2 * table.half_bytes * len(fresh)


def _row(tensors: Mapping[str, Tensor], row: int) -> tuple[Buffer, Buffer]:
    """Return the memory of a pair."""
    step, change = (_bytes(tensors[name][0, row]) for name in HISTORY)
    return step, change


def _bytes(tensor: Tensor) -> Buffer:
    """Return the memory of a contiguous tensor, without a copy."""
    return memoryview(tensor.contiguous().numpy()).cast("B")  # type: ignore[arg-type]


def _keep(before: Path, newest: Path) -> Callable[[], None]:
    """Return a function that keeps the checkpoint that is about to be replaced."""

    def keep() -> None:
        hit("checkpoint.before_rename")
        if newest.exists():
            newest.replace(before)

    return keep


def _pieces(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors block without copying the whole: the library's writer would make two copies."""
    header: dict[str, object] = {"__metadata__": about}
    buffers = []
    offset = 0
    for name, tensor in tensors.items():
        buffer = _bytes(tensor)
        end = offset + len(buffer)
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        buffers.append(buffer)
        offset = end
    yield block_head(header)
    yield from buffers


def latest(path: Path, owner: str) -> tuple[Checkpoint | None, str]:
    """Return the newest usable checkpoint, and notes on the unusable ones."""
    notes: list[str] = []
    for candidate in checkpoint_files(path):
        if candidate.exists():
            try:
                return read(candidate, owner), "; ".join(notes)
            except CheckpointError as error:
                notes.append(str(error))
    return None, "; ".join(notes)


def read(path: Path, owner: str) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises:
        CheckpointError: If it is missing, damaged, of another version or of another owner.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from None
    if not data.startswith((MAGIC, MAGIC_PARTS)):
        raise CheckpointError(f"{path.name} is not a checkpoint of this version")
    start = len(MAGIC) + HASH_BYTES
    digest, block = data[len(MAGIC) : start], data[start:]
    if hashlib.sha256(block).digest() != digest:
        raise CheckpointError(f"{path.name} is damaged: its hash does not match")
    try:
        about = _metadata(block)
        optimizer, step, elapsed = about["optimizer"], int(about["step"]), float(about["elapsed_s"])
        table = Table.parse(about[TABLE]) if data.startswith(MAGIC_PARTS) else None
        tensors = load(block)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot be parsed: {error}") from None
    if about.get("owner") != owner:
        raise CheckpointError(f"{path.name} belongs to {about.get('owner')}, not to {owner}")
    if optimizer not in get_args(OptimizerName):
        raise CheckpointError(f"{path.name} has an unknown optimizer {optimizer!r}")
    if table is not None:
        tensors |= _read_pairs(path, table)
    return Checkpoint(owner, SampleState(optimizer, step, tensors), elapsed)  # type: ignore[arg-type]


def _read_pairs(path: Path, table: Table) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint's table has. Places of the history without a pair are zero: no update uses them.

    Raises:
        CheckpointError: If the pairs are missing or damaged.
    """
    dtype = next(dtype for dtype, name in _DTYPES.items() if name == table.dtype)
    tensors = {name: torch.zeros(1, table.history, table.values, dtype=dtype) for name in HISTORY}
    try:
        with path.with_name(table.file).open("rb") as file:
            for key in table.pairs:
                if isinstance(key, tuple):
                    tensors |= {name: torch.empty(table.shape, dtype=dtype) for name in key}
                    into = _bytes(tensors[key[0]]), _bytes(tensors[key[1]])
                else:
                    into = _row(tensors, key)
                if not pairs.read(file.fileno(), table, key, into):
                    raise CheckpointError(f"{path.name} is damaged: the hash of a pair does not match")
    except OSError as error:
        raise CheckpointError(f"the pairs of {path.name} cannot be read: {error.strerror}") from None
    return tensors


def _metadata(block: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors block; the library reads them from files only."""
    length = int.from_bytes(block[:8], "little")
    about: dict[str, str] = json.loads(block[8 : 8 + length])["__metadata__"]
    return about
