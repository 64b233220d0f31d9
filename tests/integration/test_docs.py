"""What is written is true: commands stand in the README with help, its Python runs, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest

import impasto
from impasto.cli.main import cli
from impasto.requests import Options
from impasto_server.domain.reasons import REASONS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), list(commands(cli)), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_and_stands_in_the_readme(path: tuple[str, ...], command: click.Command) -> None:
    """And so has every option."""
    assert command.help
    line = next((line for line in README.splitlines() if f"impasto {path[0]} " in line), "")
    assert line, f"impasto {path[0]} is not in the README"
    assert path[-1] in README
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{' '.join(path)} {parameter.opts} has no help"


def test_the_readmes_python_compiles_and_uses_what_there_is() -> None:
    """Every name of the package that the examples use exists."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for name in re.findall(r"\bimpasto\.(\w+)", block):
            assert hasattr(impasto, name), name


def test_every_option_is_documented() -> None:
    """In the docstring that users read."""
    for name in Options.__annotations__:
        assert f"{name}:" in (Options.__doc__ or ""), name


def script(name: str) -> Any:
    """Return a script as a module."""
    source = importlib.util.spec_from_file_location(f"{name}_page", ROOT / f"scripts/{name}.py")
    assert source
    assert source.loader
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module


def test_the_page_of_errors_is_up_to_date_and_complete() -> None:
    """It is what `make errors` would write, and every reason in the server's code stands in it."""
    page = (ROOT / "docs/ERRORS.md").read_text()
    assert page == script("errors").page(), "run make errors"
    raised = set()
    for path in (ROOT / "server/impasto_server").glob("*.py"):
        raised |= set(re.findall(r'ServiceError\(\s*"[A-Z_]+",\s*"([A-Z_]+)"', path.read_text()))
        raised |= set(re.findall(r'JobError\(\s*"([A-Z_]+)"', path.read_text()))
    assert len(raised) > 12
    assert raised <= set(REASONS)


def test_the_page_of_parameters_is_up_to_date() -> None:
    """It is what `make parameters` would write, and every option of the client stands in it."""
    page = (ROOT / "docs/PARAMETERS.md").read_text()
    assert page == script("parameters").page(), "run make parameters"
    contract = {name.removesuffix("_s") for name in Options.__annotations__}
    assert {name for name in contract if f"`{name}`" not in page} == set()


def test_links_lead_somewhere() -> None:
    """Relative links of the README and the documents."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
