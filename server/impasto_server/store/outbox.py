"""The outbox of webhooks in the database: rows, and what a store keeps of them in memory."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from impasto_server.domain.webhooks import Webhook

MIGRATION = """
    CREATE TABLE webhooks (
        message_id TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        body TEXT NOT NULL,
        created REAL NOT NULL,
        due REAL NOT NULL,
        attempts INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """


class Outbox:
    """Messages that are committed and not confirmed yet."""

    def __init__(self) -> None:
        self._pending: dict[str, Webhook] = {}

    def add(self, hook: Webhook) -> None:
        """Add a message that is committed."""
        self._pending[hook.message_id] = hook

    def all(self) -> list[Webhook]:
        """Return the messages."""
        return list(self._pending.values())

    def put_off(self, message_id: str, attempts: int, due: float) -> None:
        """Note a failed attempt."""
        if message_id in self._pending:
            self._pending[message_id] = replace(self._pending[message_id], attempts=attempts, due=due)

    def drop(self, message_id: str) -> None:
        """Remove a message."""
        self._pending.pop(message_id, None)


def insert(connection: sqlite3.Connection, hook: Webhook) -> None:
    """Store a message; one that is stored already stays as it is."""
    row = (hook.message_id, hook.url, hook.body, hook.created, hook.due, hook.attempts)
    connection.execute("INSERT OR IGNORE INTO webhooks VALUES (?, ?, ?, ?, ?, ?)", row)


def put_off(connection: sqlite3.Connection, message_id: str, attempts: int, due: float) -> None:
    """Store a failed attempt."""
    connection.execute("UPDATE webhooks SET attempts = ?, due = ? WHERE message_id = ?", (attempts, due, message_id))


def delete(connection: sqlite3.Connection, message_id: str) -> None:
    """Remove a message."""
    connection.execute("DELETE FROM webhooks WHERE message_id = ?", (message_id,))


def stored(connection: sqlite3.Connection) -> list[Webhook]:
    """Return all messages."""
    query = "SELECT message_id, url, body, created, due, attempts FROM webhooks"
    return [Webhook(*row) for row in connection.execute(query)]
