"""The contact sheet of a batch: a row for each photo, with its pictures in the order of the styles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from impasto.batch.inputs import Pair
from impasto.display import shortened
from impasto.experiments.sheets import Tile, contact_sheet

NAME = "contact-sheet.jpg"
TILE_PX = 192
MOST_TILES = 2000
"""Pictures on a sheet: 30 megapixels."""
_CAPTION = 26
_MOST_COLUMNS = 16
_MISSING = Image.new("RGB", (TILE_PX, TILE_PX * 3 // 4), "lightgrey")
"""Shown in the place of a picture that failed, so that the others stay in their columns."""


def batch_sheet(folder: Path, pairs: Sequence[Pair]) -> Image.Image | None:
    """Return the sheet of the pictures, grey where one is missing; None if there are none.

    A row has the pictures of one photo; where all photos have one picture, or there is one photo, rows are filled instead.

    Args:
        folder: Folder of the outputs.
        pairs: The pairs; at most :data:`MOST_TILES` are shown.
    """
    rows: dict[Path, list[Tile]] = {}
    found = 0
    for pair in pairs[:MOST_TILES]:
        thumbnail = _thumbnail(folder / pair.output)
        found += thumbnail is not None
        names = (shortened(name, _CAPTION).replace("\n", " ") for name in (pair.photo.stem, pair.style_name))
        caption = "\n".join(names)
        rows.setdefault(pair.photo, []).append(Tile(thumbnail or _MISSING, caption))
    if not found:
        return None
    if max(map(len, rows.values())) == 1 or len(rows) == 1:  # no grid: fill lines
        tiles = [tile for row in rows.values() for tile in row]
        columns = min(_MOST_COLUMNS, max(4, round(len(tiles) ** 0.5)))
        return contact_sheet([tiles[at : at + columns] for at in range(0, len(tiles), columns)], TILE_PX)
    lines = [row[at : at + _MOST_COLUMNS] for row in rows.values() for at in range(0, len(row), _MOST_COLUMNS)]
    return contact_sheet(lines, TILE_PX)


def _thumbnail(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (TILE_PX, TILE_PX))
            small = image.convert("RGB")
    except Exception:  # it may be missing, or changed by somebody; Pillow raises many kinds of errors
        return None
    small.thumbnail((TILE_PX, TILE_PX))
    return small
