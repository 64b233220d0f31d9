"""The lines of a batch: the rate and the time left count what was painted during the run, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import impasto
from impasto.batch.inputs import Pair
from impasto.batch.run import Outcome
from impasto.cli import batch_progress
from impasto.cli.batch_progress import BatchProgress

PAIR = Pair(Path("p.png"), (impasto.Style(Path("s.png")),), "p-s.png")
JOB: Any = SimpleNamespace(losses=SimpleNamespace(total=0.5), timings=SimpleNamespace(optimize_s=2.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that stands."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(batch_progress.time, "monotonic", lambda: now.s)
    return now


def progress(total: int) -> tuple[BatchProgress, Any]:
    run: Any = SimpleNamespace(shares=0.0, painted=0.0, running=0, painting_since=None)
    return BatchProgress(run, total, quiet=False), run


def test_pictures_that_took_no_time_do_not_count(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither those that failed, nor those of an earlier run, nor the time before the first job."""
    show, run = progress(12)
    for _ in range(3):
        show(Outcome(PAIR, "failed", error=ValueError("damaged")))
        show(Outcome(PAIR, "kept"))
        show(Outcome(PAIR, "succeeded", JOB))
    assert show.left() == ""
    said = capsys.readouterr().err
    assert "per minute" not in said
    assert "3/12  p-s.png  loss 0.5, 2.0 s, already on the server\n" in said
    run.painting_since, clock.s = clock.s, clock.s + 30
    show(Outcome(PAIR, "succeeded", JOB, painted=1.0))
    assert capsys.readouterr().err == "10/12  p-s.png  loss 0.5, 2.0 s; 2.0 per minute, 60 s left\n"


def test_shares_of_running_and_joined_pictures_count(clock: SimpleNamespace) -> None:
    """A joined picture counts by the share that was painted since; what is left of it is known."""
    show, run = progress(3)
    run.painting_since, clock.s = clock.s, clock.s + 60
    show(Outcome(PAIR, "succeeded", JOB, painted=0.5))
    run.shares, run.painted = 1.5, 0.5
    assert show.left() == "1.0 per minute, 30 s left"
    run.shares = run.painted = 0.0
    show(Outcome(PAIR, "succeeded", JOB, painted=0.5))
    show(Outcome(PAIR, "kept"))
    assert show.left() == "1.0 per minute"
