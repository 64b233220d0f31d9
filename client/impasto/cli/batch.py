"""``impasto batch``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from impasto._client import Client
from impasto._mapping import default_in_flight
from impasto.batch.inputs import DEFAULT_TEMPLATE, LONGEST_PATH, Pair, check_outputs, every, expanded, from_csv, listed
from impasto.batch.manifest import NAME, Manifest
from impasto.batch.run import Batch, Outcome, Stop
from impasto.batch.sheet import MOST_TILES, batch_sheet
from impasto.batch.sheet import NAME as SHEET
from impasto.cli import completion
from impasto.cli.batch_progress import BatchProgress
from impasto.cli.output import INTERRUPTED, JSON, SERVER, Folder, check_folder, print_json, tell_outages
from impasto.cli.stylize import check_stdin, given_options, painting_options, styled, styling_options
from impasto.display import shown
from impasto.errors import ImpastoError, Unavailable
from impasto.requests import Style
from impasto.results import ServerInfo
from impasto.signals import stopping

PATIENCE_S = 300.0
ASK_AGAIN_S = 1.0
_LISTED_FAILURES = 20


class ListedStyles(click.Command):
    """A command whose option ``--style`` takes all arguments up to the next option, as shells expand ``styles/*``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat ``--style`` before each of its values."""
        spread: list[str] = []
        rest = list(args)
        while rest:
            argument = rest.pop(0)
            if argument == "--":
                spread += [argument, *rest]
                break
            if argument not in ("--style", "-s"):
                spread.append(argument)
                continue
            values = 0
            while rest and not (rest[0].startswith("-") and rest[0] != "-"):
                spread += ["--style", rest.pop(0)]
                values += 1
            if not values and ctx.resilient_parsing:  # a shell asks for completions
                spread.append("--style")
            elif not values:
                raise click.UsageError("--style needs at least one picture", ctx)
        return super().parse_args(ctx, spread)


@dataclass
class Tally:
    """What became of the pairs so far."""

    painted: int = 0
    before: int = 0
    """Those of the painted ones that were on the server already, by an earlier run or under another name."""
    kept: int = 0
    stopped: int = 0
    failures: list[Outcome] = field(default_factory=list)

    def summary(self, pairs: int) -> str:
        """Return what became of all pairs, in words."""
        before = f" ({self.before} already on the server)" if self.before else ""
        kept = f", {self.kept} kept from an earlier run" if self.kept else ""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        left = pairs - self.painted - self.kept - len(self.failures)
        return f"{self.painted} of {pairs} pictures painted{before}{kept}{failed}" + (f", {left} left" if left else "")

    def add(self, outcome: Outcome) -> None:
        """Count a pair."""
        self.painted += outcome.status == "succeeded"
        self.before += outcome.status == "succeeded" and not outcome.painted
        self.kept += outcome.status == "kept"
        self.stopped += outcome.status == "stopped"
        if outcome.status == "failed":
            self.failures.append(outcome)


@click.command(cls=ListedStyles)
@click.argument("photos", nargs=-1, metavar="PHOTOS...", shell_complete=completion.files)
@click.option(
    "--style",
    "-s",
    "styles",
    multiple=True,
    metavar="STYLES...",
    shell_complete=completion.files,
    help="Style pictures: files, folders, patterns; all arguments up to the next option.",
)
@click.option(
    "--pairs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV file instead of PHOTOS and --style, with the columns photo and style, optionally output, mask, style_mask and "
    "style_region; paths are relative to its folder, else to the current one.",
)
@click.option("-o", "--output", "out", required=True, type=Folder(), help="Folder.")
@click.option(
    "--name",
    "template",
    default=DEFAULT_TEMPLATE,
    show_default=True,
    help="Names of the outputs: {photo}, {style}, {photo_folder}, {style_folder}, {index}; .png, .jpg or .webp.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 1000), help="Jobs at a time; by default those that the server runs, and some ahead."
)
@click.option("--retries", type=click.IntRange(0, 100), default=2, show_default=True, help="Retries of a job that was lost.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=PATIENCE_S,
    show_default=True,
    help="Seconds to wait for a server that does not answer.",
)
@click.option("--mix", is_flag=True, help="Paint each photo once, in all styles together; --style-shares needs it.")
@styling_options
@click.option("--no-sheet", is_flag=True, help=f"Write no contact sheet ({SHEET}).")
@click.option("--dry-run", is_flag=True, help="Show the pairs and their outputs, and paint nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@painting_options()
@SERVER
@JSON
def batch(
    photos: tuple[str, ...],
    styles: tuple[str, ...],
    pairs: Path | None,
    out: Path,
    template: str,
    parallel: int | None,
    retries: int,
    patience: float,
    mix: bool,
    style_shares: str | None,
    style_masks: tuple[str, ...],
    style_regions: tuple[str, ...],
    no_sheet: bool,
    dry_run: bool,
    quiet: bool,
    server: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Paint each of PHOTOS in each of STYLES, or in all of them together (--mix), or the pairs of a CSV file.

    PHOTOS and STYLES are files, folders (without subfolders) and patterns; - reads a list of PHOTOS from stdin, one on a line.
    manifest.jsonl in the folder gets a line for each picture. The same command again goes on where a run ended, however it
    ended: nothing is painted twice; pictures whose files or options have changed are painted anew.

    Ctrl-C lets the running pictures end; twice, it cancels them.
    """
    check_stdin(*photos, *style_masks, *style_regions, options["mask"], options["init_image"])
    if style_shares is not None and not mix:
        raise click.UsageError("--style-shares needs --mix: without it, each picture has one style")
    parts = (style_shares, style_masks, style_regions)
    chosen = _pairs(photos, styles, pairs, out, template, parts, mix=mix)
    others = [Path(name) for name in (options["mask"], options["init_image"]) if name] + ([pairs] if pairs else [])
    check_outputs(chosen, out, others, sheet="" if no_sheet else SHEET)
    if dry_run:
        for pair in chosen:
            click.echo(f"{shown(out / pair.output, LONGEST_PATH)}: {pair}")
        return
    given = given_options(options, None)
    given.pop("format")
    make_folder(out)
    with Client(server, patience_s=patience) as client, Manifest(out) as manifest:
        run = Batch(client, out, manifest, given, retries)
        waits = (
            manifest.lines > 0 or click.get_current_context().get_parameter_source("patience") is ParameterSource.COMMANDLINE
        )
        info = _server_info(client, patience if waits else 0.0)
        tally = run_batch(run, chosen, parallel or default_in_flight(info), quiet=quiet or as_json)
    sheet = None if no_sheet else _sheet(out, chosen)
    _report(run, tally, chosen, out, sheet, as_json=as_json)


def _server_info(client: Client, patience_s: float) -> ServerInfo:
    """Return what the server is; wait for one that does not answer, as when a run is started again while its server is too."""
    until, told = time.monotonic() + patience_s, False
    while True:
        try:
            return client.server_info()
        except Unavailable as error:
            if time.monotonic() > until:
                raise
            if not told:
                click.echo(f"Warning: {error}; trying again for up to {patience_s:g} s", err=True)
            told = True
            time.sleep(ASK_AGAIN_S)


def _pairs(
    photos: Sequence[str],
    styles: Sequence[str],
    table: Path | None,
    out: Path,
    template: str,
    parts: tuple[str | None, Sequence[str], Sequence[str]],
    *,
    mix: bool,
) -> list[Pair]:
    if table is not None:
        if photos or styles:
            raise click.UsageError("--pairs replaces PHOTOS and --style")
        if mix or any(parts):
            text = "--mix, --style-mask and --style-region need --style; --pairs has the columns style_mask and style_region"
            raise click.UsageError(text)
        chosen = from_csv(table, template)
    else:
        if not styles:
            raise click.UsageError("give style pictures with --style, or pairs with --pairs")
        if not photos:
            raise click.UsageError("give PHOTOS before --style, which takes all arguments up to the next option")
        if "-" in styles:
            raise click.UsageError("- is a list of PHOTOS only")
        chosen_photos = expanded(_with_list(photos), "photos", out)
        chosen_styles = styled([Style(path) for path in expanded(styles, "styles", out)], *parts)
        chosen = every(chosen_photos, chosen_styles, template, mix=mix)
    if not chosen:
        raise click.UsageError("there are no pairs")
    return chosen


def _with_list(photos: Sequence[str]) -> list[str]:
    """Return the photos, with the list on stdin in the place of ``-``."""
    found: list[str] = []
    for photo in photos:
        if photo != "-":
            found.append(photo)
            continue
        if sys.stdin is None:
            raise click.ClickException("cannot read the list from stdin: it is closed")
        found += listed(os.fsdecode(sys.stdin.buffer.read()))
    return found


def make_folder(out: Path) -> None:
    """Create the folder of the outputs if it is missing.

    Raises:
        ClickException: If it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot write to {out}: {error.strerror or error}") from None
    check_folder(out, f"to {out}")


def run_batch(run: Batch, pairs: Sequence[Pair], parallel: int, *, quiet: bool) -> Tally:
    """Paint the pairs, show the progress, and count what becomes of them; Ctrl-C interrupts the run."""
    tally = Tally()
    with BatchProgress(run, len(pairs), quiet=quiet) as show, _interruptible(run, show.say):
        if not quiet:
            tell_outages(run.client, show.say)
        for outcome in run.paint(pairs, parallel):
            tally.add(outcome)
            show(outcome)
    return tally


@contextlib.contextmanager
def _interruptible(run: Batch, say: Callable[[str], None]) -> Iterator[None]:
    """Let the first Ctrl-C stop the run at its running pictures, the second one cancel them, the third one end at once."""

    def stop(number: int, press: int) -> None:
        if number == signal.SIGINT and press == 1:  # said first: the server may take its time
            say("Interrupted: waiting for the running pictures; Ctrl-C again cancels them")
        with contextlib.suppress(ImpastoError):  # the run has just ended, and closed its client
            if run.interrupt() is Stop.FINISH and number != signal.SIGINT:  # SIGTERM, SIGHUP: nobody waits
                run.interrupt()

    presses = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 2:
            os._exit(INTERRUPTED)
        threading.Thread(target=stop, args=(number, presses), daemon=True).start()  # it calls the server

    before = {number: signal.signal(number, on_signal) for number in stopping()} if _in_main_thread() else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _sheet(out: Path, pairs: Sequence[Pair]) -> Path | None:
    """Write the contact sheet; return None if there is none. The pictures are painted, so a fault is a warning only."""
    path = out / SHEET
    try:
        sheet = batch_sheet(out, pairs)
        if sheet is None:
            return None
        sheet.save(path, quality=90)
    except Exception as error:  # Pillow raises many kinds of errors
        text = getattr(error, "strerror", None) or error
        click.echo(f"Warning: cannot write the contact sheet {path}: {text}", err=True)
        return None
    if len(pairs) > MOST_TILES:
        click.echo(f"the contact sheet shows the first {MOST_TILES} pictures", err=True)
    return path


def _failure(outcome: Outcome) -> dict[str, str]:
    pair = outcome.pair
    styles = " + ".join(map(str, pair.style_files))
    return {"photo": str(pair.photo), "style": styles, "output": pair.output, "error": str(outcome.error)}


def _report(run: Batch, tally: Tally, pairs: Sequence[Pair], out: Path, sheet: Path | None, *, as_json: bool) -> None:
    """Say what became of the pairs, and end with the exit code for it."""
    left = len(pairs) - tally.painted - tally.kept - len(tally.failures)
    if as_json:
        print_json(
            {
                "output": str(out),
                "pairs": len(pairs),
                "painted": tally.painted,
                "kept": tally.kept,
                "failed": [_failure(item) for item in tally.failures],
                "left": left,
                "manifest": str(out / NAME),
                "sheet": None if sheet is None else str(sheet),
            }
        )
    else:
        click.echo(f"{tally.summary(len(pairs))}; see {out / NAME}", err=True)
        for item in tally.failures[:_LISTED_FAILURES]:
            click.echo(f"failed: {item.pair}: {shown(item.error, LONGEST_PATH)}", err=True)
        if len(tally.failures) > _LISTED_FAILURES:
            click.echo(f"and {len(tally.failures) - _LISTED_FAILURES} more, in {out / NAME}", err=True)
    if run.fault is not None:
        again = "; the same command goes on from here" if isinstance(run.fault, Unavailable) else ""
        if isinstance(run.fault, ImpastoError) and not run.fault.violations:
            raise type(run.fault)(f"{run.fault}{again}", reason=run.fault.reason)
        raise run.fault
    if left:
        click.echo("interrupted; the same command goes on from here", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    if tally.failures:
        raise click.exceptions.Exit(1)
