"""Old name of :mod:`impasto_server.store.sqlite`, kept for external scripts that import it."""

from impasto_server.store.sqlite import DataError, DurableStore

__all__ = ["DataError", "DurableStore"]
