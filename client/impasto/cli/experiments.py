"""``impasto reconstruct``, ``texture``, ``features``, ``redo`` and ``paper``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from PIL import Image

from impasto._client import Client
from impasto.changes import changed
from impasto.cli import completion
from impasto.cli.output import (
    JSON,
    SECONDS,
    SERVER,
    Folder,
    check_output,
    print_json,
    read_picture,
    tell,
    write_picture,
)
from impasto.cli.stylize import (
    LayerWeights,
    check_stdin,
    given_options,
    paint,
    painting_options,
    preview_options,
    styled,
    styling_options,
    with_previews,
)
from impasto.errors import InvalidRequest
from impasto.experiments import series as experiments
from impasto.experiments.paper import write_paper
from impasto.experiments.sheets import Tile, contact_sheet
from impasto.progress import ProgressBar
from impasto.redo import Circumstances, circumstances_of, recipe
from impasto.requests import ENUMS, HOW_FAR, reconstruction_options, texture_options
from impasto.words import words

OUTPUT = click.option(
    "-o",
    "--output",
    "out",
    required=True,
    shell_complete=completion.files,
    help="Output file: .png, .jpg or .webp, or - for stdout.",
)
SHEET = click.option(
    "-o", "--output", "out", required=True, shell_complete=completion.files, help="Output file: .png, .jpg or .webp."
)
TIMEOUT = click.option("--timeout", type=SECONDS, help="Seconds after which the job is cancelled.")
QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
_STYLED = ("style_layers", "style_weight", "style_loss", "style_scale", "color", "content_layers", "content_weight")


@click.command()
@click.argument("image", shell_complete=completion.files)
@OUTPUT
@click.option(
    "--layer", shell_complete=completion.layers, default="relu4_2", show_default=True, help="Layer of the content loss."
)
@click.option("--series", is_flag=True, help="Make a contact sheet of the first eight layers instead, with the PSNR of each.")
@painting_options(*_STYLED)
@TIMEOUT
@QUIET
@SERVER
@JSON
def reconstruct(
    image: str,
    out: str,
    layer: str,
    series: bool,
    timeout: float | None,
    quiet: bool,
    server: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Reconstruct IMAGE from the features of one layer, starting from noise."""
    check_output(out)
    given = given_options(options, out)
    with Client(server) as client:
        if series:
            _not_to_stdout(out)
            given["format"] = "png"
            if network := given.get("network"):
                layers = next((item.layers for item in client.server_info().networks if item.name == network.split(":")[0]), ())
                chosen = tuple(layer for layer in layers if layer.startswith("relu"))[:8]
            else:
                chosen = experiments.RECONSTRUCTED
            found = experiments.reconstructions(client, read_picture(image), chosen, tell=_label_printer(quiet), **given)
            original = _original(image, found[0].result.image)
            figures = {item.label: experiments.psnr(item.result.image, original) for item in found}
            tiles = [Tile(item.result.image, f"{item.label}\nPSNR {figures[item.label]:.1f} dB") for item in found]
            half = len(tiles) // 2
            _save(contact_sheet([tiles[:half], tiles[half:]]), out)
            _print_result(as_json, {"output": out, "psnr_db": figures})
            return
        bar = ProgressBar(quiet=quiet)
        _paint(client, (read_picture(image), None), reconstruction_options(layer, given), out, timeout, bar, as_json)


