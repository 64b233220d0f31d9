"""Text from files and servers as a terminal or a log may show it: nothing in it acts on the terminal."""

from __future__ import annotations

LONGEST = 120


def shown(text: object, longest: int = LONGEST) -> str:
    """Return a text with everything that is not printable replaced, cut to a length."""
    cleaned = "".join(character if character.isprintable() else "�" for character in str(text))
    return cleaned if len(cleaned) <= longest else cleaned[: longest - 1] + "…"
