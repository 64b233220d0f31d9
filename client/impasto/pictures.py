"""Pictures as callers have them, turned into what travels."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image

from impasto.errors import InvalidRequest, Violation
from impasto.v1 import style_transfer_pb2 as pb


@dataclass(frozen=True)
class UploadedImage:
    """A file that the server has already; see :meth:`impasto.Client.upload`."""

    image_id: str


Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | BinaryIO | UploadedImage"
"""A path, an encoded file's bytes, a PIL image, an open binary file, or one that was uploaded."""


def fill(message: pb.Image, picture: Picture, field: str) -> None:
    """Put a picture into a message.

    Raises:
        InvalidRequest: If it cannot be read.
    """
    if isinstance(picture, UploadedImage):
        message.image_id = picture.image_id
    else:
        message.data = to_bytes(picture, field)


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
        if isinstance(picture, UploadedImage) or not hasattr(picture, "read"):
            raise TypeError(f"{field} must be a path, bytes, a PIL image or an open file, not {type(picture).__name__}")
        data = picture.read()
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}: {error.filename or 'the file given'}"
        raise InvalidRequest(f"{field}: {text}", reason="UNREADABLE", violations=(Violation(field, text),)) from None
    if not isinstance(data, bytes):
        text = "the file is not open in binary mode"
        raise InvalidRequest(f"{field}: {text}", reason="UNREADABLE", violations=(Violation(field, text),))
    return data
