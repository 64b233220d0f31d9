"""What pyproject.toml and requirements/ promise about installing."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FIRST = {"impasto", "impasto_engine", "impasto_server"}
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
APART = "ray"
"""The extra with a lock of its own, which only servers with a cluster install."""
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def names(requirements: list[str]) -> set[str]:
    """Return the normalized names of requirements."""
    return {re.sub(r"[._]", "-", found[0].lower()) for item in requirements if (found := _NAME.match(item))}


def imported(folder: str) -> dict[str, set[str]]:
    """Return every module that a package imports anywhere, and the files that do."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                found.setdefault(module, set()).add(path.name)
    return found


def distributions_of(module: str) -> set[str]:
    """Return the packages that may contain a module; a namespace such as google has several."""
    top = module.partition(".")[0]
    found = {name.lower().replace("_", "-") for name in importlib.metadata.packages_distributions().get(top, ())}
    inside = {"google.protobuf": "protobuf", "google.rpc": "googleapis-common-protos"}
    exact = next((name for prefix, name in inside.items() if module.startswith(prefix)), None)
    return {exact} if exact else found or {top}  # torchvision is not installed everywhere


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("client/impasto", ("load", "heif", "web")),
        ("engine/impasto_engine", ("server", "weights")),
        ("server/impasto_server", ("server", "otel", "webhooks", APART)),
    ],
)
def test_every_import_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    """What another package happens to bring may be gone tomorrow."""
    declared = names(PROJECT["project"]["dependencies"])
    for extra in extras:
        declared |= names(PROJECT["project"]["optional-dependencies"][extra])
    declared |= names(PROJECT["dependency-groups"]["demo"])  # photographs, only for builtin/learn.py
    undeclared = {
        module: files
        for module, files in imported(folder).items()
        if module.partition(".")[0] not in {*sys.stdlib_module_names, *FIRST} and not distributions_of(module) & declared
    }
    assert undeclared == {}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locked_versions_have_hashes_and_no_addresses(lock: Path) -> None:
    """So that pip checks every file, from whatever index it comes."""
    text = lock.read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text.partition("\n")[2].strip())
    assert len(blocks) > 5
    assert all("==" in block.partition("\n")[0] and "--hash=sha256:" in block for block in blocks)
    assert "://" not in text


def test_the_locks_have_everything_that_is_declared() -> None:
    """`make update` writes them; here it was forgotten."""
    locked = {lock.name: names([line for line in lock.read_text().splitlines() if "==" in line]) for lock in LOCKS}
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    extras = project["optional-dependencies"]
    run = names([*project["dependencies"], *(item for name, extra in extras.items() if name != APART for item in extra)])
    assert names(extras[APART]) <= locked["ray.txt"]
    assert run <= locked["run.txt"] | locked["torch.txt"]
    assert run <= locked["lowest.txt"]
    assert names(groups["demo"]) <= locked["demo.txt"]
    tools = names([item for item in groups["dev"] if isinstance(item, str)])
    assert tools <= set().union(*locked.values()) - locked["build.txt"] | locked["run.txt"]


def test_lowest_versions_are_the_declared_bounds() -> None:
    """Each lower bound in pyproject.toml is what `make test-lowest` installs."""
    lowest = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / "requirements/lowest.txt").read_text(), re.MULTILINE))
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(item for name, extra in extras.items() if name != APART for item in extra)]
    for requirement in declared:
        name, _, bound = requirement.partition(">=")
        installed = lowest[name]
        width = len(bound.split("."))
        assert installed.split(".")[:width] == bound.split("."), f"{requirement} installs {installed}"
