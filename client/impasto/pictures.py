"""Converts callers' pictures to messages."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from PIL import Image, ImageCms

from impasto.conversion import converted, kind_of
from impasto.errors import InvalidRequest, Violation
from impasto.names import clean_name
from impasto.protobuf_fields import invalid
from impasto.v1 import style_transfer_pb2 as pb


@dataclass(frozen=True)
class UploadedImage:
    """A file that was uploaded to the server; see :meth:`impasto.Client.upload`.

    Attributes:
        image_id: SHA-256 of its bytes.
        name: File name, for display.
    """

    image_id: str
    name: str = ""


@dataclass(frozen=True)
class NamedFile:
    """A file's bytes with a name, which need not be that of a local file.

    Attributes:
        data: The encoded file.
        name: Its name in the result's metadata.
    """

    data: bytes = field(repr=False)
    name: str


Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | BinaryIO | UploadedImage | NamedFile"
"""A path, an encoded file's bytes, a PIL image, an open binary file, an uploaded file, or bytes with a name."""


def fill(message: pb.Image, picture: Picture, field: str) -> None:
    """Copy a picture into a message.

    Raises:
        InvalidRequest: If it cannot be read.
    """
    message.name = clean_name(name_of(picture))
    if isinstance(picture, UploadedImage):
        message.image_id = picture.image_id
    else:
        message.data = checked_bytes(picture, field)


TAKEN = "PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or HEIC"
"""What callers may give; the server takes the first three, the client makes PNG of the others."""


def checked_bytes(picture: Picture, field: str) -> bytes:
    """Return an encoded picture as :func:`to_bytes` does.

    Raises:
        InvalidRequest: Also if no server takes the file, by its first bytes: here it is known what the client would convert.
    """
    data = to_bytes(picture, field)
    if format_of(data) not in ("PNG", "JPEG", "WebP"):
        raise _refused(f"is not a {TAKEN} picture", picture, field)
    return data


def format_of(head: bytes) -> str:
    """Return the format of a file that callers may give, by its first 64 bytes; empty for any other file."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WebP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else kind_of(head)


def _refused(text: str, picture: Picture, field: str) -> InvalidRequest:
    name = clean_name(name_of(picture))
    return invalid(field, f"{text}: {name}" if name else text, "UNREADABLE")


def name_of(picture: Picture) -> str:
    """Return the name of a picture's file, without its folder; empty if it has none."""
    if isinstance(picture, UploadedImage):
        return picture.name
    if isinstance(picture, NamedFile):
        return picture.name
    path = picture if isinstance(picture, str | os.PathLike) else getattr(picture, "name", "")
    return Path(path).name if isinstance(path, str | os.PathLike) else ""


def to_bytes(picture: Picture, field: str) -> bytes:
    """Return an encoded picture. PNG, JPEG and WebP files are sent unchanged; PIL images, AVIF, TIFF, GIF, BMP and HEIC as PNG.

    Args:
        picture: The caller's picture.
        field: Name of the field, for errors.

    Raises:
        InvalidRequest: If it cannot be read, or is empty.
    """
    data = _encoded(picture, field)
    if not data:
        raise _refused("is empty", picture, field)
    return converted(data, field, _png_of)


def _encoded(picture: Picture, field: str) -> bytes:
    """Return a picture's file as it is, or a PIL image as PNG."""
    try:
        if isinstance(picture, bytes | bytearray | memoryview):
            return bytes(picture)
        if isinstance(picture, NamedFile):
            return picture.data
        if isinstance(picture, Image.Image):
            return _png_of(picture, field)
        if isinstance(picture, str | os.PathLike):
            return Path(picture).read_bytes()
        if isinstance(picture, UploadedImage) or not hasattr(picture, "read"):
            raise TypeError(f"{field} must be a path, bytes, a PIL image or an open file, not {type(picture).__name__}")
        data: bytes | str = picture.read()
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}: {error.filename or 'the given file'}"
        raise InvalidRequest(f"{field}: {text}", reason="UNREADABLE", violations=(Violation(field, text),)) from None
    except UnicodeDecodeError:
        data = ""
    except ValueError as error:  # a closed file, or a path with a null byte
        text = f"cannot be read: {error}"
        raise InvalidRequest(f"{field}: {text}", reason="UNREADABLE", violations=(Violation(field, text),)) from None
    if not isinstance(data, bytes):
        text = "the file is not open in binary mode"
        raise InvalidRequest(f"{field}: {text}", reason="UNREADABLE", violations=(Violation(field, text),))
    return data


