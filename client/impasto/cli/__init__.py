"""The ``impasto`` command: a thin layer over the public client."""

from impasto.cli.main import main

__all__ = ["main"]
