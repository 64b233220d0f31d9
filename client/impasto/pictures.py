"""Pictures as callers have them, turned into what travels."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image

from impasto.errors import InvalidRequest, Violation
from impasto.v1 import style_transfer_pb2 as pb


@dataclass(frozen=True)
class UploadedImage:
    """A file that the server has already; see :meth:`impasto.Client.upload`.

    Attributes:
        image_id: SHA-256 of its bytes.
        name: The file's, for people.
    """

    image_id: str
    name: str = ""


@dataclass(frozen=True)
class NamedFile:
    """A file's bytes under a name that need not be that of a file here.

    Attributes:
        data: The encoded file.
        name: What the result's metadata call it.
    """

    data: bytes = field(repr=False)
    name: str


Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | BinaryIO | UploadedImage | NamedFile"
"""A path, an encoded file's bytes, a PIL image, an open binary file, one that was uploaded, or bytes with a name."""


def fill(message: pb.Image, picture: Picture, field: str) -> None:
    """Put a picture into a message.

    Raises:
        InvalidRequest: If it cannot be read.
    """
    if isinstance(picture, UploadedImage):
        message.image_id, message.name = picture.image_id, picture.name
    else:
        message.data, message.name = to_bytes(picture, field), name_of(picture)


def name_of(picture: Picture) -> str:
    """Return the name of a picture's file, without its folder; empty for what has none."""
    if isinstance(picture, UploadedImage):
        return picture.name
    if isinstance(picture, NamedFile):
        return picture.name
    path = picture if isinstance(picture, str | os.PathLike) else getattr(picture, "name", "")
    return Path(path).name if isinstance(path, str | os.PathLike) else ""


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
        if isinstance(picture, NamedFile):
            return picture.data
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