CONVERTED = (".avif", ".tif", ".tiff", ".gif", ".bmp", ".heic", ".heif")
"""Endings of the files that the client converts."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", *CONVERTED)
"""Endings of the files that are pictures."""
_SENT_UNCHANGED = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_WITH_ALPHA = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}  # La and RGBa are premultiplied
_DEEP = frozenset({"I", "I;16B", "I;16L", "I;16N"})


def _png_of(image: Image.Image, field: str) -> bytes:
    """Return a PIL image as PNG: upright, with its colour profile, and with values scaled as in a file.

    Raises:
        InvalidRequest: If the scale of its values is unknown.
    """
    image.load()  # which turns some formats upright
    profile = image.info.get("icc_profile")
    orientation = _orientation(image)
    image = _eight_or_sixteen_bits(image, field)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    out = io.BytesIO()
    kind = profile[16:20] if isinstance(profile, bytes) else b""
    fits = kind == (b"GRAY" if image.mode in ("1", "L", "LA", "I;16") else b"RGB ")
    image.save(out, "PNG", compress_level=1, icc_profile=profile if fits else None)
    return out.getvalue()


def _eight_or_sixteen_bits(image: Image.Image, field: str) -> Image.Image:
    if image.mode in _SENT_UNCHANGED:
        return image
    if image.mode in _WITH_ALPHA:
        return image.convert(_WITH_ALPHA[image.mode])
    if image.mode == "LAB":
        return _through_profiles(image, ImageCms.createProfile("LAB"))
    if image.mode in _DEEP or image.mode == "F":
        return _sixteen_bits(image, field)
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and isinstance(profile, bytes):
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):  # a profile that does not fit is ignored
            return _through_profiles(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    try:
        return image.convert("RGB")
    except ValueError:
        text = f"has mode {image.mode}, which cannot be converted; convert it to RGB first"
        raise InvalidRequest(f"{field}: {text}", reason="INVALID_FIELD", violations=(Violation(field, text),)) from None


def _through_profiles(image: Image.Image, source: Any) -> Image.Image:
    """Return a picture in sRGB."""
    found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if found is None:
        raise ValueError("no picture")
    return found


def _sixteen_bits(image: Image.Image, field: str) -> Image.Image:
    mode, values = image.mode, image if image.mode == "F" else image.convert("I")
    low, high = cast("tuple[float, float]", values.getextrema())
    eight = mode == "I" and 0 < high <= 255  # of 32 bits: they may be 8-bit values, or nearly black
    if mode != "F" and low >= 0 and high <= 65_535 and not eight:
        return values.convert("I;16")
    text = f"has mode {mode} with values from {low:g} to {high:g}, whose scale is unknown; convert it to 8 or 16 bits first"
    raise InvalidRequest(f"{field}: {text}", reason="INVALID_FIELD", violations=(Violation(field, text),))


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation."""


def _orientation(image: Image.Image) -> int:
    """Return the orientation in a picture's EXIF. Pillow would take one from XMP too, which browsers ignore."""
    hidden: dict[str | tuple[int, int], Any] = {
        name: image.info.pop(name) for name in ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp") if name in image.info
    }
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata from anywhere; Pillow raises many kinds of errors for them
        return 1
    finally:
        image.info.update(hidden)
