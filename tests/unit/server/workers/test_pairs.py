"""Checkpoints that have only the new pairs of a history, and the file of slots beside them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from impasto_engine import optimizers
from impasto_engine.optimizers import HISTORY, OPTIMIZERS
from impasto_engine.samples import SampleState, Snapshot
from impasto_engine.slots import Slots
from impasto_engine.streams import Marker
from impasto_server.failpoints import NAMES
from impasto_server.workers import checkpoint_format, checkpoints, direct, pairs
from impasto_server.workers.checkpoints import Checkpoint, CheckpointError, latest, read
from impasto_server.workers.messages import checkpoint_files
from impasto_server.workers.pairs import Ledger, PairsLostError, Table

CPU = torch.device("cpu")
PAIR_BYTES = 2 * 3 * 8 * 9 * 4
SLOT_BYTES = 2 * direct.ALIGNMENT


@dataclass
class Job:
    """A job whose pairs are random, and where it is stored."""

    path: Path
    history: int = 4
    step: int = 0
    slots: Slots = field(default_factory=Slots)
    saved: list[SampleState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots.add(OPTIMIZERS["lbfgs"].start(torch.rand(1, 3, 8, 9), 1.0, self.history))
        self.ledger = Ledger(self.path, self.step)

    def advance(self, steps: int, *, kept: bool = True) -> None:
        """Take steps; each overwrites the next place of the ring if its pair is kept."""
        state = self.slots.state
        for _ in range(steps):
            self.step += 1
            for name in ("canvas", "trial", "gradient", "direction", "products"):
                state[name] = torch.rand_like(state[name])
            if kept:
                for name in HISTORY:
                    state[name][0, int(state["next"])].uniform_()
                state["next"] = (state["next"] + 1) % self.history
                state["count"] = (state["count"] + 1).clamp_max(self.history)

    def state(self, *, whole: bool = False) -> SampleState:
        """Return what a worker would write."""
        since = None if whole or self.ledger.step is None else self.step - self.ledger.step
        return Snapshot("lbfgs", self.step, self.slots.row(0, since), Marker(CPU)).fetch()

    def save(self, *, whole: bool = False) -> int:
        """Write a checkpoint; return how many bytes."""
        size = checkpoints.write(self.path, Checkpoint("job", self.state(whole=whole)), self.ledger)
        self.saved.append(SampleState("lbfgs", self.step, self.slots.row(0)))
        return size

    @property
    def pairs(self) -> Path:
        """The file of its pairs."""
        return self.path.with_name(self.ledger.table.file)


def same(found: SampleState, expected: SampleState) -> bool:
    """Whether two states are equal, whatever is at places of the ring that hold no pair."""
    assert found.tensors.keys() == expected.tensors.keys()
    assert (found.step, found.valid) == (expected.step, expected.valid)
    valid = list(expected.valid)
    return all(
        torch.equal(found.tensors[name][:, valid], tensor[:, valid])
        if name in HISTORY
        else torch.equal(found.tensors[name], tensor)
        for name, tensor in expected.tensors.items()
    )


def as_read(path: Path) -> SampleState:
    return read(path, "job").state


@pytest.mark.parametrize("history", [1, 2, 4])
@pytest.mark.parametrize("steps", [(1, 1, 1, 1, 1, 1, 1), (3, 0, 1, 3, 2, 3, 2), (9, 1, 4, 5, 0, 0, 9), (2, 7, 1)])
def test_each_state_comes_back_bit_for_bit(tmp_path: Path, history: int, steps: tuple[int, ...]) -> None:
    """The newest and the one before, whatever the number of steps between; the file has three histories and no more."""
    job = Job(tmp_path / "a", history)
    for count in steps:
        job.advance(count)
        job.save()
        for file, state in zip(checkpoint_files(job.path), reversed(job.saved), strict=False):
            assert same(as_read(file), state)
            assert checkpoint_format.is_whole(file)
    assert set(tmp_path.iterdir()) == {*checkpoint_files(job.path), job.pairs}
    assert job.pairs.stat().st_size <= (3 * history + 6) * SLOT_BYTES


def test_only_new_pairs_are_copied_and_written(tmp_path: Path) -> None:
    """Two of four, and the canvases; a later state does not write them again."""
    job = Job(tmp_path / "a")
    job.advance(4)
    job.save()
    job.advance(2)
    assert job.state().tensors["steps"].shape[1] == 2
    written = job.save()
    assert written == 4 * PAIR_BYTES + job.path.stat().st_size
    job.advance(3, kept=False)
    assert job.save() <= 5 * PAIR_BYTES + job.path.stat().st_size
    assert same(as_read(job.path), job.saved[-1])


def test_a_history_that_began_anew_comes_back(tmp_path: Path) -> None:
    """Its old pairs are not written, nor those of a ring that is not full."""
    job = Job(tmp_path / "a")
    job.advance(5)
    job.save()
    job.slots.state["count"] = torch.zeros_like(job.slots.state["count"])
    job.advance(1, kept=False)
    job.save()
    assert as_read(job.path).valid == ()
    assert not as_read(job.path).tensors["steps"].any()
    for count in (1, 2, 2):
        job.advance(count)
        job.save()
        assert same(as_read(job.path), job.saved[-1])


def test_rejected_steps_change_no_pair(tmp_path: Path) -> None:
    """The place that a rejected step could have changed is as it was."""
    job = Job(tmp_path / "a")
    for kept in (True, True, False, True, False, False, True):
        job.advance(2, kept=kept)
        job.save()
        assert same(as_read(job.path), job.saved[-1])


def test_a_slot_that_a_checkpoint_refers_to_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kills the worker, at whatever point: it leaves the old state or the new one, complete, and the one before."""
    job = Job(tmp_path / "a" / "job")
    job.path.parent.mkdir()
    copies: list[tuple[str, int, Path]] = []

    def hit(name: str) -> None:
        copies.append((name, len(job.saved), tmp_path / f"copy {len(copies)}"))
        shutil.copytree(job.path.parent, copies[-1][2])

    for module in (checkpoints, pairs):
        monkeypatch.setattr(module, "hit", hit)
    for count in (2, 2, 1, 3, 6, 1, 2):
        job.advance(count)
        job.save()
    assert {name for name, _, _ in copies} == {name for name in NAMES if name.startswith("checkpoint.")}
    for name, done, folder in copies:
        found, _ = latest(folder / "job", "job")
        if found is None:
            assert not done
            continue
        at = done if name == "checkpoint.after_rename" else done - 1
        assert same(found.state, job.saved[at])
        if done > 1:
            (folder / "job").unlink()
            assert same(as_read(folder / "job.previous"), job.saved[at - 1])


