"""How to install the optional parts: the only place that says so. Change it when the package is published."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """Return the command that installs an extra of pyproject.toml; it works in a clone of the repository."""
    return f"pip install '.[{extra}]'"


def needs(what: str, package: str, extra: str) -> str:
    """Return the error for a missing package, with what to do."""
    return f"{what} needs the package {package}; in a clone of impasto run: {install_command(extra)}"
