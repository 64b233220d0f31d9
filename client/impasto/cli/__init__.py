"""The ``impasto`` command: thin glue over the public client."""

import os

# gRPC's core writes of failed connections and handshakes to stderr by itself; what matters of it is told in our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from impasto.cli.main import main

__all__ = ["main"]
