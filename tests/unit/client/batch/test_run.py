"""What an error of one pair means for the others, with a client that is told what to raise."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import impasto
from impasto.batch.inputs import Pair
from impasto.batch.manifest import NAME, Manifest, entries
from impasto.batch.run import Batch, Outcome

PNG = b"\x89PNG\r\n\x1a\n"


class Raising:
    """A client whose submissions raise.

    Args:
        error: Returns the error of each submission.
    """

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    def submit(self, *pictures: object, **options: object) -> None:
        raise self._error()

    def cancel_quietly(self, request_id: str) -> bool:
        return True


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    for name in "abcs":
        (tmp_path / name).write_bytes(PNG + name.encode())
    return [Pair(tmp_path / name, (impasto.Style(tmp_path / "s"),), f"{name}.png") for name in "abc"]


def painted(pairs: list[Pair], folder: Path, error: Callable[[Batch], Exception]) -> tuple[Batch, list[Outcome]]:
    """Return what became of the pairs, one after another."""
    client: Any = Raising(lambda: error(run))
    client.upload = lambda picture: run._hashed(picture, "")
    with Manifest(folder) as manifest:
        run = Batch(client, folder, manifest, {}, 0)
        return run, list(run.paint(pairs, 1))


def test_a_request_that_is_gone_when_the_run_stops_has_not_failed(tmp_path: Path, pairs: list[Pair]) -> None:
    """It was being cancelled; the next run paints it."""

    def gone(run: Batch) -> Exception:
        run.interrupt()
        return impasto.NotFound("there is no job 'batch-1', or it has expired", reason="JOB_NOT_FOUND")

    run, outcomes = painted(pairs, tmp_path, gone)
    assert [outcome.status for outcome in outcomes] == ["stopped"]
    assert run.fault is None
    assert list(entries(tmp_path / NAME)) == []


def test_a_cancelled_job_has_no_successor_when_the_run_stops(tmp_path: Path, pairs: list[Pair]) -> None:
    """The stop itself has cancelled it, under another name of the same photo."""
    submitted: list[str] = []

    def submit(*pictures: object, request_id: str, **options: object) -> SimpleNamespace:
        submitted.append(request_id)
        run.interrupt()
        return SimpleNamespace(acknowledgement=SimpleNamespace(state="cancelled", step=0, steps=3))

    client: Any = Raising(AssertionError)
    client.upload, client.submit = lambda picture: run._hashed(picture, ""), submit
    with Manifest(tmp_path) as manifest:
        run = Batch(client, tmp_path, manifest, {}, 0)
        assert [outcome.status for outcome in run.paint(pairs, 1)] == ["stopped"]
    assert len(submitted) == 1


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG])
def test_a_file_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path, pairs: list[Pair], number: int) -> None:
    run, outcomes = painted(pairs, tmp_path, lambda _: OSError(number, os.strerror(number), "a.png"))
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert run.fault is None
    assert len(list(entries(tmp_path / NAME))) == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_ends_the_run(tmp_path: Path, pairs: list[Pair], number: int) -> None:
    run, outcomes = painted(pairs, tmp_path, lambda _: OSError(number, os.strerror(number), "a.png"))
    assert [outcome.status for outcome in outcomes] == ["stopped"]
    assert isinstance(run.fault, OSError)


def test_a_folder_that_has_vanished_ends_the_run(tmp_path: Path, pairs: list[Pair]) -> None:
    """It is not made again, since its manifest is gone."""
    out = tmp_path / "out"
    out.mkdir()

    def vanish(run: Batch) -> Exception:
        shutil.rmtree(out)
        try:
            run._save(out / "x/a.png", b"x")
        except OSError as error:
            return error
        return AssertionError("it was saved")

    run, outcomes = painted(pairs, out, vanish)
    assert [outcome.status for outcome in outcomes] == ["stopped"]
    assert isinstance(run.fault, FileNotFoundError)
    assert run.fault.filename == str(out)
