"""The command group. Other packages add commands through the entry-point group ``impasto.commands``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from impasto._client import Client
from impasto.cli.batch import batch
from impasto.cli.completion import completion
from impasto.cli.experiments import features, paper, reconstruct, redo, texture
from impasto.cli.grid import grid
from impasto.cli.jobs import jobs
from impasto.cli.output import FOLLOWED, INTERRUPTED, ClosedStdout, cancel_left, credentials, tolerant
from impasto.cli.proto import proto
from impasto.cli.server import health, info, upload
from impasto.cli.show import show
from impasto.cli.stylize import LACKING, PAINTING, stylize
from impasto.cli.workers import workers
from impasto.connect_errors import TLS_FAILED
from impasto.display import shown
from impasto.errors import ImpastoError, Overloaded, Unavailable
from impasto.installing import needs
from impasto.signals import stopping

ENTRY_POINTS = "impasto.commands"
LATER = 75
"""Exit code if a later retry can succeed (sysexits' EX_TEMPFAIL): server unavailable or draining, queue full, quota reached."""


class Commands(click.Group):
    """The client's own commands and those of other installed packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, sorted."""
        return sorted({*super().list_commands(ctx), *_entry_points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command. If its package misses libraries, the command explains what to install."""
        own = super().get_command(ctx, cmd_name)
        entry = _entry_points().get(cmd_name)
        if own is not None or entry is None:
            return own
        try:
            command: click.Command = entry.load()
        except ImportError as error:
            return _missing(cmd_name, error)
        return command


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _needs_server(error: ImportError) -> str:
    if (error.name or "").startswith(("hdrh", "prometheus_client")):
        return needs("this command", error.name or "", "load")
    if (error.name or "").startswith(("fastapi", "starlette", "uvicorn", "multipart", "python_multipart")):
        return needs("this command", error.name or "", "web")
    return needs("this command", error.name or "", "server")


def _missing(name: str, error: ImportError) -> click.Command:
    text = _needs_server(error)

    @click.command(name, short_help=f"Needs: {text.rpartition(': ')[2]}.", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        del arguments
        raise click.ClickException(text)

    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="impasto")
@click.option("--server", help="Address of the server, HOST:PORT. Also $IMPASTO_SERVER.")
@credentials(hidden=False)
def cli(*, server: str | None) -> None:
    """Paint pictures in the style of others, on an impasto server.

    These options may also follow the command. Each can be set in the environment.
    """
    if server:
        os.environ["IMPASTO_SERVER"] = server


cli.add_command(stylize)
cli.add_command(batch)
cli.add_command(grid)
cli.add_command(completion)
cli.add_command(show)
cli.add_command(jobs)
cli.add_command(info)
cli.add_command(health)
cli.add_command(upload)
cli.add_command(workers)
cli.add_command(proto)
for _command in (reconstruct, texture, features, redo, paper):
    cli.add_command(_command)


HANGING_S = 10.0
"""How long a command that was interrupted may take to end."""


def _interrupt(number: int, frame: object) -> None:
    """Stop as after Ctrl-C, so that a running job is cancelled. The second time, and after a while, stop whatever hangs."""
    for each in stopping():
        signal.signal(each, lambda _number, _frame: _stop_at_once())
    hanging = threading.Timer(HANGING_S, _stop_at_once)
    hanging.daemon = True
    hanging.start()
    raise KeyboardInterrupt


def _stop_at_once() -> None:
    """Cancel jobs that nobody waits for over connections of their own, and end without asking anybody."""
    for (server, request_id), job_id in list(FOLLOWED.items()):
        with contextlib.suppress(Exception), Client(server, patience_s=0) as client:
            _show(f"Interrupted. {cancel_left(client, request_id, job_id)}".rstrip())
    os._exit(INTERRUPTED)


def told(error: ImpastoError) -> str:
    """Return an error's message, with the option for each field that has one, and when to retry."""
    if not error.violations:
        retry = "" if error.retry_after_s is None else f"; retry in {max(1, round(error.retry_after_s))} s"
        return f"{error}{retry}"
    return "; ".join(f"{item.field}{_option(item.field)}: {item.description}" for item in error.violations)


def as_values(error: ImpastoError) -> dict[str, Any]:
    """Return an error as ``--json`` prints it to stderr."""
    values = {
        "kind": type(error).__name__,
        "reason": error.reason,
        "message": str(error),
        "metadata": error.metadata,
        "violations": [{"field": item.field, "description": item.description} for item in error.violations],
        "retry_after_s": error.retry_after_s,
    }
    return {"error": values}


def _option(field: str) -> str:
    if of_style := re.fullmatch(r"styles\[\d+\]\.(mask|region|weight)", field):
        return f" ({'--style-shares' if of_style[1] == 'weight' else f'--style-{of_style[1]}'})"
    name = "schedule" if ".schedule" in field else field.rpartition(".")[2].partition("[")[0]
    command = stylize if field.startswith(("parameters.", "output.")) or field in PAINTING or field == "mask" else None
    name = {"time_limit": "time_limit_s", "ttl": "ttl_s"}.get(name, name)
    option = next((item for item in command.params if item.name == name), None) if command else None
    return f" ({option.opts[0]})" if isinstance(option, click.Option) else ""


def main() -> None:
    """Run the command line; errors are one line on stderr and a non-zero exit code, and JSON with ``--json``."""
    for number in stopping():
        signal.signal(number, _interrupt)
    sys.stdout = sys.stdout or ClosedStdout()
    sys.stderr = tolerant(sys.stderr)
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()  # report a full disk here, not when the interpreter exits
    except (click.Abort, KeyboardInterrupt) as stopped:
        cause = stopped.__cause__ or stopped  # click raises its own
        text = " ".join(["Interrupted.", *getattr(cause, "__notes__", [])])
        values = {"kind": "Interrupted", "reason": "INTERRUPTED", "message": text}
        _show(json.dumps({"error": values}) if "--json" in sys.argv else text)
        code = INTERRUPTED
        for number in stopping():  # another one has nothing to stop, and would end the interpreter's own end by the signal
            signal.signal(number, signal.SIG_IGN)
    except BrokenPipeError:
        _discard_stdout()
        code = 1
    except (click.ClickException, ImpastoError, ImportError, OSError, RuntimeError, UnicodeEncodeError) as error:
        code = _report(error)
    # The argument of Context.exit is the exit code; commands return nothing.
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print an error and return the exit code."""
    code = 1
    values: dict[str, Any] = {"kind": type(error).__name__, "reason": "FAILED", "message": str(error)}
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _show(error.format_message())
        return error.exit_code
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "impasto"
        text, code = f"{error.format_message()} (see '{path} --help'){_hint(error)}", error.exit_code
        values |= {"reason": "USAGE", "message": error.format_message()}
    elif isinstance(error, click.ClickException):
        text, code = error.format_message(), error.exit_code
        if isinstance(error.__cause__, ImpastoError):
            values = as_values(error.__cause__)["error"]
        values["message"] = text
    elif isinstance(error, ImpastoError):
        text, values = told(error), as_values(error)["error"]
        if error.reason.startswith("TOKEN_"):
            text = f"{text}; see 'impasto --help' for --token-file and $IMPASTO_TOKEN"
        later = isinstance(error, (Overloaded, Unavailable)) and error.reason != TLS_FAILED
        code = LATER if later else 1
    elif isinstance(error, ModuleNotFoundError):
        # The client's own libraries are always installed; only a command from an entry point can miss some.
        text = values["message"] = _needs_server(error)
    elif isinstance(error, UnicodeEncodeError):  # of the protocol, whose texts are UTF-8
        text = values["message"] = f"'{shown(error.object)}' is not UTF-8"
    elif isinstance(error, OSError):
        name = error.filename or ("stdout" if _stdout_fails() else "")
        text = values["message"] = f"{error.strerror or error}{f': {name}' if name else ''}"
        _discard_stdout()
    else:
        text = str(error) or type(error).__name__
    _show(json.dumps({"error": values}) if "--json" in sys.argv else f"Error: {text}")
    return code


def _hint(error: click.UsageError) -> str:
    """Return a hint where a command lacks an option on purpose, or a file's name was taken for an option."""
    if not isinstance(error, click.NoSuchOption):
        return ""
    command = error.ctx.info_name if error.ctx else ""
    if reason := LACKING.get(command or "", {}).get(error.option_name):
        return f"; {reason}"
    name = next((item for item in sys.argv if item.startswith(error.option_name) and Path(item).suffix), "")
    return f"; a file whose name starts with a dash is ./{shown(name)}, or follows --" if name else ""


def _show(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr is closed
        click.echo(text, err=True)


def _stdout_fails() -> bool:
    """Return whether what was printed cannot be written. It stays in the buffer; with PYTHONUNBUFFERED there is none."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def _discard_stdout() -> None:
    """Discard the rest of stdout: the interpreter would write it at exit and fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
