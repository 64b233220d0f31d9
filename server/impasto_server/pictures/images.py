"""Pictures in and out. Nothing is decoded before its header has been believed, and nothing but PNG, JPEG and WebP.

The stated policy: EXIF orientation is applied; an embedded colour profile is converted to sRGB; transparency is laid on
white; CMYK, palette, grey and 16-bit pictures become 8-bit RGB; of an animation the first frame is used.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from impasto_server.domain.pictures import ImageFormat, Plane, Raster, content_of

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MIN_SIDE_PX: Final = 2
MAX_ASPECT: Final = 20.0
MAX_PARTS: Final = 100_000
"""Chunks of a PNG, or segments before a JPEG's first scan; 64 megapixels in the smallest usual chunks have 25,000."""
MIN_CANVAS_PX: Final = 16
"""Four poolings halve each side: below this the deepest layers have no positions."""


class ImageError(ValueError):
    """A picture that cannot be used; the message says why."""


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Return an 8-bit RGB picture.

    Args:
        data: The encoded file.
        max_pixels: Larger pictures are refused by their header, before anything is decoded.

    Raises:
        ImageError: If it is no PNG, JPEG or WebP, is damaged or cut off, or is too large.
    """
    if not data:
        raise ImageError("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            _check_parts(data)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image.width, image.height, max_pixels)
            _check_end(data, image.format or "")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("is not a PNG, JPEG or WebP picture") from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {max_pixels} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, KeyError, IndexError, TypeError) as error:
        # Pillow's decoders raise all of these for damaged files.
        raise ImageError(f"is damaged or cut off ({error})") from error


def pixels_of(data: bytes | Path) -> int:
    """Return how many pixels a file has by its header; 0 if that cannot be told."""
    file: BinaryIO
    try:
        with contextlib.ExitStack() as closing:
            if isinstance(data, Path):  # only its beginning is needed: not read, but mapped
                file = closing.enter_context(data.open("rb"))
                mapped = closing.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                _check_parts(mapped)
            else:
                file = io.BytesIO(data)
                _check_parts(data)
            closing.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = closing.enter_context(Image.open(file, formats=FORMATS))
            return image.width * image.height
    except Exception:  # whatever is wrong with it is told when it is opened
        return 0


def fit(image: Image.Image, width: int, height: int) -> Raster:
    """Return the picture resized to exactly this size (Lanczos); what does not fit its aspect is cut off on both sides."""
    resized = image
    if image.size != (width, height):
        resized = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return Raster(width, height, resized.tobytes())


def fit_mask(image: Image.Image, width: int, height: int) -> Plane:
    """Return a picture's brightness stretched to exactly this size.

    Raises:
        ImageError: If it is black everywhere.
    """
    grey = image.convert("L").resize((width, height), Image.Resampling.BILINEAR)
    if grey.getextrema()[1] == 0:
        raise ImageError("is black everywhere: nothing would be in it")
    return Plane(width, height, grey.tobytes())


def canvas_size(image: Image.Image, size_px: int) -> tuple[int, int]:
    """Return width and height with the picture's aspect and ``size_px`` as the longer side."""
    scale = size_px / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def exact_size(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Return width and height where one or both are given; the one that is 0 follows the picture's aspect."""
    return (
        width or max(1, round(height * image.width / image.height)),
        height or max(1, round(width * image.height / image.width)),
    )


def encode(picture: Raster, image_format: ImageFormat, quality: int, made_by: str | None = None) -> bytes:
    """Return the picture as a file in sRGB.

    Args:
        picture: What to encode.
        image_format: As what.
        quality: Of JPEG and WebP; WebP at 100 is without loss.
        made_by: What the file tells in its EXIF user comment, ASCII only. Without it the file holds pixels only.
    """
    image = Image.frombytes("RGB", (picture.width, picture.height), content_of(picture.rgb, picture.size))
    out = io.BytesIO()
    extra: dict[str, Any] = {}
    if made_by is not None:
        extra = {"exif": _exif(made_by), "icc_profile": _srgb_profile()}
    if image_format == "png":
        image.save(out, "PNG", compress_level=6, **extra)
    elif image_format == "jpeg":
        image.save(out, "JPEG", quality=quality, subsampling=0, optimize=True, **extra)
    else:
        image.save(out, "WEBP", quality=quality, lossless=quality == 100, **extra)
    return out.getvalue()


def encode_grey(picture: Plane) -> bytes:
    """Return one byte a pixel as a grey PNG."""
    out = io.BytesIO()
    Image.frombytes("L", (picture.width, picture.height), content_of(picture.values, picture.size)).save(out, "PNG")
    return out.getvalue()


_SOFTWARE, _EXIF_IFD, _USER_COMMENT = 0x0131, 0x8769, 0x9286


def _exif(comment: str) -> Image.Exif:
    exif = Image.Exif()
    exif[_SOFTWARE] = "impasto"
    exif[_EXIF_IFD] = {_USER_COMMENT: b"ASCII\0\0\0" + comment.encode("ascii")}
    return exif


@functools.cache
def _srgb_profile() -> bytes:
    """Return sRGB's profile, without the time it was made at: the same picture shall be the same file every time."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"has {width} x {height} pixels; at most {max_pixels} in all are read")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(f"has {width} x {height} pixels; each side needs at least {MIN_SIDE_PX}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"has {width} x {height} pixels; one side may be at most {MAX_ASPECT:g} times the other")


def _check_parts(data: bytes | mmap.mmap) -> None:
    """Refuse files of so many chunks or segments that Pillow, which looks at each, would be busy for long."""
    count, at = 0, 8 if data[:4] == b"\x89PNG" else 2
    if data[:4] == b"\x89PNG":
        while count <= MAX_PARTS and at + 8 <= len(data):
            at += 12 + int.from_bytes(data[at : at + 4], "big")
            count += 1
    elif data[:2] == b"\xff\xd8":
        while count <= MAX_PARTS and data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # to the first scan
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            count += 1
    if count > MAX_PARTS:
        raise ImageError(f"has more than {MAX_PARTS} parts; save it again with another program")


def _check_end(data: bytes, image_format: str) -> None:
    """Refuse files that lack their end, which Pillow decodes without a word."""
    whole = {
        "PNG": data.rfind(b"IEND") > 0,
        "JPEG": data.rfind(b"\xff\xd9") > 0,
        "WEBP": len(data) >= 8 + int.from_bytes(data[4:8], "little"),
    }
    if not whole.get(image_format, True):
        raise ImageError("is cut off: its end is missing")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    profile = image.info.get("icc_profile")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        rgba = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    if profile:
        image = _to_srgb(image, profile)
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert from an embedded profile; one that does not fit the picture is left alone, as browsers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted or image
