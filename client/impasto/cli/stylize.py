"""``impasto stylize``."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from impasto import text_values
from impasto._base import waited
from impasto._client import Client, Job
from impasto.changes import replaced
from impasto.cli import completion
from impasto.cli.arguments import label_option
from impasto.cli.output import (
    FOLLOWED,
    JSON,
    SECONDS,
    SERVER,
    Folder,
    cancel_left,
    check_folder,
    check_output,
    print_json,
    read_picture,
    tell,
    tell_outages,
    write_picture,
)
from impasto.errors import Unavailable, WaitTimeout
from impasto.pictures import Picture
from impasto.progress import ProgressBar
from impasto.requests import ENUMS, HOW_FAR, QUALITIES, Style, Styles
from impasto.results import Result
from impasto.words import words

DEFAULT_PREVIEW_EVERY = 10
Command = TypeVar("Command", bound=Callable[..., Any])


class LayerWeights(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``relu1_1=1,relu2_1=0.5``; a layer without a number has weight 1."""

    name = "LAYER[=WEIGHT],..."

    def convert(
        self, value: str | dict[str, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """Return weight by layer."""
        if isinstance(value, dict):
            return value
        try:
            return text_values.layer_weights(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Schedule(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``256:100,512:50``: sizes and the steps at each."""

    name = "SIZE:STEPS,..."

    def convert(
        self, value: str | list[tuple[int, int]], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[tuple[int, int]]:
        """Return pairs of size and steps."""
        if not isinstance(value, str):
            return value
        try:
            return text_values.schedule(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Quality(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``draft``, ``good`` or ``best``, which are presets; or the quality of the file, a number."""

    name = "draft|good|best|1-100"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        """Return the word or the number."""
        if isinstance(value, int):
            return value
        if value.lower() in QUALITIES:
            return value.lower()
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither {', '.join(QUALITIES[:-1])} or {QUALITIES[-1]} nor a number", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the words."""
        return [CompletionItem(word) for word in QUALITIES if word.startswith(incomplete)]


def _choice(option: str, *, dashed: bool = False) -> click.Choice[str]:
    """Return the choice of the contract's words for an option."""
    return click.Choice([word.replace("_", "-") if dashed else word for word in words(ENUMS[option])])


PAINTING: Mapping[str, Callable[[Any], Any]] = {
    "preset": click.option(
        "--preset", shell_complete=completion.presets, help="Set of parameters to start from; see 'impasto info'."
    ),
    "size_px": click.option("--size", "size_px", type=int, help="Longer side of the canvas in pixels."),
    "width_px": click.option("--width", "width_px", type=int, help="Exact width; the content is cropped to the aspect ratio."),
    "height_px": click.option("--height", "height_px", type=int, help="Exact height; see --width."),
    "steps": click.option(
        "--steps",
        type=int,
        help="Maximum optimizer steps; a job ends earlier if no further improvement is found, whatever --tolerance is.",
    ),
    "tolerance": click.option(
        "--tolerance", type=float, help="End when ten steps lower the loss by less than this fraction of it; 0 for never."
    ),
    "content_weight": click.option("--content-weight", type=float, help="Weight of the content loss."),
    "style_weight": click.option("--style-weight", type=float, help="Weight of the style loss."),
    "total_variation_weight": click.option(
        "--tv-weight", "total_variation_weight", type=float, help="Weight of the total variation."
    ),
    "content_layers": click.option(
        "--content-layers", type=LayerWeights(), shell_complete=completion.layers, help="Layers of the content loss."
    ),
    "style_layers": click.option(
        "--style-layers", type=LayerWeights(), shell_complete=completion.layers, help="Layers of the style loss."
    ),
    "normalization": click.option("--normalization", type=_choice("normalization"), help="How layer errors are normalized."),
    "style_loss": click.option(
        "--style-loss",
        type=_choice("style_loss"),
        help="Feature statistics that define a style.",
    ),
    "style_scale": click.option(
        "--style-scale", type=float, help="Size of the strokes: styles are resized to the canvas's size times this."
    ),
    "color": click.option(
        "--color",
        type=_choice("color"),
        help="Colours: the style's; the content's, with only luminance painted; or the style's, matched to the content's.",
    ),
    "optimizer": click.option("--optimizer", type=_choice("optimizer"), help="Optimizer."),
    "learning_rate": click.option(
        "--learning-rate", type=float, help="L-BFGS: step length relative to its own estimate. Adam: step size in pixel values."
    ),
    "history": click.option("--history", type=int, help="Number of correction pairs that L-BFGS keeps."),
    "init": click.option("--init", type=_choice("init"), help="Initial canvas."),
    "init_image": click.option("--init-image", shell_complete=completion.files, help="Picture for the initial canvas."),
    "seed": click.option("--seed", type=int, help="Seed of the noise."),
    "network": click.option(
        "--network",
        shell_complete=completion.networks,
        help="ARCHITECTURE:WEIGHTS, such as alexnet:random-7; see 'impasto info'.",
    ),
    "pooling": click.option("--pooling", type=_choice("pooling"), help="Type of the network's pooling layers."),
    "levels": click.option(
        "--levels", type=int, help="Number of sizes to paint at, each twice the previous one; 1: full size only, 0: automatic."
    ),
    "schedule": click.option(
        "--schedule", type=Schedule(), help="Sizes and the steps at each; replaces --size, --steps and --levels."
    ),
    "precision": click.option("--precision", type=_choice("precision"), help="Numeric precision of the network."),
    "priority": click.option(
        "--priority", type=int, help="From -10 to 10; higher priorities start first and preempt lower ones."
    ),
    "time_limit_s": click.option(
        "--time-limit", "time_limit_s", type=SECONDS, help="Seconds from acceptance to the end, including waiting."
    ),
    "on_deadline": click.option(
        "--on-deadline",
        type=_choice("on_deadline", dashed=True),
        help="What happens at the time limit; fail by default.",
    ),
    "ttl_s": click.option(
        "--ttl", "ttl_s", type=SECONDS, help="Seconds to keep the job after its end, at most the server's retention time."
    ),
    "labels": label_option("Label by which 'impasto jobs list --label' finds the job; repeatable."),
    "webhook": click.option("--webhook", help="URL that the server tells of the job's end, if its operator allows the host."),
    "quality": click.option(
        "--quality",
        type=Quality(),
        help="How far the painting goes: draft, good or best, the same as --preset. A number: quality of JPEG and WebP.",
    ),
    "omit_metadata": click.option(
        "--no-metadata", "omit_metadata", is_flag=True, help="Omit the metadata from the file ('impasto redo' needs it)."
    ),
}
"""Painting options by the client's names."""


STYLING: Mapping[str, Callable[[Any], Any]] = {
    "style_shares": click.option("--style-shares", help="Weight of each style in the mix, comma-separated; equal by default."),
    "style_masks": click.option(
        "--style-mask",
        "style_masks",
        multiple=True,
        shell_complete=completion.files,
        help="Part of a STYLE to use; once per style, '' for all.",
    ),
    "style_regions": click.option(
        "--style-region",
        "style_regions",
        multiple=True,
        shell_complete=completion.files,
        help="Where a STYLE is painted; once per style, '' for everywhere.",
    ),
    "mask": click.option(
        "--mask",
        shell_complete=completion.files,
        help="Picture that selects the part of the content to paint: white is painted, black is left unchanged.",
    ),
}
"""Options of the styles and of the part that is painted, by the commands' arguments."""

PREVIEWS: Mapping[str, Callable[[Any], Any]] = {
    "preview_dir": click.option(
        "--preview-dir",
        type=Folder(),
        help="Folder for previews; the last is of the finished picture.",
    ),
    "preview_every": click.option(
        "--preview-every", type=int, help=f"Steps between previews; {DEFAULT_PREVIEW_EVERY} with --preview-dir."
    ),
}
"""Options of the previews, likewise."""

_MANY = {
    "--preview-dir": "the command paints many pictures; 'impasto stylize' and 'impasto redo' have previews",
    "--preview-every": "the command paints many pictures; 'impasto stylize' and 'impasto redo' have previews",
    "--timeout": "--time-limit bounds each job; Ctrl-C ends the command, and the same command goes on",
    "--detach": "the command waits for its pictures; it may be interrupted, and the same command goes on",
}
LACKING: Mapping[str, Mapping[str, str]] = {
    "batch": _MANY,
    "grid": _MANY,
    "redo": {"--detach": "the new picture is compared with how the old one was painted, so the command waits for it"},
}
"""Options of ``impasto stylize`` that commands like it lack, and why."""


def painting_options(*excluded: str) -> Callable[[Command], Command]:
    """Add the painting options, except some; values that are not given come from the preset."""
    return _added({name: option for name, option in PAINTING.items() if name not in excluded})


def _added(options: Mapping[str, Callable[[Any], Any]]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(list(options.values())):
            command = option(command)
        return command

    return add


styling_options = _added(STYLING)
"""Adds the options of the styles and the mask; :func:`styled` applies those of the styles."""
preview_options = _added(PREVIEWS)
"""Adds the options of the previews; :func:`with_previews` applies them."""


def given_options(
    options: Mapping[str, Any], out: str | None, varied: Mapping[str, Sequence[Any]] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the given options as client options, and the format for the output file's extension.

    Args:
        options: Values of the command's parameters.
        out: The output file.
        varied: Values of options that differ between pictures; they take precedence over the profile as given ones do.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    for name in overridden(given, varied):
        del given[name]
    if isinstance(given.get("quality"), str):
        if given.get("preset", given["quality"]) != given["quality"]:
            raise click.UsageError("--quality draft, good or best and --preset are mutually exclusive: each is a preset")
        given["preset"] = given.pop("quality")
        if isinstance(number := _of_profile("quality"), int):
            given["quality"] = number
    if "schedule" in given or "schedule" in varied:
        for name, flag in (("size_px", "--size"), ("steps", "--steps"), ("levels", "--levels")):
            if name in given or name in varied:
                raise click.UsageError(f"{flag} and --schedule are mutually exclusive: the schedule sets sizes and steps")
    given["format"] = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}.get(Path(out or "").suffix.lower(), "png")
    if "on_deadline" in given:
        given["on_deadline"] = given["on_deadline"].replace("-", "_")
    for name in ("mask", "init_image"):
        if name in given:
            given[name] = read_picture(given[name])
    return given


def _of_profile(name: str) -> object:
    """Return the value of an option in the profile; None if it has none."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.lookup_default(name)


def overridden(given: Mapping[str, Any], varied: Mapping[str, Sequence[Any]] = MappingProxyType({})) -> set[str]:
    """Return the options of the profile that contradict an option of the command line, or one that varies."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return set()
    of_profile = {name: value for name, value in given.items() if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP}
    of_line = {name: value for name, value in given.items() if name not in of_profile}
    dropped = of_profile.keys() & varied.keys()
    for each in (of_line, *({name: value} for name, values in varied.items() for value in values)):
        dropped |= of_profile.keys() & replaced(ctx.default_map or {}, each)
        if "schedule" in each:  # whose sizes an exact size would win over
            dropped |= of_profile.keys() & {"width_px", "height_px"}
        if any(isinstance(each.get(name), str) for name in ("preset", "quality")):
            presets = {name for name in ("preset", "quality") if isinstance(of_profile.get(name), str)}
            dropped |= of_profile.keys() & (presets | HOW_FAR)
    if "schedule" in of_profile and {"size_px", "steps", "levels"} & given.keys() - dropped:
        dropped.add("schedule")
    return dropped


@click.command()
@click.argument("content", shell_complete=completion.files)
@click.argument("styles", nargs=-1, required=True, metavar="STYLE...", shell_complete=completion.files)
@click.option(
    "-o", "--output", "out", shell_complete=completion.files, help="Output file: .png, .jpg or .webp, or - for stdout."
)
@styling_options
@preview_options
@click.option("--timeout", type=SECONDS, help="Seconds after which the job is cancelled.")
@click.option("--detach", is_flag=True, help="Submit, print the job's id, and exit.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@painting_options()
@SERVER
@JSON
def stylize(
    content: str,
    styles: tuple[str, ...],
    out: str | None,
    style_shares: str | None,
    style_masks: tuple[str, ...],
    style_regions: tuple[str, ...],
    preview_dir: Path | None,
    preview_every: int | None,
    timeout: float | None,
    detach: bool,
    quiet: bool,
    server: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Repaint CONTENT in the style of one or more STYLE pictures; - reads one of them from stdin."""
    _check_usage(out, preview_dir, timeout, detach=detach, as_json=as_json)
    check_stdin(content, *styles, *style_masks, *style_regions, options["mask"], options["init_image"])
    previews = with_previews(preview_dir, preview_every)
    given = {**given_options(options, out), **previews}
    pictures = styled([Style(read_picture(style)) for style in styles], style_shares, style_masks, style_regions)
    with Client(server) as client:
        if detach:
            _print_id(client.submit(read_picture(content), pictures, **given), as_json=as_json)
            return
        bar = ProgressBar(quiet=quiet, preview_dir=preview_dir)
        result = paint(client, (read_picture(content), pictures), given, bar, timeout)
    bar.save_last_preview(result)
    write_picture(result, out or "-")
    if as_json:
        print_json({**result.job.to_dict(), "output": out})
    else:
        tell(result)


def _check_usage(out: str | None, preview_dir: Path | None, timeout: float | None, *, detach: bool, as_json: bool) -> None:
    """Refuse options that contradict one another, before anything is sent."""
    if detach and out is not None:
        raise click.UsageError(
            "--detach exits before the picture is ready; fetch it with 'impasto jobs result ID --wait -o OUT'"
        )
    if detach and (timeout is not None or preview_dir is not None):
        name = "--timeout" if timeout is not None else "--preview-dir"
        raise click.UsageError(
            f"--detach does not wait for the job, so {name} has no effect; see --time-limit and 'impasto jobs'"
        )
    if out is None and not detach:
        raise click.UsageError("give an output file with -o, or use --detach")
    if out is not None and not detach:
        check_output(out)
    if as_json and out == "-":
        raise click.UsageError("--json and '-o -' both write to stdout")


def check_stdin(*pictures: str | None) -> None:
    """Refuse ``-`` for more than one picture."""
    if pictures.count("-") > 1:
        raise click.UsageError("stdin can be read only once: use '-' for one picture")


def with_previews(folder: Path | None, every: int | None) -> dict[str, Any]:
    """Create the folder of the previews if it is missing, and return the client option for them, if they are wanted.

    Raises:
        ClickException: If the folder cannot be written, or there is none.
    """
    if folder is None:
        if every is not None:
            raise click.UsageError("--preview-every requires --preview-dir, the folder for the previews")
        return {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot write previews to {folder}: {error.strerror or error}") from None
    check_folder(folder, f"previews to {folder}")
    return {"preview_every_steps": DEFAULT_PREVIEW_EVERY if every is None else every}


def paint(
    client: Client,
    pictures: tuple[Picture | None, Styles],
    options: Mapping[str, Any],
    bar: ProgressBar,
    timeout_s: float | None,
) -> Result:
    """Submit a job and watch it to its end; interrupting it cancels the job.

    Raises:
        ImpastoError: If the job ends without a picture.
    """
    request_id = str(uuid.uuid4())  # known from the first moment on, so that an interrupted submission can be cancelled
    followed = (client.server, request_id)
    FOLLOWED[followed] = ""
    if not bar.quiet:
        tell_outages(client, lambda text: click.echo(text, err=True))
    job: Job | None = None
    try:
        job = client.submit(*pictures, request_id=request_id, **options)
        FOLLOWED[followed] = job.job_id
        with bar as show:
            return job.follow(show, timeout_s)
    except Unavailable as error:
        if job is None:
            raise
        later = f"impasto jobs result {job.job_id} --wait -o OUT"
        text = f"{error}; job {job.job_id} goes on when its server is back, if it keeps jobs on disk: {later}"
        raise Unavailable(text, reason=error.reason, retry_after_s=error.retry_after_s) from None
    except WaitTimeout:
        client.cancel_quietly(request_id)
        raise waited(timeout_s, "was cancelled") from None
    except BaseException as error:  # whatever it is, nobody waits for the job any more
        left = job is not None or not isinstance(error, Exception)
        if left and (note := cancel_left(client, request_id, FOLLOWED[followed])):
            error.add_note(note)
        raise
    finally:
        del FOLLOWED[followed]


def styled(styles: Sequence[Style], shares: str | None, masks: Sequence[str], regions: Sequence[str]) -> list[Style]:
    """Return the styles with the weights, masks and regions that are given.

    Raises:
        UsageError: If there are not as many as styles, or a file does not exist.
    """
    try:
        weights = [float(share) for share in shares.split(",")] if shares is not None else []
    except ValueError:
        raise click.UsageError(f"--style-shares {shares}: must be comma-separated numbers, such as 0.7,0.3") from None
    given: tuple[tuple[str, str, Sequence[Any]], ...] = (
        ("--style-shares", "weight", weights),
        ("--style-mask", "mask", _optional("--style-mask", masks)),
        ("--style-region", "region", _optional("--style-region", regions)),
    )
    found = list(styles)
    for flag, name, values in given:
        if values and not styles:
            raise click.UsageError(f"{flag}: there is no style")
        if values and len(values) != len(styles):
            each = f"each of the {len(styles)} styles" if len(styles) > 1 else "the style"
            raise click.UsageError(f"{flag}: give one value for {each}, not {len(values)}")
        if values:
            found = [replace(style, **{name: value}) for style, value in zip(found, values, strict=True)]
    return found


def _optional(flag: str, names: Sequence[str]) -> list[Picture | None]:
    """Return the pictures with some names; None for an empty name."""
    pictures = [read_picture(name) if name else None for name in names]
    for picture in pictures:
        if isinstance(picture, Path) and not picture.exists():
            raise click.UsageError(f"{flag} {picture}: does not exist")
    return pictures


def _print_id(job: Job, *, as_json: bool) -> None:
    """Print a job's id.

    Raises:
        ClickException: If it cannot be printed; the message has it.
    """
    try:
        if as_json:
            print_json({"job_id": job.job_id})
        else:
            click.echo(job.job_id)
        sys.stdout.flush()
    except OSError as error:
        raise click.ClickException(f"cannot write to stdout: {error.strerror}; job {job.job_id} goes on") from None
