"""Pictures in and out. Nothing is decoded before its header has been believed, and nothing but PNG, JPEG and WebP.

The stated policy: EXIF orientation is applied; an embedded colour profile is converted to sRGB; transparency is laid on
white; CMYK, palette, grey and 16-bit pictures become 8-bit RGB; of an animation the first frame is used.
"""

from __future__ import annotations

import io
import warnings
from typing import Final

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from impasto_server.jobs import ImageFormat, Raster

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MIN_SIDE_PX: Final = 2
MAX_ASPECT: Final = 20.0
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


def fit(image: Image.Image, width: int, height: int) -> Raster:
    """Return the picture resized to exactly this size (Lanczos)."""
    resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
    return Raster(width, height, resized.tobytes())


def canvas_size(image: Image.Image, size_px: int) -> tuple[int, int]:
    """Return width and height with the picture's aspect and ``size_px`` as the longer side."""
    scale = size_px / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def encode(picture: Raster, image_format: ImageFormat, quality: int) -> bytes:
    """Return the picture as a file."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    out = io.BytesIO()
    if image_format == "png":
        image.save(out, "PNG", compress_level=6)
    elif image_format == "jpeg":
        image.save(out, "JPEG", quality=quality, subsampling=0, optimize=True)
    else:
        image.save(out, "WEBP", quality=quality, lossless=quality == 100)
    return out.getvalue()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"has {width} x {height} pixels; at most {max_pixels} in all are read")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(f"has {width} x {height} pixels; each side needs at least {MIN_SIDE_PX}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"has {width} x {height} pixels; one side may be at most {MAX_ASPECT:g} times the other")


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
