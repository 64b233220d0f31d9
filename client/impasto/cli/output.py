"""Output of the commands, and the options that they share."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from impasto.credentials import VARIABLES
from impasto.display import shortened
from impasto.pictures import Picture, UploadedImage
from impasto.results import Event, Heartbeat, JobInfo, Paused, Result, Snapshot, Started, Step

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
FOLLOWED: set[tuple[str, str]] = set()
"""Server and id of the jobs that this process waits for."""
LINE_S = 5.0
"""Time between the lines on a job's steps, where there is no terminal."""
WIDE = 120
"""Minimum terminal width, in columns, to show the parts of the loss."""
UPLOADED = "sha256:"
"""Prefix of the id of an uploaded picture."""
FILE = click.Path(exists=True, dir_okay=False)
_CREDENTIALS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--token-file",
        {"type": click.File(), "help": "File with the token for the server. $IMPASTO_TOKEN holds the token itself."},
    ),
    ("--tls", {"is_flag": True, "help": "Use TLS with the system's CA certificates. Also $IMPASTO_TLS=1."}),
    ("--tls-ca", {"type": FILE, "help": "CA certificates (PEM) that verify the server. Also $IMPASTO_TLS_CA."}),
    ("--tls-cert", {"type": FILE, "help": "Client certificate (PEM), if the server requires one. Also $IMPASTO_TLS_CERT."}),
    ("--tls-key", {"type": FILE, "help": "Private key of the client certificate (PEM). Also $IMPASTO_TLS_KEY."}),
)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep a credential in the environment, where the clients look for it."""
    if value:
        name = (param.name or "").removesuffix("_file")
        os.environ[VARIABLES[name]] = value.read().strip() if name == "token" else "1" if name == "tls" else str(value)


def credentials(*, hidden: bool) -> Callable[[Any], Any]:
    """Return a decorator that gives a command the options of the connection: of the group, and hidden ones of its commands."""

    def decorate(command: Any) -> Any:
        for name, values in reversed(_CREDENTIALS):
            command = click.option(name, expose_value=False, callback=_remember, hidden=hidden, **values)(command)
        return command

    return decorate


def SERVER(command: Any) -> Any:  # noqa: N802 - used like the options below
    """Give a command the server's address and the credentials; both may also stand before the command."""
    option = click.option(
        "--server",
        envvar="IMPASTO_SERVER",
        show_envvar=True,
        default="localhost:50051",
        show_default=True,
        help="Address of the server, HOST:PORT.",
    )
    return option(credentials(hidden=True)(command))


SECONDS = click.FloatRange(min=0, min_open=True)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_values(values: Mapping[str, Any], indent: int = 0) -> None:
    """Print names and values, one on a line; nested values follow indented, and empty ones are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            click.echo(f"{'':{indent}}{name}")
            print_values(value, indent + 2)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            click.echo(f"{'':{indent}}{name}")
            for item in value:
                click.echo(f"{'':{indent + 2}}" + "  ".join(str(part) for part in item.values() if part != ""))
        elif value not in ("", None, [], (), {}):
            click.echo(f"{'':{indent}}{name:<{max(1, 24 - indent)}} {value}")


def read_picture(name: str) -> Picture:
    """Return a path, the bytes of stdin for ``-``, or an uploaded picture for ``sha256:ID``."""
    if name.startswith(UPLOADED):
        return UploadedImage(name.removeprefix(UPLOADED))
    if name != "-":
        return Path(name)
    if sys.stdin is None:
        raise click.ClickException("cannot read the picture from stdin: it is closed")
    return sys.stdin.buffer.read()


def write_picture(result: Result, out: str) -> None:
    """Write the picture to a file, or to stdout for ``-``.

    Raises:
        ClickException: If it cannot be written.
    """
    try:
        if out == "-":
            sys.stdout.buffer.write(result.data)
            sys.stdout.buffer.flush()
        else:
            result.save(out)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise click.ClickException(f"cannot write {'to stdout' if out == '-' else out}: {text}") from None


def check_output(out: str) -> None:
    """Reject an output file that cannot be written, before the picture is painted.

    Raises:
        ClickException: If its folder does not exist or cannot be written, or its extension is not that of a picture.
    """
    if out == "-":
        if sys.stdout is None:
            raise click.ClickException("cannot write the picture to stdout: it is closed")
        return
    path = Path(out)
    if path.is_dir():
        raise click.ClickException(f"cannot write {out}: it is a folder")
    if not path.parent.is_dir():
        raise click.ClickException(f"cannot write {out}: folder {path.parent} does not exist")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise click.ClickException(f"cannot write {out}: its name must end in .png, .jpg or .webp")
    if not (path.exists() and os.access(path, os.W_OK)):
        check_folder(path.parent, out)


def check_folder(folder: Path, what: str) -> None:
    """Reject a folder in which no file can be created.

    Raises:
        ClickException: If no file can be created there.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=".impasto-", dir=folder):
            pass
    except OSError as error:
        raise click.ClickException(f"cannot write {what}: {error.strerror or error}") from None


EARLY = {
    "stalled": "no further improvement was found",
    "converged": "the loss converged",
    "deadline": "the time limit was reached",
}
"""Why a job that succeeded ended before its last step."""


def summary(result: Result) -> str:
    """Return one line on how a picture was painted."""
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
    """Print to stderr how a picture was painted, and its warnings."""
    click.echo(summary(result), err=True)
    for warning in result.warnings:
        click.echo(f"Warning: {warning.message}", err=True)


def age(moment: datetime) -> str:
    """Return how long ago a moment was, in words: ``3 min``."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for limit, size, unit in ((100, 1, "s"), (100 * 60, 60, "min"), (48 * 3600, 3600, "h"), (math.inf, 86400, "days")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable")


JOBS_HEADER = f"{'JOB':<16}  {'STATE':<9}  {'STEPS':>13}  {'SIZE':>9}  {'AGE':>7}  {'LOSS':<9} INPUTS"


def jobs_line(job: JobInfo, *, with_owner: bool = False) -> str:
    """Return a job's line in a list: what tells it from others, optionally with its owner."""
    pictures = (item for item in job.inputs if item.field == "content" or ".image" in item.field)
    inputs = " + ".join(shortened(item.name) or item.sha256[:8] for item in pictures)
    return _line(job, f"{age(job.created):>7}", job.owner if with_owner else "", inputs)


def job_line(job: JobInfo) -> str:
    """Return one line on a job, with its time."""
    return _line(job, f"{job.created.astimezone():%Y-%m-%d %H:%M:%S}")


def _line(job: JobInfo, when: str, *notes: str) -> str:
    where = f"{job.step}/{job.steps}" if job.state != "queued" else f"{job.queue_position} ahead"
    size = f"{job.width_px}x{job.height_px}"
    loss = f"{job.losses.total:.4g}" if job.losses else ""
    said = "  ".join(note for note in (*notes, job.error_message or EARLY.get(job.stop_reason, "")) if note)
    return f"{job.job_id:<16}  {job.state:<9}  {where:>13}  {size:>9}  {when}  {loss:<9} {said}".rstrip()


class ProgressBar:
    """A live bar on stderr: steps, losses, time left. Hidden if stderr is not a terminal.

    Args:
        quiet: Show nothing.
        preview_dir: Folder for previews, if any.
        lines: Print a line every few seconds instead, where stderr is not a terminal.
    """

    def __init__(self, *, quiet: bool, preview_dir: Path | None = None, lines: bool = False) -> None:
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
            # Never write cursor movements to a log file, even with FORCE_COLOR.
            disable=quiet or sys.stderr is None or not sys.stderr.isatty(),
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
