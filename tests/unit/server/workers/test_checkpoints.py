from __future__ import annotations

from pathlib import Path

import pytest
import torch

from impasto_engine.optimizers import OPTIMIZERS
from impasto_engine.samples import SampleState
from impasto_server.workers.checkpoints import Checkpoint, CheckpointError, latest, read, write
from impasto_server.workers.messages import checkpoint_files

STATE = SampleState("lbfgs", 7, OPTIMIZERS["lbfgs"].start(torch.rand(1, 3, 8, 9), 1.0, 2))


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """With its step and optimizer; the one before is kept, and nothing else is left in the folder."""
    path = tmp_path / "a"
    for _ in range(2):
        assert write(path, Checkpoint("job", STATE, 1.5)) == path.stat().st_size
    found = read(path, "job")
    assert (found.state.optimizer, found.state.step, found.elapsed_s) == ("lbfgs", 7, 1.5)
    assert found.state.tensors.keys() == STATE.tensors.keys()
    assert all(torch.equal(found.state.tensors[name], tensor) for name, tensor in STATE.tensors.items())
    assert set(tmp_path.iterdir()) == set(checkpoint_files(path))


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
    assert read(path, "job").state.step == 7
    assert list(tmp_path.iterdir()) == [path]


def test_the_newest_that_can_be_used_is_gone_on_from(tmp_path: Path) -> None:
    """And whoever goes on is told of those that cannot."""
    path = tmp_path / "a"
    assert latest(path, "job") == (None, "")
    for step in (1, 2):
        write(path, Checkpoint("job", SampleState("lbfgs", step, STATE.tensors)))
    found, note = latest(path, "job")
    assert found
    assert (found.state.step, note) == (2, "")
    path.write_bytes(b"rubbish")
    found, note = latest(path, "job")
    assert found
    assert found.state.step == 1
    assert "not a checkpoint" in note
    found, note = latest(path, "somebody else")
    assert found is None
    assert "belongs to job" in note
