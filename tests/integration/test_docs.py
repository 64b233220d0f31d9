"""What is written is true: commands stand in the README with help, its Python runs, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import impasto
from impasto.cli.main import cli
from impasto.requests import Options
from impasto_server.domain.reasons import REASONS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))


def script(name: str) -> Any:
    """Return a script as a module."""
    source = importlib.util.spec_from_file_location(f"{name}_page", ROOT / f"scripts/{name}.py")
    assert source
    assert source.loader
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("path", "command"),
    list(script("commands").commands(cli)),
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_command_and_option_has_help(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{' '.join(path)} {parameter.opts} has no help"


@pytest.mark.parametrize("name", ["commands", "parameters", "errors", "dashboard"])
def test_generated_files_are_current(name: str) -> None:
    """They are what `make generate` would write."""
    module = script(name)
    target = getattr(module, "PAGE", None) or module.TARGET
    assert target.read_text() == module.page(), "run make generate"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documents_compiles_and_uses_what_there_is(page: Path) -> None:
    """Every name of the package that the examples use exists."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks or page.name not in ("README.md", "python.md")
    for block in blocks:
        compile(block, str(page), "exec")
        for name in re.findall(r"\bimpasto\.(\w+)", block):
            assert hasattr(impasto, name), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_documents_exist(page: Path) -> None:
    """So do the options that follow them, and make targets."""
    known = {" ".join(path): command for path, command in script("commands").commands(cli)}
    for line in re.findall(r"^    (impasto [a-z].*)$", page.read_text(), re.MULTILINE):
        words = line.split()[1:]
        command = known.get(" ".join(words[:2])) or known.get(words[0])
        assert command, f"{page.name}: {line}"
        if isinstance(command, click.Group) or page.name in ("commands.md", "load-testing.md"):
            continue
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = set(re.findall(r"(?<![\w-])(--[a-z-]+)", line.split("#")[0].split("  ")[0]))
        assert used <= options | {"--help"}, f"{page.name}: {line}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    if page.name != "CHANGELOG.md":  # which tells of targets that were
        assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= targets, page.name


def test_every_option_is_documented() -> None:
    """In the docstring that users read."""
    for name in Options.__annotations__:
        assert f"{name}:" in (Options.__doc__ or ""), name


def test_every_reason_that_the_server_raises_is_in_the_table() -> None:
    raised = set()
    for path in (ROOT / "server/impasto_server").rglob("*.py"):
        raised |= set(re.findall(r'(?:ServiceError|JobError)\(\s*"([A-Z_]+)"', path.read_text()))
    assert len(raised) > 12
    assert raised <= set(REASONS)


def test_every_option_of_the_client_is_on_the_page_of_parameters() -> None:
    page = (ROOT / "docs/reference/parameters.md").read_text()
    contract = {name.removesuffix("_s") for name in Options.__annotations__}
    assert {name for name in contract if f"`{name}`" not in page} == set()


def test_defaults_that_depend_on_other_choices_are_those_of_the_server(real_server: Any, png: Callable[..., bytes]) -> None:
    """What the page says for Adam, another normalization and the built-in filters is what a job gets that sets only these."""
    pages = script("parameters")
    painting = pages.page().partition("## Contents of a job")[0]
    found = []
    with impasto.Client(real_server.address) as client:
        for name, default in re.findall(r"^\| `(\w+)` \| [^|]*\| ([^|]*) \|", painting, re.MULTILINE):
            for value, kind, choice in re.findall(r"([^;]+) with (`optimizer`|`normalization`|the filters) (\w+)", default):
                if value == " not used":
                    continue
                given = {} if kind == "the filters" else {kind.strip("`"): choice}
                job = client.validate(png(), png(seed=1), **given)  # the server's filters are the built-in ones
                assert pages.shown(job.parameters[name]) == value.strip(), (name, kind, choice)
                found.append((name, choice))
    assert {("learning_rate", "adam"), ("content_weight", "gatys"), ("pooling", "builtin")} <= set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links, and files that are named in code quotes with a folder."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    if page.name == "CHANGELOG.md":
        return  # it tells of files that were
    for target in re.findall(
        r"`((?:docs|tests|server|client|engine|deploy|proto|benchmarks|scripts|samples)/[\w./-]+\.\w+)`", text
    ):
        assert (ROOT / target).exists(), f"{page.name} names {target}"


def test_the_contract_says_when_a_job_stalls() -> None:
    """The number of rejected steps is the engine's."""
    from impasto_engine.optimizers import REJECTIONS_TO_STOP

    assert f"The optimizer rejected {REJECTIONS_TO_STOP} steps in a row" in (ROOT / "docs/reference/api.md").read_text()
