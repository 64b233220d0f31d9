"""Profiles: what they set, what takes precedence over them, and what is wrong with them in plain words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from impasto.cli import profiles
from impasto.cli.main import cli
from impasto.cli.output import SERVER
from impasto.cli.stylize import given_options, painting_options

FILE = """
default = "home"

[profiles.home]
server = "home:1"

[profiles.studio]
server = "studio:50051"
token_file = "{token}"
tls = true
tls_ca = "~/ca.pem"

[profiles.studio.defaults]
size_px = 1024
color = "matched"
style_scale = 2
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the client's file, and restore the environment."""
    for name in ("IMPASTO_SERVER", "IMPASTO_TOKEN", "IMPASTO_TLS", "IMPASTO_TLS_CA", "IMPASTO_PROFILE"):
        monkeypatch.setenv(name, "x")  # so that it is restored
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("secret\n")
    path = tmp_path / "client.toml"
    path.write_text(FILE.replace("{token}", str(tmp_path / "token")))
    monkeypatch.setenv("IMPASTO_CLIENT_CONFIG", str(path))
    before = dict(os.environ)
    yield path
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def seen(*arguments: str) -> dict[str, Any]:
    """Return what a painting command gets."""
    found: dict[str, Any] = {}

    @click.command("stylize")
    @click.argument("photo")
    @painting_options()
    @SERVER
    def command(photo: str, server: str, **options: Any) -> None:
        found.update(given_options(options, None), server=server, token=os.environ.get("IMPASTO_TOKEN"))

    group = type(cli)("impasto", params=cli.params, callback=cli.callback)
    group.add_command(command)
    done = CliRunner().invoke(group, [*arguments[: arguments.index("stylize")], *arguments[arguments.index("stylize") :]])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return found


def test_a_profile_gives_server_credentials_and_default_options(config: Path) -> None:
    found = seen("--profile", "studio", "stylize", "p.png")
    assert (found["server"], found["token"]) == ("studio:50051", "secret")
    assert (found["size_px"], found["color"], found["style_scale"]) == (1024, "matched", 2.0)
    assert os.environ["IMPASTO_TLS"] == "1"
    assert os.environ["IMPASTO_TLS_CA"] == str(Path("~/ca.pem").expanduser())


def test_options_of_the_command_line_take_precedence(config: Path) -> None:
    """A schedule replaces the size of the profile too."""
    found = seen("--profile", "studio", "--server", "other:2", "stylize", "p.png", "--size", "64")
    assert (found["server"], found["size_px"], found["color"]) == ("other:2", 64, "matched")
    found = seen("--profile", "studio", "stylize", "p.png", "--schedule", "64:5")
    assert found["schedule"] == [(64, 5)]
    assert "size_px" not in found


