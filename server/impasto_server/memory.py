"""Old name of :mod:`impasto_server.workers.memory`, kept for external scripts that import it."""

from impasto_server.workers.memory import MemoryModel

__all__ = ["MemoryModel"]
