"""The contact sheet of a batch: a row for each photo, a column for each style."""

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


def batch_sheet(folder: Path, pairs: Sequence[Pair]) -> Image.Image | None:
    """Return the sheet of the pictures that exist; None if there are none.

    Args:
        folder: Folder of the outputs.
        pairs: The pairs; at most :data:`MOST_TILES` are shown.
    """
    rows: dict[Path, list[Tile]] = {}
    for pair in pairs[:MOST_TILES]:
        thumbnail = _thumbnail(folder / pair.output)
        if thumbnail is not None:
            tile = Tile(thumbnail, f"{shortened(pair.photo.stem, _CAPTION)}\n{shortened(pair.style_name, _CAPTION)}")
            rows.setdefault(pair.photo, []).append(tile)
    if not rows:
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
