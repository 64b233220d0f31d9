"""Text on sheets: a font that has its characters, and replacements for those that no font has."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "segoeui.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "PingFang.ttc",
)
"""Fonts to look for where Pillow's own, which has ASCII only, lacks characters; the first ones have accents and emoji."""
_NO_CHARACTER = "\U0010fffe"
_REPLACEMENT = "?"


@dataclass(frozen=True)
class Lettering:
    """A font, and which characters it has.

    Attributes:
        font: The font.
        has: Characters that it has, of those that were asked for.
    """

    font: Font
    has: frozenset[str]

    def text(self, given: str) -> str:
        """Return one line that the font can draw: letters without the accents that it lacks, question marks for the rest.

        Ends of lines, other white space and control characters become spaces: some of them cannot be laid out.
        """
        return "".join(map(self._drawn, _composed(given)))

    def _drawn(self, character: str) -> str:
        if _is_blank(character):
            return " "
        if character in self.has:
            return character
        plain = "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
        return plain if plain.isascii() and plain.isprintable() and plain else _REPLACEMENT


def lettering(texts: Iterable[str], size_px: int) -> Lettering:
    """Return the font for some texts: Pillow's own if it has all their characters, else the one that has most of them."""
    wanted = {character for text in texts for character in _composed(text) if not _is_blank(character)}
    own = ImageFont.load_default(size_px)
    best = Lettering(own, _had(own, wanted))
    for name in SYSTEM_FONTS:
        if len(best.has) == len(wanted):
            break
        try:
            font = ImageFont.truetype(name, size_px)
        except OSError:  # not on this machine
            continue
        has = _had(font, wanted)
        best = Lettering(font, has) if len(has) > len(best.has) else best
    return best


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cc"


def _composed(text: str) -> str:
    """Return a text with accents joined to their letters, and without joiners and selectors of variants."""
    joined = unicodedata.normalize("NFC", text)
    return "".join(part for part in joined if unicodedata.category(part) != "Cf" and not "\ufe00" <= part <= "\ufe0f")


def _had(font: Font, characters: Iterable[str]) -> frozenset[str]:
    """Return the characters that a font does not draw as it draws an unassigned one."""
    missing = _drawing(font, _NO_CHARACTER)
    return frozenset(character for character in characters if _drawing(font, character) != missing)


def _drawing(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
