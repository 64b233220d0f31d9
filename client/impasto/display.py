"""Makes text from files and servers safe to print to a terminal or a log."""

from __future__ import annotations

LONGEST = 120


def shortened(name: str, longest: int = 28) -> str:
    """Return a file's name with its middle left out if it is longer than a number of characters; its end is kept."""
    tail = longest // 3
    return name if len(name) <= longest else f"{name[: longest - tail - 1]}…{name[-tail:]}"


def shown(text: object, longest: int = LONGEST) -> str:
    """Return the text with non-printable characters replaced, truncated to a length."""
    cleaned = "".join(character if character.isprintable() else "�" for character in str(text))
    return cleaned if len(cleaned) <= longest else cleaned[: longest - 1] + "…"
