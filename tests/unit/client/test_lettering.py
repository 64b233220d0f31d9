"""Text on sheets can be read: no boxes in the place of characters that a font lacks."""

from __future__ import annotations

import pytest
from PIL import Image, ImageFont

from impasto.experiments import lettering as module
from impasto.experiments.lettering import lettering
from impasto.experiments.sheets import Tile, contact_sheet, labelled_grid

NAMES = ["Été à Zürich", "猫 🐱 x", "plain-1.png"]


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no fonts but Pillow's own."""
    monkeypatch.setattr(module, "SYSTEM_FONTS", ("no-such-font.ttf",))


@pytest.mark.usefixtures("no_fonts")
def test_without_fonts_accents_are_left_out_and_other_characters_replaced() -> None:
    """Also accents that a file system keeps apart from their letters, joiners, and selectors of variants."""
    letters = lettering(NAMES, 13)
    assert [letters.text(name) for name in NAMES] == ["Ete a Zurich", "? ? x", "plain-1.png"]
    assert letters.text("e\u0301te\u0301") == "ete"
    assert letters.text("\u2764\ufe0f \U0001f469\u200d\U0001f3a8") == "? ??"
    assert letters.text("\u202e") == ""


@pytest.mark.parametrize("name", ["DejaVuSans.ttf", "LiberationSans-Regular.ttf"])
def test_a_font_with_the_characters_is_used_where_there_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where Pillow's own lacks some: sheets with plain names look alike everywhere."""
    try:
        ImageFont.truetype(name, 13)
    except OSError:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(module, "SYSTEM_FONTS", (name,))
    letters = lettering(NAMES, 13)
    assert letters.text("Été à Zürich 猫") == "Été à Zürich ?"
    assert lettering(["plain-1.png", "a = 1 …"], 13).font.getname() == ImageFont.load_default(13).getname()


def test_what_is_drawn_is_not_what_a_missing_character_looks_like() -> None:
    """With whatever fonts this machine has."""
    letters = lettering(NAMES, 32)
    missing = bytes(letters.font.getmask("\U0010fffe"))
    for name in NAMES:
        for character in letters.text(name):
            assert bytes(letters.font.getmask(character)) != missing


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x07", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\u3000"])
def test_white_space_and_control_characters_are_spaces(character: str) -> None:
    """Some of them cannot be laid out beside characters that are not ASCII."""
    caption = f"\u00e9{character}b"
    assert lettering([caption], 13).text(caption).endswith(" b")
    black = Image.new("RGB", (96, 20), "black")
    contact_sheet([[Tile(black, caption)]], 96)
    labelled_grid([[(black, caption)]], [caption], [caption], 96)


def test_long_captions_do_not_reach_into_the_next_picture() -> None:
    """Their middle is left out, so that the end of a name stays."""
    black = Image.new("RGB", (96, 20), "black")
    sheet = contact_sheet([[Tile(black, "É" + "w" * 60 + "\nshort"), Tile(black)]], 96)
    gap = sheet.crop((8 + 96 + 1, 0, 8 + 96 + 8, sheet.height))
    assert gap.getextrema() == ((255, 255),) * 3
