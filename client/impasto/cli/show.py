"""``impasto show``."""

from __future__ import annotations

from pathlib import Path

import click

from impasto.cli.output import JSON, print_json, print_values
from impasto.redo import description


@click.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@JSON
def show(picture: Path, as_json: bool) -> None:
    """Show what made PICTURE, from the metadata in its file: source pictures, parameters, filters. No server is asked."""
    found = description(picture)
    if as_json:
        print_json(found)
        return
    print_values(found)
