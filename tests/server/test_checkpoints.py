from __future__ import annotations

from pathlib import Path

import pytest
import torch

from impasto_engine.batch import SampleState
from impasto_engine.optimizers import OPTIMIZERS
from impasto_server.checkpoints import Checkpoint, CheckpointError, read, write

STATE = SampleState("lbfgs", 7, OPTIMIZERS["lbfgs"].start(torch.rand(1, 3, 8, 9), 1.0, 2))


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """With its step and optimizer; writing again replaces it, and leaves nothing else in the folder."""
    path = tmp_path / "a"
    for _ in range(2):
        assert write(path, Checkpoint("job", STATE)) == path.stat().st_size
    found = read(path, "job")
    assert (found.optimizer, found.step) == ("lbfgs", 7)
    assert found.tensors.keys() == STATE.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in STATE.tensors.items())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("position", [0, 30, 60, 400, -1])
def test_a_flipped_bit_is_noticed(tmp_path: Path, position: int) -> None:
    """Wherever it is: in the magic word, the hash, the metadata or the tensors."""
    path = tmp_path / "a"
    write(path, Checkpoint("job", STATE))
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="a "):
        read(path, "job")


@pytest.mark.parametrize("length", [0, 10, 50, 500])
def test_a_truncated_file_is_noticed(tmp_path: Path, length: int) -> None:
    """As after a crash on a file system that does not keep its promises."""
    path = tmp_path / "a"
    write(path, Checkpoint("job", STATE))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError):
        read(path, "job")


def test_a_missing_or_foreign_file_is_told_apart(tmp_path: Path) -> None:
    """By a message for a person."""
    path = tmp_path / "a"
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(path, "job")
    write(path, Checkpoint("somebody else", STATE))
    with pytest.raises(CheckpointError, match="belongs to somebody else"):
        read(path, "job")


def test_a_failed_write_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no partial one."""
    path = tmp_path / "a"
    write(path, Checkpoint("job", STATE))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write(path, Checkpoint("other", STATE))
    assert read(path, "job").step == 7
    assert list(tmp_path.iterdir()) == [path]
