"""Progress on a terminal or in a notebook: of one job, and of many."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from impasto.results import Event, Heartbeat, JobInfo, Paused, Result, Snapshot, Started, Step

LINE_S = 5.0
"""Time between the lines on a job's steps, where there is no terminal."""
WIDE = 120
"""Minimum terminal width, in columns, to show the parts of the loss."""


def _visible(console: Console) -> bool:
    """Whether a bar can be shown: on a terminal or in a notebook. A log file gets none, even with FORCE_COLOR."""
    return console.is_jupyter or (sys.stderr is not None and sys.stderr.isatty())


class ProgressBar:
    """A live bar on stderr: steps, losses, time left. Hidden if stderr is not a terminal.

    Args:
        quiet: Show nothing.
        preview_dir: Folder for previews, if any.
        lines: Print a line every few seconds instead, where stderr is not a terminal.
    """

    def __init__(self, *, quiet: bool, preview_dir: Path | None = None, lines: bool = False) -> None:
        console = Console(stderr=True)
        self.quiet = quiet
        self._narrow = console.width < WIDE
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12 if self._narrow else 40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=quiet or not _visible(console),
        )
        self._task = self._progress.add_task("connecting", total=None, losses="", left="")
        self._preview_dir = preview_dir
        self._lines = lines and self._progress.disable
        self._told_at = -math.inf

    def __enter__(self) -> Callable[[Event], None]:
        """Return the function to call with events."""
        self._progress.start()
        return self.show

    def __exit__(self, *error: object) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show an event."""
        if self._lines:
            self._tell(event)
        if isinstance(event, Snapshot):
            self._show_job(event.job)
        elif isinstance(event, Started):
            self._progress.update(self._task, description=f"painting on {event.device}")
        elif isinstance(event, Paused):
            self._progress.update(self._task, description=event.reason, completed=event.step)
        elif isinstance(event, Heartbeat) and event.state == "queued":
            self._progress.update(self._task, description=f"waiting, {event.queue_position} ahead")
        elif isinstance(event, Step):
            self._show_step(event)

    def _tell(self, event: Event) -> None:
        """Print a line for what is not a step, and for a step every few seconds."""
        if isinstance(event, Started):
            click.echo(f"painting on {event.device} after {event.step} steps", err=True)
        elif isinstance(event, Paused):
            click.echo(f"{event.reason} after {event.step} steps", err=True)
        elif isinstance(event, Heartbeat) and event.state == "queued":
            click.echo(f"waiting, {event.queue_position} ahead", err=True)
        elif isinstance(event, Step) and (time.monotonic() - self._told_at > LINE_S or event.step == event.steps):
            self._told_at = time.monotonic()
            left = f"{event.remaining_s:.0f} s left"
            click.echo(f"step {event.step} of {event.steps}, loss {event.losses.total:.4f}, {left}", err=True)

    def _show_job(self, job: JobInfo) -> None:
        waiting = f"waiting, {job.queue_position} ahead"
        text = waiting if job.state == "queued" else f"painting on {job.device}"
        self._progress.update(self._task, description=text, total=job.steps, completed=job.step)

    def _show_step(self, step: Step) -> None:
        losses = step.losses
        parts = f" = content {losses.content:.4f} + style {losses.style:.4f}"
        self._progress.update(
            self._task,
            completed=step.step,
            total=step.steps,
            losses=f"loss {losses.total:.4f}" + ("" if self._narrow else parts),
            left=f"{step.remaining_s:.0f} s left",
        )
        if self._preview_dir is not None and step.preview is not None:
            self._save_preview(self._preview_dir / f"step-{step.step:05d}.jpg", step.preview)

    def save_last_preview(self, result: Result) -> None:
        """Save a preview of the finished picture too: the last step is seldom one that had a preview, and may be the first."""
        if self._preview_dir is None:
            return
        small = result.image.convert("RGB")
        small.thumbnail((result.job.output.get("preview_size_px") or 256,) * 2)  # older servers do not say it
        data = io.BytesIO()
        small.save(data, "JPEG", quality=90)
        self._save_preview(self._preview_dir / f"step-{result.job.step:05d}.jpg", data.getvalue())

    def _save_preview(self, path: Path, data: bytes) -> None:
        try:
            path.write_bytes(data)
        except OSError as error:  # the job continues without previews
            self._preview_dir = None
            click.echo(f"Warning: no more previews are saved: {path}: {error.strerror or error}", err=True)


class ManyBar:
    """A bar on the pictures of a ``map``: how many are done, how many failed, and the time left.

    Args:
        total: Number of pictures; None if it is unknown.
        quiet: Show nothing.
    """

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=quiet or not _visible(console),
        )
        self._task = self._progress.add_task("painting", total=total, left="")
        self._failed = 0

    def __enter__(self) -> ManyBar:
        """Start to show."""
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def advance(self, *, failed: bool) -> None:
        """Count a picture that has ended."""
        self._failed += failed
        remaining = self._progress.tasks[0].time_remaining
        left = "" if remaining is None else f"{remaining:.0f} s left"
        text = "painting" + (f", {self._failed} failed" if self._failed else "")
        self._progress.update(self._task, advance=1, description=text, left=left)
