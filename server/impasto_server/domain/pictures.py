"""Decoded pictures and masks, in memory or in a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ImageFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class Raster:
    """A decoded picture: 8-bit sRGB, rows from the top.

    Attributes:
        rgb: The values, or the file that holds them, named by their SHA-256: pictures of a waiting job are on disk.
    """

    width: int
    height: int
    rgb: bytes | Path = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return 3 * self.width * self.height


@dataclass(frozen=True)
class Plane:
    """A mask: one byte per pixel, rows from the top; 255 is inside, 0 is outside.

    Attributes:
        values: The bytes, or the file that holds them, as in :class:`Raster`.
    """

    width: int
    height: int
    values: bytes | Path = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return self.width * self.height


class PictureLost(Exception):
    """The file of a job's picture is missing or damaged."""


def content_of(values: bytes | Path, size: int) -> bytes:
    """Return a picture's values, read from its file if they are in one.

    Raises:
        PictureLost: If the file is missing or damaged.
    """
    if isinstance(values, bytes):
        return values
    try:
        data = values.read_bytes()
    except OSError as error:
        raise PictureLost(f"the file {values.name[:12]} cannot be read: {error.strerror}") from None
    if len(data) != size or hashlib.sha256(data).hexdigest() != values.name:
        raise PictureLost(f"the file {values.name[:12]} is damaged: its hash does not match")
    return data
