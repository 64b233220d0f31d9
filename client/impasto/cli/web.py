"""``impasto web``: the page and the HTTP API beside a server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading

import click

from impasto.cli.output import SERVER
from impasto.web.app import Server, serve
from impasto.web.settings import MIB, WebSettings


@click.command()
@click.option(
    "--listen", default="127.0.0.1:8080", show_default=True, help="Address to serve on, HOST:PORT; port 0 picks a free one."
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Name under which browsers reach it, such as paint.example.org; by default, on a loopback address, localhost only.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Origin of another site whose scripts may call the API (CORS), such as https://example.org; none by default.",
)
@click.option("--max-body-mib", type=click.IntRange(1, 4096), default=64, show_default=True, help="Largest body of a request.")
@click.option(
    "--grace-s",
    type=click.IntRange(0, 86400),
    default=10,
    show_default=True,
    help="Time for requests in progress when it stops, such as pictures that are being painted; then they get 503.",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Stop when stdin ends: the server that started it is gone.")
@SERVER
def web(
    listen: str,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    max_body_mib: int,
    grace_s: int,
    *,
    until_eof: bool,
    server: str,
) -> None:
    """Serve a page to paint on and an HTTP API, for the server at --server.

    Callers' tokens are passed on; a token of its own is not used. Needs the extra web.
    """
    settings = WebSettings(server, listen, tuple(map(str.lower, hosts)), origins, max_body_mib * MIB, grace_s)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s web: %(message)s", stream=sys.stderr)
    if not settings.local:
        text = (
            "anyone who can reach it can paint, unless the server wants tokens; it has no TLS: put a TLS proxy in front of it"
        )
        click.echo(f"Warning: {listen} is reachable from other machines: {text}", err=True)
    # The command line's own handlers stop a command that waits; the HTTP server has its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN if until_eof else signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if until_eof else signal.SIG_DFL)
    if until_eof and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    page = Server(settings, lambda address: click.echo(f"impasto page at {address}", err=True), obeys_signals=not until_eof)
    if until_eof:
        threading.Thread(target=_stop_after_stdin, args=(page,), daemon=True).start()
    asyncio.run(serve(page, settings))


def _stop_after_stdin(page: Server) -> None:
    while os.read(0, 4096):
        pass
    page.should_exit = True
