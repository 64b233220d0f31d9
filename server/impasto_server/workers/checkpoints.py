"""Stores a canvas's state in a file: complete or absent, verified by hash, and without code.

A file has a magic string with the version, the SHA-256 of the rest, and a safetensors block whose metadata name its owner. It
is written under a temporary name, synced and renamed, so that a crash leaves the old file or the new one; the previous
checkpoint is kept, in case the disk loses the newest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from impasto_engine.batch import SampleState
from impasto_engine.parameters import OptimizerName
from impasto_server.failpoints import hit
from impasto_server.files import written_whole
from impasto_server.workers.checkpoint_format import HASH_BYTES, MAGIC
from impasto_server.workers.messages import checkpoint_files

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


def write(path: Path, checkpoint: Checkpoint) -> int:
    """Write a checkpoint, and keep the previous one beside it; return its size in bytes.

    Raises:
        OSError: If it cannot be written; the previous one is kept then.
    """
    state = checkpoint.state
    about = {
        "owner": checkpoint.owner,
        "optimizer": state.optimizer,
        "step": str(state.step),
        "elapsed_s": str(checkpoint.elapsed_s),
    }
    hit("checkpoint.before_write")
    newest, before = checkpoint_files(path)
    with written_whole(newest, partial=path.with_name(path.name + ".partial"), before_rename=_keep(before, newest)) as file:
        file.write(MAGIC)
        file.write(bytes(HASH_BYTES))
        digest, length = hashlib.sha256(), 0
        for piece in _pieces(state.tensors, about):
            digest.update(piece)
            length += file.write(piece)
        file.seek(len(MAGIC))
        file.write(digest.digest())
        hit("checkpoint.before_fsync")
    hit("checkpoint.after_rename")
    return len(MAGIC) + HASH_BYTES + length


def _keep(before: Path, newest: Path) -> Callable[[], None]:
    """Return a function that keeps the checkpoint that is about to be replaced."""

    def keep() -> None:
        hit("checkpoint.before_rename")
        if newest.exists():
            newest.replace(before)

    return keep


def _pieces(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors block without copying the whole: the library's writer would make two copies."""
    header: dict[str, Any] = {"__metadata__": about}
    buffers = []
    offset = 0
    for name, tensor in tensors.items():
        buffer = memoryview(tensor.contiguous().numpy()).cast("B")  # type: ignore[arg-type]
        end = offset + len(buffer)
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        buffers.append(buffer)
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
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
    if not data.startswith(MAGIC):
        raise CheckpointError(f"{path.name} is not a checkpoint of this version")
    start = len(MAGIC) + HASH_BYTES
    digest, block = data[len(MAGIC) : start], data[start:]
    if hashlib.sha256(block).digest() != digest:
        raise CheckpointError(f"{path.name} is damaged: its hash does not match")
    try:
        about = _metadata(block)
        optimizer, step, elapsed = about["optimizer"], int(about["step"]), float(about["elapsed_s"])
        tensors = load(block)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot be parsed: {error}") from None
    if about.get("owner") != owner:
        raise CheckpointError(f"{path.name} belongs to {about.get('owner')}, not to {owner}")
    if optimizer not in get_args(OptimizerName):
        raise CheckpointError(f"{path.name} has an unknown optimizer {optimizer!r}")
    return Checkpoint(owner, SampleState(optimizer, step, tensors), elapsed)  # type: ignore[arg-type]


def _metadata(block: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors block; the library reads them from files only."""
    length = int.from_bytes(block[:8], "little")
    about: dict[str, str] = json.loads(block[8 : 8 + length])["__metadata__"]
    return about
