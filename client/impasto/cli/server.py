"""``impasto info``, ``impasto health`` and ``impasto upload``."""

from __future__ import annotations

import queue
import sys
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

import click

from impasto._client import Client
from impasto.cli import completion
from impasto.cli.output import JSON, SERVER, UPLOADED, print_json, read_picture
from impasto.errors import ImpastoError, InvalidRequest


@click.command()
@SERVER
@JSON
def info(server: str, as_json: bool) -> None:
    """Show the server's version, devices, networks, presets, limits and queue."""
    with Client(server) as client:
        found = client.server_info()
    if as_json:
        print_json(found.to_dict())
        return
    state = "accepting jobs" if found.accepting else "not accepting jobs"
    click.echo(f"impasto {found.version} at {server}, {state}: {found.queued} waiting, {found.running} running")
    for device in found.devices:
        ready = "draining" if device.draining else "ready" if device.ready else "not ready"
        where = f" on {device.host}" if device.host else ""
        precision = device.auto_precision or "?"
        click.echo(f"device   {device.name}{where}: {device.description or 'unknown'}, {ready}, auto precision {precision}")
    for network in found.networks:
        click.echo(f"network  {network.name} with {network.weights} weights{_hash(network.weights_sha256)}")
    for name, values in found.presets.items():
        chosen = ", ".join(f"{key}={values[key]}" for key in ("optimizer", "steps", "size_px", "init", "pooling"))
        click.echo(f"preset   {name}: {chosen}")
    for name, value in found.limits.items():
        click.echo(f"limit    {name}: {value}")
    if found.durable:
        used, limit = (value / 2**20 for value in (found.storage_used_bytes, found.storage_limit_bytes))
        click.echo(f"storage  {used:.1f} of {limit:.0f} MiB; jobs survive a restart")
    else:
        click.echo("storage  in memory; jobs are lost when the server stops")


def _hash(sha256: str) -> str:
    return f", sha256 {sha256}" if sha256 else ""


@click.command()
@click.option("--timeout", type=float, default=5.0, show_default=True, help="Maximum seconds to wait for a response.")
@click.option("--http", metavar="HOST:PORT", help="Query the server's metrics address instead: no TLS, no token.")
@SERVER
@JSON
def health(timeout: float, http: str | None, server: str, as_json: bool) -> None:
    """Check whether the server accepts jobs: exit code 0 if it does, 1 if not."""
    if http:
        status = _ready(http, timeout)
    else:
        try:
            with Client(server) as client:
                status = client.health(timeout)
        except ImpastoError as error:  # container health checks allow only exit codes 0 and 1
            raise click.ClickException(str(error)) from error
    if as_json:
        print_json({"status": status})
    else:
        click.echo(status)
    sys.exit(0 if status == "serving" else 1)


def _ready(address: str, timeout_s: float) -> str:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise click.UsageError(f"--http: must be HOST:PORT, got {address!r}")
    url = f"http://{address}/readyz"
    answer: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()
    # On a thread: the timeout of a socket restarts with every byte.
    threading.Thread(target=lambda: answer.put(_answer_of(url, timeout_s)), daemon=True).start()
    try:
        found = answer.get(timeout=timeout_s)
    except queue.Empty:
        raise click.ClickException(f"no response from {url} within {timeout_s:g} s") from None
    if isinstance(found, Exception):
        raise click.ClickException(f"no response from {url}: {getattr(found, 'reason', found)}") from None
    return found


def _answer_of(url: str, timeout_s: float) -> str | Exception:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignore proxies of the environment
    try:
        with opener.open(url, timeout=timeout_s):
            return "serving"
    except urllib.error.HTTPError:
        return "not_serving"
    except (OSError, HTTPException) as error:
        return error


@click.command()
@click.argument("pictures", nargs=-1, required=True, shell_complete=completion.files)
@SERVER
@JSON
def upload(pictures: tuple[str, ...], server: str, as_json: bool) -> None:
    """Upload PICTURES once; use the printed ids instead of the files in 'impasto stylize'.

    A file that cannot be read does not stop the others; the exit code is then 1.
    """
    names: dict[str, str] = {}
    wrong: list[InvalidRequest] = []
    with Client(server) as client:
        for name in pictures:
            try:
                names[name] = UPLOADED + client.upload(read_picture(name)).image_id
            except InvalidRequest as error:
                wrong.append(error)
                continue
            if not as_json:
                click.echo(names[name])
    if as_json:
        print_json(names)
    if wrong:
        raise InvalidRequest("; ".join(map(str, wrong)), reason=wrong[0].reason)
