"""Contact sheets: pictures side by side with a caption under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from impasto.display import shortened
from impasto.experiments.lettering import Font, lettering

GAP_PX, TEXT_PX = 8, 13
_PAPER, _INK, _EMPTY = "white", "black", "lightgrey"


@dataclass(frozen=True)
class Tile:
    """A picture and its caption."""

    picture: Image.Image
    caption: str = ""


def contact_sheet(rows: Sequence[Sequence[Tile]], tile_px: int = 256) -> Image.Image:
    """Return rows of pictures, each ``tile_px`` on its longer side, with their captions.

    Small pictures, such as the responses of deep filters, are enlarged without smoothing, so that their pixels are visible.
    """
    letters = lettering((tile.caption for row in rows for tile in row), TEXT_PX)
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
            lines_of = (_shortened(draw, letters.text(line), tile_px, letters.font) for line in tile.caption.split("\n"))
            draw.multiline_text((left, top + height + 2), "\n".join(lines_of), fill=_INK, font=letters.font)
    return sheet


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def labelled_grid(
    rows: Sequence[Sequence[tuple[Image.Image | None, str]]],
    columns: Sequence[str],
    labels: Sequence[str],
    tile_px: int = 256,
) -> Image.Image:
    """Return a table of pictures with a label above each column and before each row, and a caption under each picture.

    Args:
        rows: Pictures and their captions; a cell without a picture is grey.
        columns: Labels of the columns.
        labels: Labels of the rows.
        tile_px: Longer side of each picture.
    """
    letters = lettering((*columns, *labels, *(text for row in rows for _, text in row)), TEXT_PX)
    font, columns, labels = letters.font, [*map(letters.text, columns)], [*map(letters.text, labels)]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = GAP_PX + max((round(measure.textlength(text, font)) for text in labels), default=0)
    line = TEXT_PX + 4
    fitted = [[(None if picture is None else _fitted(picture, tile_px), text) for picture, text in row] for row in rows]
    heights = [max((picture.height for picture, _ in row if picture), default=tile_px // 2) for row in fitted]
    width = margin + GAP_PX + len(columns) * (tile_px + GAP_PX)
    sheet = Image.new("RGB", (width, 2 * GAP_PX + line + sum(height + line + GAP_PX for height in heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, text in enumerate(columns):
        draw.text((margin + GAP_PX + index * (tile_px + GAP_PX) + tile_px // 2, GAP_PX), text, _INK, font, anchor="ma")
    top = 2 * GAP_PX + line
    for row, height, label in zip(fitted, heights, labels, strict=True):
        draw.text((margin, top + height // 2), label, _INK, font, anchor="rm")
        for index, (picture, text) in enumerate(row):
            left = margin + GAP_PX + index * (tile_px + GAP_PX)
            if picture is None:
                draw.rectangle((left, top, left + tile_px - 1, top + height - 1), fill=_EMPTY)
            else:
                sheet.paste(picture, (left + (tile_px - picture.width) // 2, top + (height - picture.height) // 2))
            draw.text((left, top + height + 2), _cut(draw, letters.text(text), tile_px, font), _INK, font)
        top += height + line + GAP_PX
    return sheet


def _shortened(draw: ImageDraw.ImageDraw, line: str, width: int, font: Font) -> str:
    """Return a line with as much of its middle left out as it takes to fit."""
    found = line
    while len(found) > 3 and draw.textlength(found, font) > width:
        found = shortened(line, len(found) - 1)
    return found


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int, font: Font) -> str:
    """Return as much of a text's first line as fits."""
    text = text.partition("\n")[0]
    whole = text
    while text and draw.textlength(text + ("…" if text != whole else ""), font) > width:
        text = text[:-1]
    return text + ("…" if text != whole else "")
