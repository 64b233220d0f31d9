"""``impasto proto``."""

from __future__ import annotations

import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from impasto.cli.output import Folder
from impasto.contract import CONTRACT, source

DETAILS = ("google/rpc/code.proto", "google/rpc/error_details.proto", "google/rpc/status.proto")
"""The details of errors, for languages without a library of them."""


@click.command()
@click.option("--output", "-o", "out", type=Folder(), required=True, help="Folder to write to.")
def proto(out: Path) -> None:
    """Write the contract, and the messages of its errors' details, as .proto files.

    Other languages generate their clients from them. What else they import (google/protobuf) comes with protoc.
    """
    for name, file in {CONTRACT: source(), **{name: _details(name) for name in DETAILS}}.items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        click.echo(str(target))


def _details(name: str) -> Traversable:
    return importlib.resources.files("google.rpc") / name.rpartition("/")[2]