@click.command()
@click.argument("styles", nargs=-1, required=True, metavar="STYLE...", shell_complete=completion.files)
@OUTPUT
@click.option(
    "--layers",
    shell_complete=completion.layers,
    type=LayerWeights(),
    help="Layers of the style loss; the first layer of each block by default.",
)
@click.option("--series", is_flag=True, help="Make a contact sheet for the first 1 to 5 layers instead, L-BFGS above Adam.")
@painting_options("style_layers", "content_layers", "content_weight", "color", "style_weight")
@TIMEOUT
@QUIET
@SERVER
@JSON
def texture(
    styles: tuple[str, ...],
    out: str,
    layers: dict[str, float] | None,
    series: bool,
    timeout: float | None,
    quiet: bool,
    server: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Paint a texture of one or more STYLE pictures from noise, using the style loss only."""
    check_output(out)
    given = given_options(options, out)
    pictures = [read_picture(style) for style in styles]
    with Client(server) as client:
        if series:
            _not_to_stdout(out)
            given["format"] = "png"
            if given.get("optimizer"):
                raise click.UsageError("--series paints with both optimizers; remove --optimizer")
            networks = client.server_info().networks
            own = next((item for item in networks if item.name == given.get("network", "").split(":")[0]), networks[0])
            firsts = tuple(layer for layer in own.layers if layer.startswith("relu") and layer.endswith("_1"))
            chosen = tuple(layers or firsts)
            rows = experiments.textures(client, pictures[0], chosen, tell=_label_printer(quiet), **given)
            _save(contact_sheet([[item.tile() for item in row] for row in rows]), out)
            _print_result(
                as_json, {"output": out, "losses": {item.label: item.result.losses.total for row in rows for item in row}}
            )
            return
        _paint(client, (None, pictures), texture_options(layers, given), out, timeout, ProgressBar(quiet=quiet), as_json)


@click.command()
@click.argument("image", shell_complete=completion.files)
@click.option("--layer", shell_complete=completion.layers, required=True, help="Name of the layer, such as conv1_1.")
@SHEET
@click.option(
    "--filters",
    default="5",
    show_default=True,
    help="Number of filters with the strongest response to show, or filter numbers: 3,17,40 (3, for one).",
)
@click.option(
    "--network", shell_complete=completion.networks, default="", help="ARCHITECTURE:WEIGHTS; by default the server's."
)
@click.option("--size", "size_px", type=int, default=256, show_default=True, help="Longer side of the resized picture.")
@click.option("--pooling", type=click.Choice(words(ENUMS["pooling"])), default="average", help="Type of the pooling layers.")
@SERVER
@JSON
def features(
    image: str, layer: str, out: str, filters: str, network: str, size_px: int, pooling: Any, server: str, as_json: bool
) -> None:
    """Show the responses of a layer's filters to IMAGE as grey pictures; black is the minimum, white the maximum."""
    check_output(out)
    _not_to_stdout(out)
    try:
        numbers = [int(number) for number in filters.split(",") if number.strip()]
        wanted = numbers if "," in filters else numbers[0]
    except (ValueError, IndexError):
        raise click.UsageError(f"--filters {filters}: must be a number, or comma-separated numbers") from None
    if min(numbers) < 0 or wanted == 0:
        raise click.UsageError(f"--filters {filters}: must be at least one filter, and numbers start at 0")
    with Client(server) as client:
        found = client.features(read_picture(image), layer, wanted, network=network, size_px=size_px, pooling=pooling)
    tiles = [
        Tile(item.image, f"{layer}, filter {item.filter}\n{item.minimum:.2f} to {item.maximum:.2f}") for item in found.responses
    ]
    columns = max(1, min(8, len(tiles)))
    _save(contact_sheet([tiles[start : start + columns] for start in range(0, len(tiles), columns)]), out)
    figures = {item.filter: {"minimum": item.minimum, "maximum": item.maximum, "mean": item.mean} for item in found.responses}
    _print_result(as_json, {"output": out, "layer": layer, "network": found.network.id, "filters": figures})


@click.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@OUTPUT
@click.option(
    "--from",
    "search",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="File or folder of its source pictures.",
)
@styling_options
@preview_options
@painting_options()
@TIMEOUT
@QUIET
@SERVER
@JSON
def redo(
    picture: Path,
    out: str,
    search: tuple[Path, ...],
    style_shares: str | None,
    style_masks: tuple[str, ...],
    style_regions: tuple[str, ...],
    preview_dir: Path | None,
    preview_every: int | None,
    timeout: float | None,
    quiet: bool,
    server: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Reproduce PICTURE from the metadata in its file, with any option of 'impasto stylize' changed.

    Without changes, on the same machine, with the same version and as many threads, the result is identical, byte for byte.
    A warning says where the filters, the threads or the versions of impasto and torch are others. What follows from a changed
    option is chosen anew: the learning rate with the optimizer, the layers with the network. --preset replaces everything but
    sizes, seed and pictures; --quality draft, good or best changes only how far the painting goes. --style-shares, --style-mask
    and --style-region have a value for each recorded style, in their order.

    Its content and styles are found by their hash: in --from (a file, or a folder without its subfolders), in its folder, in
    the current folder, and among the server's uploads.
    """
    check_output(out)
    found = recipe(picture, search)
    if found.ended_after_steps is not None:
        text = f"its time limit ended it after {found.ended_after_steps} steps; the new picture will have all its steps"
        click.echo(f"Warning: {text}", err=True)
    check_stdin(*style_masks, *style_regions, options["mask"], options["init_image"])
    styles = styled(found.styles, style_shares, style_masks, style_regions)
    given = given_options(options, None if out == "-" else out)
    if out == "-":
        given.pop("format")
    quality = given.pop("preset") if given.get("preset") == options["quality"] != options["preset"] else ""
    try:
        with Client(server) as client:
            if quality:  # of how far the painting goes only: the rest is the picture's
                preset = client.server_info().presets[quality]
                given = {**{name: preset[name] for name in HOW_FAR}, **given}
            wanted = changed(found.options, given)
            every = (*found.options, *wanted)
            repainted = styles != found.styles or any(found.options.get(name) != wanted.get(name) for name in every)
            wanted |= with_previews(preview_dir, preview_every)
            weights, before = ("", None) if repainted else (found.weights_sha256, found.circumstances)
            bar = ProgressBar(quiet=quiet, preview_dir=preview_dir)
            _paint(client, (found.content, styles or None), wanted, out, timeout, bar, as_json, weights, before)
    except InvalidRequest as error:
        if found.missing and any(item.field.endswith("image_id") for item in error.violations):
            names = ", ".join(found.missing)
            raise click.ClickException(f"not found by their hash: {names}; give their location with --from") from None
        raise


@click.command()
@click.argument("content", shell_complete=completion.files)
@click.argument("style", shell_complete=completion.files)
@click.option("-o", "--output", "out", required=True, type=Folder(), help="Folder.")
@click.option("--size", "size_px", type=int, default=256, show_default=True, help="Longer side of each picture.")
@click.option("--steps", type=int, default=100, show_default=True, help="Optimizer steps of each picture.")
@click.option("--networks", help="Networks to compare, comma-separated; by default the server's and random ones.")
@QUIET
@SERVER
def paper(
    content: str, style: str, out: Path, size_px: int, steps: int, networks: str | None, quiet: bool, server: str
) -> None:
    """Repeat all experiments of the report with CONTENT and STYLE; write one page with pictures, plots and timings."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = networks.split(",") if networks is not None else ()
    with Client(server) as client:
        page = write_paper(client, Path(content), Path(style), out, size_px, steps, chosen, _label_printer(quiet))
    click.echo(str(page))


def _paint(
    client: Client,
    pictures: tuple[Any, Any],
    options: dict[str, Any],
    out: str,
    timeout: float | None,
    bar: ProgressBar,
    as_json: bool,
    weights_sha256: str = "",
    before: Circumstances | None = None,
) -> None:
    result = paint(client, pictures, options, bar, timeout)
    bar.save_last_preview(result)
    write_picture(result, out)
    network = result.job.network
    if weights_sha256 and network is not None and network.weights_sha256 != weights_sha256:
        click.echo("Warning: the server's weights differ from those that painted the picture", err=True)
    for text in before.differences(circumstances_of(result.data)) if before else ():
        click.echo(f"Warning: {text}", err=True)
    if as_json:
        print_json({**result.job.to_dict(), "output": out})
    else:
        tell(result)


def _original(image: str, like: Image.Image) -> Image.Image:
    with Image.open(image) as opened:
        return opened.convert("RGB").resize(like.size, Image.Resampling.LANCZOS)


def _label_printer(quiet: bool) -> experiments.Tell:
    return lambda label: None if quiet else click.echo(f"painting: {label}", err=True)


def _print_result(as_json: bool, values: dict[str, Any]) -> None:
    if as_json:
        print_json(values)


def _not_to_stdout(out: str) -> None:
    if out == "-":
        raise click.UsageError("a contact sheet must be written to a file, not to stdout")


def _save(sheet: Image.Image, out: str) -> None:
    try:
        sheet.save(out)
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error}") from None
