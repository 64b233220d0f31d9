"""Progress of a batch on stderr: pictures done, rate, time left for the whole run."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from impasto.batch.run import Batch, Outcome

TICK_S = 0.5


class BatchProgress:
    """Shows a bar on a terminal, and a line for each picture elsewhere.

    Args:
        run: The run.
        total: Number of its pairs.
        quiet: Show nothing.
    """

    def __init__(self, run: Batch, total: int, *, quiet: bool) -> None:
        self._run, self._total, self._quiet = run, total, quiet
        self._terminal = sys.stderr is not None and sys.stderr.isatty() and not quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            disable=not self._terminal,  # never cursor movements in a log file
        )
        self._task = self._progress.add_task("painting", total=total, counts=f"0/{total}", left="")
        self._ended = self._failed = 0
        self._painted = 0.0
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> BatchProgress:
        """Start to show."""
        self._progress.start()
        if self._terminal:
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the last state on the screen."""
        self._over.set()
        self._update()
        self._progress.stop()

    def __call__(self, outcome: Outcome) -> None:
        """Show what became of a pair."""
        self._ended += outcome.status != "stopped"
        self._painted += outcome.painted
        self._failed += outcome.status == "failed"
        self._update()
        if self._terminal or self._quiet or outcome.status not in ("succeeded", "failed"):
            return
        job, left = outcome.job, self.left()
        how = (
            f"loss {job.losses.total:.4g}, {job.timings.optimize_s:.1f} s" if job and job.losses else f"failed: {outcome.error}"
        )
        if outcome.status == "succeeded" and not outcome.painted:
            how += ", already on the server"
        click.echo(f"{self._ended}/{self._total}  {outcome.pair.title}  {how}" + (f"; {left}" if left else ""), err=True)

    def say(self, text: str) -> None:
        """Print a line between the others."""
        if self._terminal:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    def left(self) -> str:
        """Return the rate and the time left for the whole run, in words; empty before there is a measure.

        Only what was painted during this run counts: pictures that failed or that an earlier run has painted take no time.
        """
        since, done = self._run.painting_since, self._painted + self._run.painted
        elapsed = 0.0 if since is None else time.monotonic() - since
        if done <= 0 or elapsed <= 0:
            return ""
        remaining = max(0.0, self._total - self._ended - self._run.shares)
        left = f", {_span(remaining * elapsed / done)} left" if remaining else ""
        return f"{60 * done / elapsed:.1f} per minute{left}"

    def _tick(self) -> None:
        while not self._over.wait(TICK_S):
            self._update()

    def _update(self) -> None:
        failed = f", {self._failed} failed" if self._failed else ""
        self._progress.update(
            self._task,
            completed=self._ended + self._run.shares,
            counts=f"{self._ended}/{self._total}{failed}, {self._run.running} under way",
            left=self.left(),
        )


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
