"""Output of the commands, and the options that they share."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from impasto._client import Client
from impasto.cli.completion import profile_names
from impasto.cli.profiles import on_profile, on_server
from impasto.credentials import VARIABLES
from impasto.display import shortened
from impasto.errors import NotFound
from impasto.pictures import Picture, UploadedImage
from impasto.results import JobInfo, Result
from impasto.retry import Reachability

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
FOLLOWED: dict[tuple[str, str], str] = {}
"""Ids of the jobs that this process waits for, by server and request id; empty before the job is accepted."""
UPLOADED = "sha256:"
"""Prefix of the id of an uploaded picture."""
FILE = click.Path(exists=True, dir_okay=False)


class _Tolerant(io.FileIO):
    """Stderr whose disk may be full: what cannot be told does not end a command."""

    def write(self, data: Any) -> int:
        """Write what can be written."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def tolerant(stderr: Any) -> Any:
    """Return stderr such that writing to it never fails; stderr itself if it is no file of this process, or closed."""
    try:
        raw = _Tolerant(stderr.fileno(), "w", closefd=False)
    except (AttributeError, OSError, ValueError):
        return stderr
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stderr.encoding, "backslashreplace", line_buffering=True, write_through=stderr.write_through
    )


class ClosedStdout(io.TextIOBase):
    """Stands for a stdout that is closed, for which Python has None: what is printed is not lost in silence."""

    def write(self, text: str) -> int:
        """Raise an OSError."""
        raise OSError(errno.EBADF, "stdout is closed")


class Folder(click.Path):
    """A folder to write to; not ``-``, which is stdout elsewhere."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "-":
            self.fail("'-' would be stdout, and a folder is needed", param, ctx)
        return super().convert(value, param, ctx)


_CREDENTIALS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--token-file",
        {
            "type": click.File(encoding="utf-8-sig", errors="replace"),
            "help": "File with the token for the server. $IMPASTO_TOKEN holds the token itself.",
        },
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
        command = click.option(
            "--profile",
            is_eager=True,  # what other options say takes precedence
            expose_value=False,
            callback=on_profile,
            hidden=hidden,
            shell_complete=profile_names,
            help="Profile in the client's settings: server, credentials, default options. Also $IMPASTO_PROFILE.",
        )(command)
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
        is_eager=True,  # the default profile has defaults for other options
        callback=on_server,
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
        kept = f"'impasto jobs result {result.job.job_id} -o OUT' gets the picture while the server keeps it"
        raise click.ClickException(f"cannot write {'to stdout' if out == '-' else out}: {text}; {kept}") from None


def check_output(out: str) -> None:
    """Reject an output file that cannot be written, before the picture is painted.

    Raises:
        ClickException: If its folder does not exist or cannot be written, or its extension is not that of a picture.
    """
    if out == "-":
        if isinstance(sys.stdout, ClosedStdout):
            raise click.ClickException("cannot write the picture to stdout: it is closed")
        return
    path = Path(os.path.realpath(out)) if Path(out).is_symlink() else Path(out)
    if path.is_dir():
        raise click.ClickException(f"cannot write {out}: it is a folder")
    if not path.parent.is_dir():
        raise click.ClickException(f"cannot write {out}: folder {path.parent} does not exist")
    if Path(out).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
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


def cancel_left(client: Client, request_id: str, job_id: str) -> str:
    """Cancel the job of a request that nobody waits for any more; return what becomes of it, in a sentence.

    Args:
        client: A client of its server.
        request_id: Id of the request.
        job_id: Id of the job; empty if its acknowledgement never arrived.
    """
    cause = client._why_not_cancelled(request_id)
    if cause is None:
        return "The job is cancelled."
    if isinstance(cause, NotFound):  # it was not accepted
        return ""
    if not job_id:
        seen = f"'impasto jobs list --json' shows it with the request id {request_id}."
        return f"The job could not be cancelled: {cause}. If the server accepted it, {seen}"
    later = f"'impasto jobs result {job_id} --wait -o OUT' gets its picture, 'impasto jobs cancel {job_id}' cancels it."
    return f"Job {job_id} could not be cancelled: {cause}. When its server is back, if it keeps jobs on disk, {later}"


def tell_outages(client: Client, say: Callable[[str], None]) -> None:
    """Say once when the client's server does not answer and its calls are retried, and once when it answers again."""
    client._reachability = Reachability(
        lambda error: say(f"Warning: {error}; trying again for up to {client.patience_s:g} s"),
        lambda: say("The server answers again"),
    )


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
