"""``impasto stylize``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from impasto.cli.output import (
    JSON,
    SECONDS,
    SERVER,
    ProgressBar,
    check_output,
    print_json,
    read_picture,
    summary,
    write_picture,
)
from impasto.client import Client, Job
from impasto.errors import ImpastoError
from impasto.results import Result

DEFAULT_PREVIEW_EVERY = 10


class LayerWeights(click.ParamType[dict[str, float]]):
    """``relu1_1=1,relu2_1=0.5``; a layer without a number weighs 1."""

    name = "LAYER[=WEIGHT],..."

    def convert(
        self, value: str | dict[str, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """Return weight by layer."""
        if isinstance(value, dict):
            return value
        weights = {}
        for item in filter(None, value.split(",")):
            layer, _, weight = item.partition("=")
            try:
                weights[layer.strip()] = float(weight) if weight else 1.0
            except ValueError:
                self.fail(f"{weight!r} in {item!r} is not a number", param, ctx)
        return weights


def painting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how to paint; what is not given comes from the preset."""
    layers = LayerWeights()
    choices = click.Choice
    options = (
        click.option("--preset", help="Set of parameters to start from; see 'impasto info'."),
        click.option("--size", "size_px", type=int, help="Longer side of the canvas in pixels."),
        click.option("--steps", type=int, help="Optimizer steps at most; a job ends earlier if no better canvas can be found."),
        click.option("--content-weight", type=float, help="Multiplies the content loss."),
        click.option("--style-weight", type=float, help="Multiplies the style loss."),
        click.option("--tv-weight", "total_variation_weight", type=float, help="Multiplies the total variation."),
        click.option("--content-layers", type=layers, help="Layers that the content is compared at."),
        click.option("--style-layers", type=layers, help="Layers that the style is compared at."),
        click.option("--normalization", type=choices(["target", "gatys"]), help="How layers are made comparable."),
        click.option("--optimizer", type=choices(["lbfgs", "adam"]), help="Which optimizer."),
        click.option("--learning-rate", type=float, help="L-BFGS: relative to its own step. Adam: in pixel values."),
        click.option("--history", type=int, help="Pairs that L-BFGS remembers."),
        click.option("--init", type=choices(["content", "noise"]), help="What the canvas starts from."),
        click.option("--seed", type=int, help="Seed of the noise."),
        click.option("--pooling", type=choices(["average", "max"]), help="How the network pools."),
        click.option("--levels", type=int, help="Sizes painted at, each twice the last; 1: the full one only, 0: automatic."),
        click.option("--precision", type=choices(["auto", "float32", "bfloat16"]), help="Arithmetic of the network."),
        click.option("--priority", type=int, help="From -10 to 10; higher starts first and takes the place of lower ones."),
        click.option(
            "--time-limit", "time_limit_s", type=SECONDS, help="Seconds from acceptance to the end, waiting included."
        ),
        click.option("--on-deadline", type=choices(["fail", "return-best"]), help="What happens then; fail by default."),
        click.option("--ttl", "ttl_s", type=SECONDS, help="Seconds that the job is kept after its end."),
        click.option("--quality", type=int, help="Quality of JPEG and WebP, 1 to 100."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("content")
@click.argument("styles", nargs=-1, required=True, metavar="STYLE...")
@click.option("-o", "--output", "out", help="Where the picture goes: .png, .jpg, .webp, or - for stdout.")
@click.option("--style-shares", help="Weight of each style, by commas; equal by default.")
@click.option("--preview-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for pictures on the way.")
@click.option("--preview-every", type=int, help=f"Steps between previews; {DEFAULT_PREVIEW_EVERY} with --preview-dir.")
@click.option("--timeout", type=SECONDS, help="Seconds after which the job is cancelled.")
@click.option("--detach", is_flag=True, help="Submit, print the job's id, and leave.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@painting_options
@SERVER
@JSON
def stylize(
    content: str,
    styles: tuple[str, ...],
    out: str | None,
    style_shares: str | None,
    preview_dir: Path | None,
    preview_every: int | None,
    timeout: float | None,
    detach: bool,
    quiet: bool,
    server: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Repaint CONTENT in the style of one or several STYLE pictures; - reads one of them from stdin."""
    if detach and out is not None:
        raise click.UsageError(
            "--detach leaves before there is a picture; fetch it with 'impasto jobs result ID --wait -o OUT'"
        )
    if preview_every is not None and preview_dir is None:
        raise click.UsageError("--preview-every needs --preview-dir to put the previews into")
    if out is None and not detach:
        raise click.UsageError("say where the picture goes with -o, or use --detach")
    if out is not None and not detach:
        check_output(out)
    if as_json and out == "-":
        raise click.UsageError("--json and '-o -' both want stdout")
    if [content, *styles].count("-") > 1:
        raise click.UsageError("stdin can be read only once: give '-' for one picture")
    options["format"] = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}.get(Path(out or "").suffix.lower(), "png")
    if preview_dir is not None:
        preview_dir.mkdir(parents=True, exist_ok=True)
    if preview_dir is not None or preview_every is not None:
        options["preview_every_steps"] = DEFAULT_PREVIEW_EVERY if preview_every is None else preview_every
    if options["on_deadline"] is not None:
        options["on_deadline"] = options["on_deadline"].replace("-", "_")
    given = {name: value for name, value in options.items() if value is not None}
    pictures = _with_shares([read_picture(style) for style in styles], style_shares)
    with Client(server) as client:
        job = client.submit(read_picture(content), pictures, **given)
        if detach:
            _tell_id(job, as_json=as_json)
            return
        result = follow(job, ProgressBar(quiet=quiet, preview_dir=preview_dir), timeout)
    write_picture(result, out or "-")
    if as_json:
        print_json({**result.job.to_dict(), "output": out})
    else:
        click.echo(summary(result), err=True)


def follow(job: Job, bar: ProgressBar, timeout_s: float | None) -> Result:
    """Watch a job to its end; leaving early cancels it.

    Raises:
        ImpastoError: If the job ends without a picture.
    """
    try:
        with bar as show:
            return job.follow(show, timeout_s)
    except (KeyboardInterrupt, ImpastoError):
        job.cancel_quietly()
        raise


def _with_shares(pictures: list[Any], shares: str | None) -> list[Any]:
    if shares is None:
        return pictures
    try:
        numbers = [float(share) for share in shares.split(",")]
    except ValueError:
        raise click.UsageError(f"--style-shares {shares}: numbers by commas, such as 0.7,0.3") from None
    if len(numbers) != len(pictures):
        raise click.UsageError(f"--style-shares has {len(numbers)} numbers for {len(pictures)} styles")
    return list(zip(pictures, numbers, strict=True))


def _tell_id(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json({"job_id": job.job_id})
    else:
        click.echo(job.job_id)
