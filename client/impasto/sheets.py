"""Contact sheets: pictures side by side with a line under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP_PX, TEXT_PX = 8, 13
_PAPER, _INK = "white", "black"


@dataclass(frozen=True)
class Tile:
    """A picture and the line under it."""

    picture: Image.Image
    caption: str = ""


def contact_sheet(rows: Sequence[Sequence[Tile]], tile_px: int = 256) -> Image.Image:
    """Return rows of pictures, each fitted into a square of ``tile_px``, with their captions.

    Small pictures, such as the responses of deep filters, are enlarged without smoothing, so that their pixels can be seen.
    """
    font = ImageFont.load_default(TEXT_PX)
    lines = max((tile.caption.count("\n") + 1 for row in rows for tile in row if tile.caption), default=0)
    step_x, step_y = tile_px + GAP_PX, tile_px + GAP_PX + lines * (TEXT_PX + 4)
    columns = max((len(row) for row in rows), default=0)
    sheet = Image.new("RGB", (columns * step_x + GAP_PX, len(rows) * step_y + GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for down, row in enumerate(rows):
        for right, tile in enumerate(row):
            left, top = GAP_PX + right * step_x, GAP_PX + down * step_y
            picture = _fitted(tile.picture.convert("RGB"), tile_px)
            sheet.paste(picture, (left + (tile_px - picture.width) // 2, top + tile_px - picture.height))
            draw.multiline_text((left, top + tile_px + 2), tile.caption, fill=_INK, font=font)
    return sheet


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
