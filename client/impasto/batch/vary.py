"""Grids: one photo in one style or a mix of styles, with options that vary along the axes of a sheet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.batch.inputs import Pair
from impasto.batch.manifest import entries
from impasto.display import shortened
from impasto.experiments.sheets import labelled_grid
from impasto.protobuf_fields import invalid
from impasto.requests import Style

MOST_CELLS = 400
_LABEL = 24
_FACTS = ("losses", "seconds", "parameters", "width_px", "height_px", "sha256")


@dataclass(frozen=True)
class Axis:
    """An option and the values that it takes along an axis.

    Attributes:
        name: Name of the option.
        texts: The values as they were written.
        values: The values.
    """

    name: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """Labels of the values."""
        return [f"{self.name} = {shortened(text, _LABEL)}" for text in self.texts]


@dataclass(frozen=True)
class Grid:
    """A photo, its styles, and one or two axes: the first across, the second down.

    Attributes:
        photo: File of the content.
        styles: The styles, which are mixed; their pictures are paths.
        axes: The axes.
    """

    photo: Path
    styles: tuple[Style, ...]
    axes: tuple[Axis, ...]

    def pairs(self) -> list[Pair]:
        """Return a pair for each cell, row by row, with the cell's options.

        Raises:
            InvalidRequest: If there are too many cells, or an option is on both axes.
        """
        if len({axis.name for axis in self.axes}) < len(self.axes):
            raise invalid("vary", f"{self.axes[0].name} is on both axes")
        across, down = self.axes[0], self.axes[1] if len(self.axes) > 1 else None
        rows = range(len(down.values)) if down else range(1)
        if len(rows) * len(across.values) > MOST_CELLS:
            raise invalid("vary", f"has {len(rows) * len(across.values)} cells; at most {MOST_CELLS} are painted")
        return [self._pair(row, column) for row, column in itertools.product(rows, range(len(across.values)))]

    def _pair(self, row: int, column: int) -> Pair:
        at = list(zip(self.axes, (column, row), strict=False))
        options = {axis.name: axis.values[index] for axis, index in at}
        note = ", ".join(axis.labels[index] for axis, index in at)
        return Pair(self.photo, self.styles, f"{row + 1:02}-{column + 1:02}.png", options, note)

    def sheet(self, folder: Path, cells: Sequence[Mapping[str, Any]]) -> Image.Image:
        """Return the cells as a table with labels; a cell without a picture says why.

        Args:
            folder: Folder of the cells' pictures.
            cells: What became of each cell, from :meth:`cells`.
        """
        columns = len(self.axes[0].values)
        tiles = [(_opened(folder / cell["output"]) if cell["error"] is None else None, _caption(cell)) for cell in cells]
        rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
        return labelled_grid(rows, self.axes[0].labels, self.axes[1].labels if len(self.axes) > 1 else [""])

    def cells(self, folder: Path, manifest: Path) -> list[dict[str, Any]]:
        """Return what became of each cell, row by row, as JSON-compatible values."""
        newest = {line["output"]: line for line in entries(manifest) if isinstance(line.get("output"), str)}
        columns, found = len(self.axes[0].values), []
        for number, pair in enumerate(self.pairs()):
            line = newest.get(pair.output, {})
            row, column = divmod(number, columns)
            texts = {self.axes[0].name: self.axes[0].texts[column]}
            if len(self.axes) > 1:
                texts[self.axes[1].name] = self.axes[1].texts[row]
            facts = {name: line.get(name) for name in _FACTS}
            error = line.get("error") if line else {"reason": "NOT_PAINTED", "message": "not painted"}
            found.append({"row": row, "column": column, "varied": texts, "output": pair.output, **facts, "error": error})
        return found


def _opened(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception:  # somebody removed or changed it; Pillow raises many kinds of errors
        return None


def _caption(cell: Mapping[str, Any]) -> str:
    if cell["error"] is not None:
        return str(cell["error"].get("message", ""))
    losses, seconds = cell["losses"] or {}, cell["seconds"] or {}
    return f"loss {losses.get('total', 0):.4g}, {seconds.get('optimize', 0):.1f} s"