@pytest.mark.parametrize("where", ["pairs", "sync of pairs", "file", "folder"])
def test_pairs_that_could_not_be_written_are_written_with_the_next_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As when the disk is full for a while: the states before stay usable, and the next has all pairs."""
    job = Job(tmp_path / "a")
    for _ in range(2):
        job.advance(3)
        job.save()
    left = [3]

    def full(name: str) -> Callable[..., int]:
        real: Callable[..., int] = getattr(os, name)

        def act(*args: object) -> int:
            left[0] -= 1
            if name != "pwrite" or left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        return act

    for _ in range(3):
        job.advance(1)
        with monkeypatch.context() as patch:
            if where == "pairs":
                patch.setattr(os, "pwrite", full("pwrite"))
            elif where == "sync of pairs":
                patch.setattr(direct, "_sync", full("fsync"))
            elif where == "file":
                patch.setattr(os, "fsync", full("fsync"))
            else:
                patch.setattr("impasto_server.files.sync_folder", full("fsync"))
            with pytest.raises(OSError, match="No space"):
                job.save()
        found, note = latest(job.path, "job")
        assert found
        assert not note
        if where != "folder":
            assert same(found.state, job.saved[-1])
            assert same(as_read(checkpoint_files(job.path)[1]), job.saved[-2])
    job.save()
    assert same(as_read(job.path), job.saved[-1])
    assert list(tmp_path.glob("*.partial")) == []


def test_a_damaged_pair_is_noticed(tmp_path: Path) -> None:
    """The state before is used instead, with a note; without any the job starts over."""
    job = Job(tmp_path / "a")
    for count in (3, 2):
        job.advance(count)
        job.save()
    newest, before = (checkpoint_format.table_of(file) for file in checkpoint_files(job.path))
    assert newest
    assert before
    assert {place for place, pair in newest.pairs.items() if pair in before.pairs.values()} == {1, 2}

    def damage(slot: int) -> None:
        data = bytearray(job.pairs.read_bytes())
        data[slot * SLOT_BYTES + SLOT_BYTES // 2 + 7] ^= 1
        job.pairs.write_bytes(data)

    damage(newest.pairs[0].slot)
    assert not checkpoint_format.is_whole(job.path)
    assert checkpoint_format.newest_whole(job.path) == checkpoint_files(job.path)[1]
    found, note = latest(job.path, "job")
    assert found
    assert same(found.state, job.saved[0])
    assert "the hash of a pair does not match" in note
    damage(newest.pairs[1].slot)
    assert latest(job.path, "job")[0] is None
    assert checkpoint_format.newest_whole(job.path) is None


@pytest.mark.parametrize("left", [0, SLOT_BYTES - 1, None])
def test_pairs_that_are_missing_are_noticed(tmp_path: Path, left: int | None) -> None:
    """A file that is too short, or that has gone."""
    job = Job(tmp_path / "a")
    job.advance(2)
    job.save()
    if left is None:
        job.pairs.unlink()
    else:
        os.truncate(job.pairs, left)
    with pytest.raises(CheckpointError, match="a "):
        read(job.path, "job")
    assert not checkpoint_format.is_whole(job.path)


def test_a_worker_whose_file_has_gone_writes_all_pairs_again(tmp_path: Path) -> None:
    """At once if it has them; otherwise with the next state."""
    job = Job(tmp_path / "a")
    for whole in (False, True):
        job.advance(4)
        job.save()
        job.pairs.unlink()
        job.advance(1)
        if not whole:
            with pytest.raises(PairsLostError):
                job.save()
        job.save(whole=whole)
        assert same(as_read(job.path), job.saved[-1])


def test_a_job_that_goes_on_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    """All pairs once; the file of the process before is removed when no checkpoint refers to it."""
    first = Job(tmp_path / "a")
    first.advance(5)
    first.save()
    stray = tmp_path / "a.0123.pairs"
    stray.write_bytes(b"")
    other = tmp_path / "a2.0123.pairs"
    other.write_bytes(b"")
    second = Job(tmp_path / "a", step=first.step, slots=first.slots)
    second.slots.remove(1)
    second.ledger = Ledger(second.path, None)
    second.advance(1)
    assert second.save() == 6 * PAIR_BYTES + second.path.stat().st_size
    assert set(tmp_path.iterdir()) == {*checkpoint_files(second.path), first.pairs, second.pairs, other}
    second.advance(1)
    second.save()
    assert set(tmp_path.iterdir()) == {*checkpoint_files(second.path), second.pairs, other}
    assert same(as_read(second.path), second.saved[-1])
    checkpoint_format.remove(second.path)
    assert set(tmp_path.iterdir()) == {other}


def test_a_state_without_history_is_one_file(tmp_path: Path) -> None:
    """Adam's, as ever."""
    path = tmp_path / "a"
    state = SampleState("adam", 3, OPTIMIZERS["adam"].start(torch.rand(1, 3, 8, 9), 0.1, 0))
    ledger = Ledger(path, 0)
    for _ in range(2):
        assert checkpoints.write(path, Checkpoint("job", state), ledger) == path.stat().st_size
    assert path.read_bytes().startswith(checkpoint_format.MAGIC)
    assert all(torch.equal(as_read(path).tensors[name], tensor) for name, tensor in state.tensors.items())
    assert set(tmp_path.iterdir()) == set(checkpoint_files(path))


