"""``impasto workers``."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from impasto._client import Client
from impasto.cli.output import JSON, SERVER, print_json
from impasto.results import DeviceInfo

LOOK_S = 0.2


@click.group()
def workers() -> None:
    """List and drain the workers of a server, on its own machine and on others."""


@workers.command("list")
@SERVER
@JSON
def list_workers(server: str, as_json: bool) -> None:
    """List the workers: name, host, state, running jobs, seconds since each was heard."""
    with Client(server) as client:
        devices = client.server_info().devices
    _show(devices, as_json=as_json)


@workers.command()
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until they run no job.")
@SERVER
@JSON
def drain(name: str, wait: bool, server: str, as_json: bool) -> None:
    """Give the worker NAME, or all workers of the host NAME, no more jobs; their jobs continue elsewhere."""
    with Client(server) as client:
        devices = client.drain_workers(name)
        names = {device.name for device in devices}
        while wait and any(device.running for device in devices):
            time.sleep(LOOK_S)
            devices = tuple(device for device in client.server_info().devices if device.name in names)
            if again := [device.name for device in devices if not device.draining]:
                raise click.ClickException(
                    f"{', '.join(again)} no longer drains: it has joined again, or the server was restarted"
                )
    _show(devices, as_json=as_json)


def _show(devices: tuple[DeviceInfo, ...], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(device) for device in devices])
        return
    click.echo(f"{'WORKER':<24}  {'HOST':<16}  {'STATE':<9}  {'JOBS':>4}  {'HEARD':>7}  DEVICE")
    for device in devices:
        state = "draining" if device.draining else "ready" if device.ready else "starting"
        heard = f"{device.silence_s:.1f} s"
        place = device.host or "(server)"
        line = f"{device.name:<24}  {place:<16}  {state:<9}  {device.running:>4}  {heard:>7}  {device.description}"
        click.echo(line.rstrip())
