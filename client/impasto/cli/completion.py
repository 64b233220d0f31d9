"""Shell completion: files, job ids, presets, networks, layers, profiles; and the command that prints a shell's script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem, get_completion_class

from impasto._client import Client
from impasto.cli import profiles
from impasto.errors import ImpastoError
from impasto.results import ServerInfo

ANSWER_S = 2.0
"""How long a shell waits for the server."""
MOST_JOBS = 50
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@contextmanager
def _client(ctx: click.Context) -> Iterator[Client]:
    """Yield a client of the server that the incomplete command line names."""
    given = ctx.params.get("server") if ctx.get_parameter_source("server") is ParameterSource.COMMANDLINE else None
    server = given or ctx.find_root().params.get("server")
    with Client(server, patience_s=0) as client:
        yield client


def _asked(ctx: click.Context, ask: Callable[[Client], Iterable[CompletionItem]], incomplete: str) -> list[CompletionItem]:
    """Return what a server answers that begins as the user has typed; nothing if it does not answer."""
    try:
        with _client(ctx) as client:
            client.health(ANSWER_S)
            return [item for item in ask(client) if str(item.value).startswith(incomplete)]
    except (ImpastoError, click.ClickException, OSError):
        return []


def job_ids(*states: str) -> Completer:
    """Return a completer of the ids of the newest jobs in the given states, or in any."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param

        def ask(client: Client) -> Iterator[CompletionItem]:
            for count, job in enumerate(client.jobs(states)):
                if count == MOST_JOBS:
                    return
                names = " + ".join(item.name or item.sha256[:8] for item in job.inputs if ".mask" not in item.field)
                yield CompletionItem(job.job_id, help=f"{job.state} {names}")

        return _asked(ctx, ask, incomplete)

    return complete


def of_server(names: Callable[[ServerInfo], Iterable[str]]) -> Completer:
    """Return a completer of names in the server's description."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        return _asked(ctx, lambda client: map(CompletionItem, names(client.server_info())), incomplete)

    return complete


def layers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return layers after those that are typed already, of the chosen network or the server's first."""
    del param
    before, comma, typed = incomplete.rpartition(",")

    def ask(client: Client) -> Iterator[CompletionItem]:
        networks = client.server_info().networks
        chosen = str(ctx.params.get("network") or "").partition(":")[0]
        network = next((item for item in networks if item.name == chosen), networks[0] if networks else None)
        yield from (CompletionItem(before + comma + layer) for layer in (network.layers if network else ()))

    return [item for item in _asked(ctx, ask, before + comma) if str(item.value)[len(before + comma) :].startswith(typed)]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete files."""
    del ctx, param
    return [CompletionItem(incomplete, type="file")]


presets = of_server(lambda info: info.presets)
networks = of_server(lambda info: (network.id for network in info.networks))


def profile_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the profiles of the client's file."""
    del ctx, param
    return [CompletionItem(name) for name in profiles.names() if name.startswith(incomplete)]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes impasto's commands in a shell.

    bash: eval "$(impasto completion bash)" in ~/.bashrc; zsh likewise in ~/.zshrc; fish: impasto completion fish | source.
    """
    kind: Any = get_completion_class(shell)
    root = ctx.find_root()
    click.echo(kind(root.command, {}, "impasto", "_IMPASTO_COMPLETE").source())