def test_a_checkpoint_and_its_pairs_become_one_file(tmp_path: Path) -> None:
    """Which any version reads; a file that is one already stays where it is."""
    assert checkpoint_format.HISTORY == optimizers.HISTORY
    job = Job(tmp_path / "a")
    job.advance(3)
    job.save()
    one = checkpoint_format.as_one_file(job.path, tmp_path / "one")
    assert one == tmp_path / "one"
    assert one.read_bytes().startswith(checkpoint_format.MAGIC)
    assert checkpoint_format.is_whole(one)
    assert same(as_read(one), job.saved[-1])
    assert as_read(one).tensors["steps"].shape == (1, 4, 3 * 8 * 9)
    assert checkpoint_format.as_one_file(one, tmp_path / "two") == one
    checkpoint_format.keep(job.path, one)
    assert same(as_read(job.path), job.saved[-1])
    assert set(tmp_path.iterdir()) == {*checkpoint_files(job.path), job.pairs}
    shutil.copy(job.path, one)
    checkpoint_format.keep(job.path, one)
    assert set(tmp_path.iterdir()) == set(checkpoint_files(job.path))


@pytest.mark.parametrize(
    "text", ["", "[]", '["../a", 1, [1], "F32", []]', '["a", 1, [1], "I8", []]', '["a", 1, [1], "F32", [[1, 0, ""]]]']
)
def test_a_table_that_makes_no_sense_is_refused(text: str) -> None:
    """It would read or write elsewhere."""
    with pytest.raises(ValueError, match="no table of pairs"):
        Table.parse(text)


@pytest.mark.parametrize("length", [0, 20, 60, 70, 300])
def test_a_truncated_file_with_a_table_is_noticed(tmp_path: Path, length: int) -> None:
    """And refers to nothing."""
    job = Job(tmp_path / "a")
    job.advance(2)
    job.save()
    job.path.write_bytes(job.path.read_bytes()[:length])
    assert not checkpoint_format.is_whole(job.path)
    assert checkpoint_format.table_of(job.path) is None
    with pytest.raises(CheckpointError):
        read(job.path, "job")
    job.advance(1)
    job.save()
    assert same(as_read(job.path), job.saved[-1])
