"""What the commands show, and the options they share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from impasto.pictures import Picture, UploadedImage
from impasto.results import Event, Heartbeat, JobInfo, Paused, Result, Snapshot, Started, Step

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
WIDE = 120
"""Columns from which a terminal has room for a loss's parts."""
UPLOADED = "sha256:"
"""Before the id of an uploaded picture."""
SERVER = click.option(
    "--server",
    envvar="IMPASTO_SERVER",
    show_envvar=True,
    default="localhost:50051",
    show_default=True,
    help="Address of the server, HOST:PORT.",
)
SECONDS = click.FloatRange(min=0, min_open=True)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def print_json(value: Any) -> None:
    """Print a value for scripts."""
    click.echo(json.dumps(value, indent=2))


def read_picture(name: str) -> Picture:
    """Return a path, the bytes of stdin for ``-``, or an uploaded picture for ``sha256:ID``."""
    if name.startswith(UPLOADED):
        return UploadedImage(name.removeprefix(UPLOADED))
    return sys.stdin.buffer.read() if name == "-" else Path(name)


def write_picture(result: Result, out: str) -> None:
    """Write the picture to a file, or to stdout for ``-``.

    Raises:
        ClickException: If it cannot be written.
    """
    if out == "-":
        sys.stdout.buffer.write(result.data)
        return
    try:
        result.save(out)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot write {out}: {error}") from None


def check_output(out: str) -> None:
    """Refuse a target that cannot be written before minutes are spent on its picture.

    Raises:
        ClickException: If its folder is not there or its ending is not a picture's.
    """
    if out == "-":
        return
    path = Path(out)
    if not path.parent.is_dir():
        raise click.ClickException(f"cannot write {out}: there is no folder {path.parent}")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise click.ClickException(f"cannot write {out}: its name must end in .png, .jpg or .webp")


EARLY = {
    "stalled": "no better canvas could be found",
    "converged": "the loss fell too slowly",
    "deadline": "its time limit came",
}
"""Why a job that succeeded did not do all its steps."""


def summary(result: Result) -> str:
    """Return one line on how a picture came about."""
    losses, job = result.losses, result.job
    network = f"{job.network.id} filters" if job.network else "unknown filters"
    why = EARLY.get(job.stop_reason)
    early = f" of {job.steps} ({why})" if why else ""
    return (
        f"{job.width_px} x {job.height_px}, {job.step} steps{early} in {result.timings.optimize_s:.1f} s on {job.device}"
        f" with {network}; loss {losses.total:.4g}"
        f" (content {losses.content:.4g}, style {losses.style:.4g}, variation {losses.total_variation:.4g})"
    )


def tell(result: Result) -> None:
    """Say on stderr how a picture came about, and what its owner should know about it."""
    click.echo(summary(result), err=True)
    for warning in result.warnings:
        click.echo(f"Warning: {warning.message}", err=True)


def job_line(job: JobInfo, *, with_owner: bool = False) -> str:
    """Return one line on a job, with its owner where the caller sees those of several."""
    where = f"{job.step}/{job.steps}" if job.state != "queued" else f"{job.queue_position} before it"
    size = f"{job.width_px}x{job.height_px}"
    created = f"{job.created.astimezone():%Y-%m-%d %H:%M:%S}"
    loss = f"{job.losses.total:.4g}" if job.losses else ""
    note = job.error_message or EARLY.get(job.stop_reason, "")
    note = f"{job.owner}  {note}" if with_owner else note
    return f"{job.job_id}  {job.state:<9}  {where:>13}  {size:>9}  {created}  {loss:<9} {note}".rstrip()


class ProgressBar:
    """A live bar on stderr: steps, losses, time left. Silent where stderr is no terminal.

    Args:
        quiet: Show nothing.
        preview_dir: Where previews are written, if anywhere.
    """

    def __init__(self, *, quiet: bool, preview_dir: Path | None = None) -> None:
        console = Console(stderr=True)
        self._narrow = console.width < WIDE
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12 if self._narrow else 40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("connecting", total=None, losses="", left="")
        self._preview_dir = preview_dir

    def __enter__(self) -> Callable[[Event], None]:
        """Return what takes the events."""
        self._progress.start()
        return self.show

    def __exit__(self, *error: object) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Snapshot):
            self._show_job(event.job)
        elif isinstance(event, Started):
            self._progress.update(self._task, description=f"painting on {event.device}")
        elif isinstance(event, Paused):
            self._progress.update(self._task, description=event.reason, completed=event.step)
        elif isinstance(event, Heartbeat) and event.state == "queued":
            self._progress.update(self._task, description=f"waiting, {event.queue_position} before it")
        elif isinstance(event, Step):
            self._show_step(event)

    def _show_job(self, job: JobInfo) -> None:
        waiting = f"waiting, {job.queue_position} before it"
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
            (self._preview_dir / f"step-{step.step:05d}.jpg").write_bytes(step.preview)
