"""The ``impasto`` command: thin glue over the public client."""

from impasto.cli.main import main

__all__ = ["main"]
