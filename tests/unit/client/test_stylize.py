"""The options of ``impasto stylize``, which other commands share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import impasto
from impasto.cli.main import cli
from impasto.cli.stylize import LACKING, styled, stylize


def _options(command: click.Command) -> set[str]:
    return {name for option in command.params if isinstance(option, click.Option) for name in option.opts if name[:2] == "--"}


@pytest.mark.parametrize("name", ["batch", "grid", "redo"])
def test_commands_like_stylize_have_all_its_options_but_those_with_a_reason(name: str) -> None:
    """What a command lacks is listed with the reason, which it tells to whoever gives the option; nothing else is lacking."""
    assert _options(stylize) - _options(cli.commands[name]) == set(LACKING[name])


def test_a_lacking_option_is_explained() -> None:
    """In the error, before anything is sent."""
    command = [sys.executable, "-m", "impasto", "batch", "p.png", "--style", "s.png", "-o", "out", "--timeout", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--time-limit bounds each job" in done.stderr


def test_values_are_given_once_per_style(tmp_path: Path) -> None:
    """They replace what the styles have; an empty name is no mask; what is not given stays."""
    (tmp_path / "m.png").write_bytes(b"x")
    mask = str(tmp_path / "m.png")
    recorded = [impasto.Style("a.png", 0.5, region="r.png"), impasto.Style("b.png", 0.5)]
    assert styled(recorded, None, [], []) == recorded
    changed = styled(recorded, "0.7,0.3", [mask, ""], [])
    assert changed == [impasto.Style("a.png", 0.7, Path(mask), "r.png"), impasto.Style("b.png", 0.3)]
    assert styled(recorded, None, [], ["", ""])[0].region is None
    for shares, masks, regions in (("1", [], []), (None, [mask], []), (None, [], [mask] * 3), ("a,b", [], [])):
        with pytest.raises(click.UsageError, match="one value for each of the 2 styles|comma-separated numbers"):
            styled(recorded, shares, masks, regions)
    with pytest.raises(click.UsageError, match="give one value for the style, not 2"):
        styled(recorded[:1], "1,2", [], [])
    with pytest.raises(click.UsageError, match="there is no style"):  # a reconstruction that is made again
        styled([], "1", [], [])
    with pytest.raises(click.UsageError, match=r"--style-mask nope\.png: does not exist"):
        styled(recorded, None, ["", "nope.png"], [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["stylize", "-", "s.png", "-o", "o.png", "--style-mask", "-"],
        ["grid", "p.png", "s.png", "--vary", "seed=1,2", "-o", "o.png", "--mask", "-", "--init-image", "-"],
        ["batch", "-", "--style", "s.png", "-o", "out", "--mask", "-"],
    ],
)
def test_stdin_is_read_for_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """Masks count too; nothing is read before."""
    monkeypatch.chdir(tmp_path)
    for name in ("p.png", "s.png"):
        (tmp_path / name).write_bytes(b"x")
    done = CliRunner(env={"IMPASTO_SERVER": "127.0.0.1:1"}).invoke(cli, arguments, input="")
    assert "stdin can be read only once" in done.output
