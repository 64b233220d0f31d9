"""Makes text from files and servers safe to print to a terminal or a log."""

from __future__ import annotations

LONGEST = 120


def shown(text: object, longest: int = LONGEST) -> str:
    """Return the text with non-printable characters replaced, truncated to a length."""
    cleaned = "".join(character if character.isprintable() else "�" for character in str(text))
    return cleaned if len(cleaned) <= longest else cleaned[: longest - 1] + "…"
