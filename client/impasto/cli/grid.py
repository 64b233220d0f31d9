"""``impasto grid``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from impasto._client import Client
from impasto._mapping import default_in_flight
from impasto.batch.inputs import check_outputs
from impasto.batch.manifest import NAME, Manifest
from impasto.batch.run import Batch, files_of
from impasto.batch.vary import Axis, Grid
from impasto.cli.batch import PATIENCE_S, make_folder, run_batch
from impasto.cli.output import INTERRUPTED, JSON, SERVER, check_output, print_json
from impasto.cli.stylize import PAINTING, check_stdin, given_options, painting_options, styled, styling_options
from impasto.errors import ImpastoError
from impasto.requests import Style
from impasto.results import replace_file

_UNVARIED = ("init_image", "priority", "time_limit_s", "on_deadline", "ttl_s", "labels", "omit_metadata", "quality", "webhook")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Varied(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``content_weight=0.02,0.1,0.5``: an option and its values; semicolons separate values that have commas."""

    name = "OPTION=VALUE,..."

    def convert(self, value: str | Axis, param: click.Parameter | None, ctx: click.Context | None) -> Axis:
        """Return the axis."""
        if isinstance(value, Axis):
            return value
        name, separator, text = value.partition("=")
        option = _option(name.strip().lstrip("-"))
        if option is None:
            names = ", ".join(name for name in PAINTING if name not in _UNVARIED)
            self.fail(f"{name!r} is not an option that can vary; those are {names}", param, ctx)
        texts = tuple(part.strip() for part in text.split(";" if ";" in text else ",") if part.strip())
        if not separator or not texts:
            self.fail(f"{value!r} has no values; an example is content_weight=0.02,0.1,0.5", param, ctx)
        if len(set(texts)) < len(texts):
            self.fail(f"{value!r} has a value twice", param, ctx)
        return Axis(str(option.name), texts, tuple(option.type.convert(part, option, ctx) for part in texts))


def _option(name: str) -> click.Option | None:
    """Return the painting option with a name of the client or of the command line."""
    dashed = "--" + name.replace("_", "-")
    for item in _declared().params:
        if isinstance(item, click.Option) and (item.name == name or dashed in item.opts) and item.name not in _UNVARIED:
            return item
    return None


def _declared() -> click.Command:
    return click.command()(painting_options()(lambda **_: None))


@click.command()
@click.argument("photo", type=FILE)
@click.argument("styles", nargs=-1, required=True, metavar="STYLE...", type=FILE)
@click.option(
    "--vary",
    "axes",
    type=Varied(),
    multiple=True,
    required=True,
    help="An option and its values; the first --vary goes across, a second one down. Values with commas are separated by ;.",
)
@click.option("-o", "--output", "out", required=True, help="The sheet: .png, .jpg or .webp.")
@click.option("--parallel", type=click.IntRange(1, 1000), help="Jobs at a time, as for 'impasto batch'.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@styling_options
@painting_options()
@SERVER
@JSON
def grid(
    photo: Path,
    styles: tuple[Path, ...],
    axes: Sequence[Axis],
    out: str,
    parallel: int | None,
    quiet: bool,
    style_shares: str | None,
    style_masks: tuple[str, ...],
    style_regions: tuple[str, ...],
    server: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Paint PHOTO in one or more STYLE pictures, which are mixed, with options that vary along the axes of a sheet.

    For a sheet sheet.png, each picture is kept in sheet-cells/, and sheet.json says how each was painted. The same command
    again goes on where it ended, and a cell whose options are the same is not painted again.
    """
    if len(axes) > 2:
        raise click.UsageError("--vary is given once or twice: a sheet has two axes")
    if out == "-":
        raise click.UsageError("a sheet must be written to a file, not to stdout")
    check_output(out)
    check_stdin(*style_masks, *style_regions, options["mask"], options["init_image"])
    given = given_options(options, None, {axis.name: axis.values for axis in axes})
    given.pop("format")
    for axis in axes:
        if axis.name in given:
            raise click.UsageError(f"{axis.name} is given and varies")
    parts = styled([Style(path) for path in styles], style_shares, style_masks, style_regions)
    chosen = Grid(photo, tuple(parts), tuple(axes))
    pairs = chosen.pairs()
    cells_folder = _cells_folder(out)
    check_outputs(pairs, cells_folder, [Path(name) for name in (options["mask"], options["init_image"]) if name])
    make_folder(cells_folder)
    with Client(server, patience_s=PATIENCE_S) as client, Manifest(cells_folder) as manifest:
        run = Batch(client, cells_folder, manifest, given, retries=2)
        tally = run_batch(run, pairs, parallel or default_in_flight(client.server_info()), quiet=quiet or as_json)
    if run.fault is not None:
        raise run.fault
    cells = chosen.cells(cells_folder, cells_folder / NAME)
    if tally.failures and len(tally.failures) == len(pairs) and isinstance(tally.failures[0].error, ImpastoError):
        raise tally.failures[0].error
    _write(chosen, given, out, cells, as_json=as_json)
    if not as_json:
        click.echo(f"{out}: {tally.summary(len(pairs))}; they are in {cells_folder}", err=True)
    for failed in tally.failures:
        click.echo(f"failed: {failed.pair.title}: {failed.error}", err=True)
    if tally.failures or tally.stopped or len(pairs) > tally.painted + tally.kept:
        raise click.exceptions.Exit(1 if tally.failures else INTERRUPTED)


def _cells_folder(out: str) -> Path:
    return Path(out).with_name(f"{Path(out).stem}-cells")


def _write(grid: Grid, options: Mapping[str, Any], out: str, cells: list[dict[str, Any]], *, as_json: bool) -> None:
    folder = _cells_folder(out)
    values = {
        "output": out,
        "cells_folder": str(folder),
        **files_of(grid.pairs()[0], options),
        "axes": [{"option": axis.name, "values": list(axis.texts)} for axis in grid.axes],
        "cells": cells,
    }
    try:
        grid.sheet(folder, cells).save(out)
        replace_file(Path(out).with_suffix(".json"), (json.dumps(values, indent=2) + "\n").encode())
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror or error}") from None
    if as_json:
        print_json(values)
