"""Old name of :mod:`impasto_server.auth.tokens`, kept for external scripts that import it."""

from impasto_server.auth.tokens import new_token

__all__ = ["new_token"]