def test_the_default_profile_fills_in_what_the_environment_lacks(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named one replaces it; $IMPASTO_PROFILE names another default, or none."""
    assert seen("stylize", "p.png")["server"] == "home:1"
    monkeypatch.setenv("IMPASTO_SERVER", "environment:3")
    assert seen("stylize", "p.png")["server"] == "environment:3"
    assert seen("--profile", "studio", "stylize", "p.png")["server"] == "studio:50051"
    monkeypatch.delenv("IMPASTO_SERVER")
    monkeypatch.setenv("IMPASTO_PROFILE", "studio")
    assert seen("stylize", "p.png")["server"] == "studio:50051"
    monkeypatch.delenv("IMPASTO_SERVER")
    monkeypatch.setenv("IMPASTO_PROFILE", "")
    assert seen("stylize", "p.png")["server"] == "localhost:50051"


def test_credentials_of_the_default_profile_are_not_sent_to_another_server(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default options hold there, its token does not; a profile that is named is meant."""
    monkeypatch.setenv("IMPASTO_PROFILE", "studio")
    found = seen("--server", "other:2", "stylize", "p.png")
    assert (found["server"], found["token"], found["size_px"]) == ("other:2", None, 1024)
    monkeypatch.delenv("IMPASTO_SERVER")
    found = seen("stylize", "p.png", "--server", "other:2")
    assert (found["server"], found["token"], found["size_px"]) == ("other:2", None, 1024)
    assert seen("stylize", "p.png", "--server", "studio:50051")["token"] == "secret"  # noqa: S105


def test_without_a_file_nothing_is_set(config: Path) -> None:
    """And --profile says where the file would be."""
    config.unlink()
    assert seen("stylize", "p.png")["server"] == "localhost:50051"
    with pytest.raises(click.ClickException, match=f"cannot read the profiles in {config}"):
        profiles.profile("studio")
    assert profiles.names() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no profile 'studio'.*the profiles are none"),
        ("[profiles.stduio]\n", "there is no profile 'studio'.*the profiles are stduio"),
        ("[profiles.studio]\nserevr = 'x'\n", "unknown key 'serevr'; did you mean server"),
        ("[profiles.studio]\nserver = 5\n", "server must be text, got 5"),
        ("[profiles.studio]\ntls = 'yes'\n", "tls must be true or false"),
        ("[profiles.studio]\ntoken_file = '/nope'\n", "token_file /nope cannot be read"),
        ("[profiles.studio.defaults]\nsize = 5\n", "unknown option 'size'"),
        ("[profiles.studio.defaults]\nsize_px = 'big'\n", "size_px must be int, got 'big'"),
        ("[profiles.studio.defaults]\nsize_px = true\n", "size_px must be int, got True"),
        ("[profiles.studio.defaults]\ninit_image = 'x'\n", "unknown option 'init_image'"),
        ("[profiles]\nstudio = 3\n", "is not a table"),
        ("[profiles.studio]\ndefaults = 3\n", "is not a table of options"),
        ("profiles = 3", "there is no profile"),
        ("not toml", "client.toml: "),
        ("default = 3", "there is no profile"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(config: Path, text: str, said: str) -> None:
    config.write_text(text)
    with pytest.raises(click.ClickException, match=said):
        profiles.profile("studio")


def test_the_file_is_where_the_system_keeps_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IMPASTO_CLIENT_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert profiles.config_file().name == "client.toml"


def test_quality_is_a_preset_or_a_number(config: Path) -> None:
    assert seen("stylize", "p.png", "--quality", "draft")["preset"] == "draft"
    assert seen("stylize", "p.png", "--quality", "90")["quality"] == 90
    assert seen("stylize", "p.png", "--preset", "best", "--quality", "90")["preset"] == "best"
    assert seen("stylize", "p.png", "--preset", "best", "--quality", "Best")["preset"] == "best"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--quality", "fine"), "'fine' is neither draft, good or best nor a number"),
        (("--quality", "best", "--preset", "gatys"), "mutually exclusive"),
    ],
)
def test_quality_that_is_refused(config: Path, arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises((click.UsageError, AssertionError), match=text):
        seen("stylize", "p.png", *arguments)


def test_the_quality_of_the_command_line_precedes_the_preset_of_the_profile(config: Path) -> None:
    config.write_text('[profiles.studio]\nserver = "studio:1"\n[profiles.studio.defaults]\npreset = "gatys"\n')
    assert seen("--profile", "studio", "stylize", "p.png")["preset"] == "gatys"
    assert seen("--profile", "studio", "stylize", "p.png", "--quality", "best")["preset"] == "best"


@pytest.mark.parametrize("arguments", [("--quality", "draft"), ("--preset", "draft")])
def test_a_preset_of_the_command_line_precedes_the_steps_of_the_profile(config: Path, arguments: tuple[str, ...]) -> None:
    """Other options of the profile hold; those of the command line precede the preset."""
    defaults = 'preset = "best"\nsteps = 4\ntolerance = 0.1\ncontent_weight = 0.5\n'
    config.write_text(f'[profiles.studio]\nserver = "studio:1"\n[profiles.studio.defaults]\n{defaults}')
    found = seen("--profile", "studio", "stylize", "p.png", *arguments)
    assert (found["preset"], found["content_weight"]) == ("draft", 0.5)
    assert not {"steps", "tolerance"} & found.keys()
    assert seen("--profile", "studio", "stylize", "p.png", *arguments, "--steps", "7")["steps"] == 7
    assert seen("--profile", "studio", "stylize", "p.png")["steps"] == 4


@pytest.mark.parametrize(
    ("defaults", "arguments", "left"),
    [
        ("width_px = 64\nheight_px = 48", ("--size", "32"), {"size_px": 32}),
        ("width_px = 64\nheight_px = 48", ("--schedule", "32:2"), {"schedule": [(32, 2)]}),
        ("width_px = 64\nheight_px = 48", ("--width", "32"), {"width_px": 32, "height_px": 48}),
        ("width_px = 64\nheight_px = 48", ("--steps", "2"), {"width_px": 64, "height_px": 48, "steps": 2}),
        ("schedule = '32:2,64:2'", ("--steps", "2"), {"steps": 2}),
        ("schedule = '32:2'\nsteps = 3", ("--seed", "2"), {"steps": 3, "seed": 2}),
        ("optimizer = 'adam'\nlearning_rate = 0.1", ("--optimizer", "lbfgs"), {"optimizer": "lbfgs"}),
        ("learning_rate = 0.1", ("--optimizer", "adam"), {"optimizer": "adam", "learning_rate": 0.1}),
        ("init = 'noise'", ("--init-image", "i.png"), {"init_image": Path("i.png")}),
    ],
)
def test_what_contradicts_an_option_of_the_command_line_is_left_out(
    config: Path, defaults: str, arguments: tuple[str, ...], left: dict[str, Any]
) -> None:
    """As what a change of a recorded picture replaces."""
    config.write_text(f'[profiles.studio]\nserver = "studio:1"\n[profiles.studio.defaults]\n{defaults}\n')
    found = seen("--profile", "studio", "stylize", "p.png", *arguments)
    assert {name: value for name, value in found.items() if name not in ("server", "token", "format")} == left


@pytest.mark.parametrize("word", ["return_best", "return-best", "fail"])
def test_a_deadline_has_the_name_of_the_client_or_of_the_command_line(config: Path, word: str) -> None:
    config.write_text(f'[profiles.studio]\nserver = "studio:1"\n[profiles.studio.defaults]\non_deadline = "{word}"\n')
    assert seen("--profile", "studio", "stylize", "p.png")["on_deadline"] == word.replace("-", "_")
    assert seen("--profile", "studio", "stylize", "p.png", "--on-deadline", "fail")["on_deadline"] == "fail"


def test_a_profile_may_give_a_preset_as_quality(config: Path) -> None:
    """A number of the command line is the quality of the file then, and the profile's preset is replaced by one."""
    config.write_text('[profiles.studio]\nserver = "studio:1"\n[profiles.studio.defaults]\nquality = "draft"\n')
    assert seen("--profile", "studio", "stylize", "p.png")["preset"] == "draft"
    assert seen("--profile", "studio", "stylize", "p.png", "--quality", "70")["quality"] == 70
    assert seen("--profile", "studio", "stylize", "p.png", "--preset", "gatys")["preset"] == "gatys"


def test_a_preset_as_quality_leaves_the_quality_of_files_to_the_profile(config: Path) -> None:
    config.write_text('[profiles.studio]\nserver = "studio:1"\n[profiles.studio.defaults]\nquality = 80\n')
    assert seen("--profile", "studio", "stylize", "p.png")["quality"] == 80
    found = seen("--profile", "studio", "stylize", "p.png", "--quality", "draft")
    assert (found["preset"], found["quality"]) == ("draft", 80)
    assert seen("--profile", "studio", "stylize", "p.png", "--quality", "90")["quality"] == 90


def test_a_user_without_a_home_has_no_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's, whose user id has no entry."""

    def homeless(*arguments: object, **options: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("IMPASTO_CLIENT_CONFIG", raising=False)
    monkeypatch.setattr(profiles.platformdirs, "user_config_path", homeless)
    assert profiles.names() == []
    assert profiles._read(profiles.config_file()) == {}
