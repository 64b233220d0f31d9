"""Profiles: servers, credentials and default options in a file of the user, chosen by ``impasto --profile``."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import platformdirs
from click.core import ParameterSource

from impasto.credentials import VARIABLES
from impasto.display import shown
from impasto.requests import QUALITIES, Options

FILE_VARIABLE, PROFILE_VARIABLE = "IMPASTO_CLIENT_CONFIG", "IMPASTO_PROFILE"
_APPLIED = "impasto.profile"
PAINTING_COMMANDS = ("stylize", "batch", "grid", "texture", "reconstruct")
"""Commands that take a profile's default options; ``redo`` takes a picture's own."""
_TEXTS = ("server", "token_file", "tls_ca", "tls_cert", "tls_key")
_KEYS = (*_TEXTS, "tls", "defaults")
_NO_DEFAULTS = ("webhook", "format", "mask", "init_image", "labels", "preview_every_steps", "preview_size_px")
_OPTIONS: Mapping[str, str] = {
    name: str(getattr(kind, "__forward_arg__", kind))
    for name, kind in Options.__annotations__.items()
    if name not in _NO_DEFAULTS
}
"""Options that a profile may give, with their types."""
_KINDS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,)}


@dataclass(frozen=True)
class Profile:
    """What a profile sets.

    Attributes:
        environment: Variables that the client reads, with their values.
        defaults: Default options of the painting commands.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def config_file() -> Path:
    """Return the file with the profiles: ``$IMPASTO_CLIENT_CONFIG``, else where the system keeps settings."""
    given = os.environ.get(FILE_VARIABLE)
    if given:
        return Path(given)
    try:
        return platformdirs.user_config_path("impasto", appauthor=False) / "client.toml"
    except RuntimeError:  # a user without a home has no settings
        return Path(os.devnull)


def names() -> list[str]:
    """Return the names of the profiles; none if the file is missing or invalid."""
    try:
        return sorted(_profiles(_read(config_file())))
    except click.ClickException:
        return []


def profile(name: str) -> Profile:
    """Return a profile.

    Raises:
        ClickException: If it does not exist or is invalid; the error names the file and the key.
    """
    path = config_file()
    known = _profiles(_read(path))
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise click.ClickException(f"there is no profile {shown(name)!r} in {path}; the profiles are {listed}")
    return _checked(known[name], f"{path}: profiles.{name}")


def default_name() -> str:
    """Return the profile for commands without ``--profile``: ``$IMPASTO_PROFILE``, else the file's ``default``, else none."""
    if PROFILE_VARIABLE in os.environ:
        return os.environ[PROFILE_VARIABLE]
    path = config_file()
    if not path.exists():
        return ""
    found = _read(path).get("default", "")
    if not isinstance(found, str):
        raise click.ClickException(f"{path}: default must be the name of a profile, got {found!r}")
    return found


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise click.ClickException(f"cannot read the profiles in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.ClickException(f"{path}: {error}") from None


def _profiles(values: Mapping[str, Any]) -> Mapping[str, Any]:
    found = values.get("profiles", {})
    return found if isinstance(found, dict) else {}


def _checked(values: Any, where: str) -> Profile:
    if not isinstance(values, dict):
        raise click.ClickException(f"{where} is not a table")
    environment: dict[str, str] = {}
    for key, value in values.items():
        if key not in _KEYS:
            raise click.ClickException(f"{where}: unknown key {key!r}{_similar(key, _KEYS)}")
        if key in _TEXTS and not isinstance(value, str):
            raise click.ClickException(f"{where}: {key} must be text, got {value!r}")
        if key == "server":
            environment["IMPASTO_SERVER"] = value
        elif key == "token_file":
            environment[VARIABLES["token"]] = _token(value, where)
        elif key == "tls":
            if not isinstance(value, bool):
                raise click.ClickException(f"{where}: tls must be true or false, got {value!r}")
            environment[VARIABLES["tls"]] = "1" if value else ""
        elif key != "defaults":
            environment[VARIABLES[key]] = str(Path(value).expanduser())
    return Profile(environment, _defaults(values.get("defaults", {}), f"{where}.defaults"))


def _token(path: str, where: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        text = getattr(error, "strerror", None) or error
        raise click.ClickException(f"{where}: token_file {path} cannot be read: {text}") from None


def _defaults(values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise click.ClickException(f"{where} is not a table of options")
    for name, value in values.items():
        if name not in _OPTIONS:
            raise click.ClickException(f"{where}: unknown option {name!r}{_similar(name, tuple(_OPTIONS))}")
        if name == "quality" and value in QUALITIES:
            continue
        kinds = _KINDS.get(_OPTIONS[name], (str,))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise click.ClickException(f"{where}: {name} must be {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
    if "on_deadline" in values:  # by the client's name or the command line's
        return {**values, "on_deadline": values["on_deadline"].replace("_", "-")}
    return values


def _similar(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def apply(ctx: click.Context, name: str, *, server: str | None = None) -> None:
    """Set a profile's variables, and its default options for the painting commands.

    Args:
        ctx: Context of the group or of a command.
        name: The profile.
        server: Address that was chosen otherwise. The profile then fills in only what the environment lacks, and its
            credentials are not used for another server. None for a profile that the user named, which replaces what the
            environment has.
    """
    chosen = profile(name)
    others = server is not None and server != chosen.environment.get("IMPASTO_SERVER", server)
    for variable, value in () if others else chosen.environment.items():
        if server is None or variable not in os.environ:
            os.environ[variable] = value
    ctx.find_root().meta[_APPLIED] = name
    if isinstance(ctx.command, click.Group):
        ctx.default_map = {command: dict(chosen.defaults) for command in PAINTING_COMMANDS}
    elif ctx.info_name in PAINTING_COMMANDS:
        ctx.default_map = dict(chosen.defaults)


def on_profile(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Apply the profile of ``--profile``."""
    del param
    if value:
        apply(ctx, value)


def on_server(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Apply the default profile to a command without ``--profile``, and return the server's address."""
    if _APPLIED in ctx.find_root().meta or not (name := default_name()):
        return value
    chosen = ctx.get_parameter_source(param.name or "") is not ParameterSource.DEFAULT
    if not chosen and (own := profile(name).environment.get("IMPASTO_SERVER")):
        value = os.environ["IMPASTO_SERVER"] = own
    apply(ctx, name, server=value)
    return value
