"""Names of files as labels: shown, logged and recorded, never used as paths. Client and server both clean them."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

MAX_NAME = 255
"""Maximum number of characters of a name."""


def clean_name(name: str) -> str:
    """Return a file's name as one line of printable text.

    No-break spaces and tabs become spaces, joiners and other invisible characters are removed, and other non-printable
    characters become replacement characters: names from macOS, phones and archives contain all of these. A name that is too
    long is truncated before its extension.
    """
    shown = "".join(map(_clean, name)).strip()
    if len(shown) > MAX_NAME:
        suffix = PurePosixPath(shown).suffix[:16]
        shown = shown[: MAX_NAME - 1 - len(suffix)] + "…" + suffix
    return shown


def _clean(character: str) -> str:
    if character.isprintable():
        return character
    category = unicodedata.category(character)
    if category == "Zs" or character in "\t\n\r":
        return " "
    return "" if category == "Cf" else "\N{REPLACEMENT CHARACTER}"
