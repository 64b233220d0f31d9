"""Pictures as callers have them, turned into what travels."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image

from impasto.errors import InvalidRequest, Violation

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | BinaryIO"
"""A path, an encoded file's bytes, a PIL image, or an open binary file."""


def to_bytes(picture: Picture, field: str) -> bytes:
    """Return an encoded picture. Files travel as they are; a PIL image travels as PNG.

    Args:
        picture: What the caller gave.
        field: Names it in errors.

    Raises:
        InvalidRequest: If it cannot be read.
    """
    try:
        if isinstance(picture, bytes | bytearray | memoryview):
            return bytes(picture)
        if isinstance(picture, Image.Image):
            out = io.BytesIO()
            wanted = picture if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else picture.convert("RGB")
            wanted.save(out, "PNG", compress_level=1)
            return out.getvalue()
        if isinstance(picture, str | os.PathLike):
            return Path(picture).read_bytes()
        if not hasattr(picture, "read"):
            raise TypeError(f"{field} must be a path, bytes, a PIL image or an open file, not {type(picture).__name__}")
        data = picture.read()
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}: {error.filename or 'the file given'}"
        raise InvalidRequest(f"{field}: {text}", reason="UNREADABLE", violations=(Violation(field, text),)) from None
    if not isinstance(data, bytes):
        text = "the file is not open in binary mode"
        raise InvalidRequest(f"{field}: {text}", reason="UNREADABLE", violations=(Violation(field, text),))
    return data
