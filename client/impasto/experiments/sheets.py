"""Contact sheets: pictures side by side with a caption under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP_PX, TEXT_PX = 8, 13
_PAPER, _INK = "white", "black"


@dataclass(frozen=True)
class Tile:
    """A picture and its caption."""

    picture: Image.Image
    caption: str = ""


def contact_sheet(rows: Sequence[Sequence[Tile]], tile_px: int = 256) -> Image.Image:
    """Return rows of pictures, each ``tile_px`` on its longer side, with their captions.

    Small pictures, such as the responses of deep filters, are enlarged without smoothing, so that their pixels are visible.
    """
    font = ImageFont.load_default(TEXT_PX)
    fitted = [[_fitted(tile.picture.convert("RGB"), tile_px) for tile in row] for row in rows]
    heights = [max((picture.height for picture in row), default=0) for row in fitted]
    lines = [max((tile.caption.count("\n") + 1 for tile in row if tile.caption), default=0) for row in rows]
    tops = [GAP_PX]
    for height, count in zip(heights, lines, strict=True):
        tops.append(tops[-1] + height + count * (TEXT_PX + 4) + GAP_PX)
    step = tile_px + GAP_PX
    sheet = Image.new("RGB", (max((len(row) for row in rows), default=0) * step + GAP_PX, tops[-1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, pictures, top, height in zip(rows, fitted, tops, heights, strict=False):
        for right, (tile, picture) in enumerate(zip(row, pictures, strict=True)):
            left = GAP_PX + right * step
            sheet.paste(picture, (left + (tile_px - picture.width) // 2, top + (height - picture.height) // 2))
            draw.multiline_text((left, top + height + 2), tile.caption, fill=_INK, font=font)
    return sheet


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
