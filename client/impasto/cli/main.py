"""The command group. Commands of other packages join by the entry-point group ``impasto.commands``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
from typing import TextIO

import click

from impasto.cli.experiments import features, paper, reconstruct, redo, texture
from impasto.cli.jobs import jobs
from impasto.cli.output import INTERRUPTED
from impasto.cli.server import health, info, upload
from impasto.cli.stylize import PAINTING, stylize
from impasto.connect_errors import TLS_FAILED
from impasto.credentials import VARIABLES
from impasto.errors import ImpastoError, Overloaded, Unavailable

ENTRY_POINTS = "impasto.commands"
LATER = 75
"""Exit code where trying again later can help (sysexits' EX_TEMPFAIL): no server, one that drains, a full queue, a quota."""


class Commands(click.Group):
    """Our own commands, and those of packages that are installed beside us."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, sorted."""
        return sorted({*super().list_commands(ctx), *_entry_points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; one whose package lacks its libraries explains what to install."""
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
        return f"this command needs {error.name}: pip install 'impasto[load]'"
    return f"this command needs the server's packages ({error.name} is missing): pip install 'impasto[server]'"


def _missing(name: str, error: ImportError) -> click.Command:
    text = _needs_server(error)

    @click.command(name, short_help=f"Needs: {text.rpartition(': ')[2]}.", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        del arguments
        raise click.ClickException(text)

    return command


FILE = click.Path(exists=True, dir_okay=False)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="impasto")
@click.option(
    "--token-file", type=click.File(), help="File with the token for the server; $IMPASTO_TOKEN holds the token itself."
)
@click.option("--tls", is_flag=True, help="Speak TLS, with the system's certificates. Also $IMPASTO_TLS=1.")
@click.option("--tls-ca", type=FILE, help="Certificates (PEM) that the server's must be signed by. Also $IMPASTO_TLS_CA.")
@click.option("--tls-cert", type=FILE, help="Own certificate (PEM), where the server wants one. Also $IMPASTO_TLS_CERT.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM). Also $IMPASTO_TLS_KEY.")
def cli(*, token_file: TextIO | None, tls: bool, **files: str | None) -> None:
    """Paint pictures in the style of others, on an impasto server.

    The options here go before the command; the commands' clients read them from the environment.
    """
    given = {**files, "tls": "1" if tls else None, "token": token_file.read().strip() if token_file else None}
    os.environ.update({VARIABLES[name]: value for name, value in given.items() if value})


cli.add_command(stylize)
cli.add_command(jobs)
cli.add_command(info)
cli.add_command(health)
cli.add_command(upload)
for _command in (reconstruct, texture, features, redo, paper):
    cli.add_command(_command)


def _interrupt(number: int, frame: object) -> None:
    """End as after Ctrl-C, so that a painting under way is cancelled."""
    raise KeyboardInterrupt


def told(error: ImpastoError) -> str:
    """Return an error's message, with the option beside each field that has one, and when to try again."""
    if not error.violations:
        again = "" if error.retry_after_s is None else f"; try again in {max(1, round(error.retry_after_s))} s"
        return f"{error}{again}"
    return "; ".join(f"{item.field}{_option(item.field)}: {item.description}" for item in error.violations)


def as_values(error: ImpastoError) -> dict[str, object]:
    """Return an error as what ``--json`` prints of it, to stderr."""
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
    name = field.rpartition(".")[2].partition("[")[0]
    command = stylize if field.startswith(("parameters.", "output.")) or field in PAINTING or field == "mask" else None
    name = {"time_limit": "time_limit_s", "ttl": "ttl_s"}.get(name, name)
    option = next((item for item in command.params if item.name == name), None) if command else None
    return f" ({option.opts[0]})" if isinstance(option, click.Option) else ""


def main() -> None:
    """Run the command line; errors are one line on stderr and a non-zero exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(standalone_mode=False)
        if isinstance(code, int):  # what Context.exit was given
            sys.exit(code)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "impasto"
        click.echo(f"Error: {error.format_message()} (see '{path} --help')", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        # Our own libraries are always here; only a command that joined by entry point can miss some.
        click.echo(f"Error: {_needs_server(error)}", err=True)
        sys.exit(1)
    except ImpastoError as error:
        click.echo(json.dumps(as_values(error)) if "--json" in sys.argv else f"Error: {told(error)}", err=True)
        later = isinstance(error, (Overloaded, Unavailable)) and error.reason != TLS_FAILED
        sys.exit(LATER if later else 1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
