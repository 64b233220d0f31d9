"""Decodes and encodes pictures: PNG, JPEG and WebP only. The header is checked before anything is decoded.

Policy: EXIF orientation is applied; an embedded colour profile is converted to sRGB; transparent pictures are put on white;
CMYK, palette, grey and 16-bit pictures become 8-bit RGB; only the first frame of an animation is used.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image, ImageChops, ImageCms, ImageMath, ImageOps, UnidentifiedImageError

from impasto_server.domain.pictures import ImageFormat, Plane, Raster, content_of
from impasto_server.pictures import containers

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MIN_SIDE_PX: Final = 2
MAX_ASPECT: Final = 20.0
MAX_PARTS: Final = 100_000
"""Chunks of a PNG, or segments before a JPEG's first scan; 64 megapixels in the smallest usual chunks have 25,000."""
MIN_CANVAS_PX: Final = 16
"""Four poolings halve each side: below this the deepest layers have no positions."""


class ImageError(ValueError):
    """A picture that cannot be used; the message says why."""


def open_image(data: bytes, max_pixels: int, background: str = "white") -> Image.Image:
    """Return an 8-bit RGB picture.

    Args:
        data: The encoded file.
        max_pixels: Larger pictures are rejected by their header, before anything is decoded.
        background: Color that replaces transparency.

    Raises:
        ImageError: If it is not a PNG, JPEG or WebP file, is damaged or truncated, or is too large.
    """
    if not data:
        raise ImageError("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata too
            _check_parts(data)
            png: containers.PlainPng | None = None
            plain = containers.plain_jpeg(data) if data.startswith(containers.JPEG) else data
            if data.startswith(containers.PNG):
                if _has_png_size(data):
                    _check_size(*_png_size(data), max_pixels)
                png = containers.plain_png(data)
                plain = png.data
            containers.check_webp_length(data)
            image: Image.Image = Image.open(io.BytesIO(plain), formats=FORMATS)
            _check_size(image.width, image.height, max_pixels)
            if data.startswith(containers.JPEG):  # Pillow calls one with a second picture behind it MPO
                containers.check_jpeg(data)
            containers.check_webp_pixels(data, image.width * image.height)
            image.load()
            if png is None:
                return _upright(_to_rgb(image, image.info.get("icc_profile"), background), _orientation(image, None))
            if png.clear:
                image = _with_clear_color(image, png)
            found = _to_rgb(image, png.profile, background, containers.curve(png.gamma))
            return _upright(found, _orientation(image, png.exif))
    except ImageError:
        raise
    except containers.TruncatedError as error:
        raise ImageError(f"is truncated: {error}") from None
    except UnidentifiedImageError:
        raise ImageError("is not a PNG, JPEG or WebP picture") from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {max_pixels} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, KeyError, IndexError, TypeError) as error:
        # Pillow's decoders raise all of these for damaged files.
        raise ImageError(f"is damaged or truncated ({error})") from error


def pixels_of(data: bytes | Path) -> int:
    """Return the number of pixels in a file's header; 0 if unknown."""
    file: BinaryIO
    try:
        with contextlib.ExitStack() as closing:
            if isinstance(data, Path):  # only its start is needed: the file is mapped, not read
                file = closing.enter_context(data.open("rb"))
                mapped = closing.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                header = mapped[:24]
                _check_parts(mapped)
            else:
                file = io.BytesIO(data)
                header = data[:24]
                _check_parts(data)
            if _has_png_size(header):  # Pillow would look at metadata too, which may be broken
                width, height = _png_size(header)
                return width * height
            closing.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of metadata too
            image = closing.enter_context(Image.open(file, formats=FORMATS))
            return image.width * image.height
    except Exception:  # any problem is reported when the file is opened
        return 0


def fit(image: Image.Image, width: int, height: int) -> Raster:
    """Return the picture resized to exactly this size (Lanczos); what exceeds its aspect ratio is cropped on both sides."""
    resized = image
    if image.size != (width, height):
        resized = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return Raster(width, height, resized.tobytes())


def fit_mask(image: Image.Image, width: int, height: int) -> Plane:
    """Return a picture's brightness, stretched to exactly this size.

    Raises:
        ImageError: If it is black everywhere.
    """
    grey = image.convert("L").resize((width, height), Image.Resampling.BILINEAR)
    if grey.getextrema()[1] == 0:
        raise ImageError("is black everywhere: nothing would be in it")
    return Plane(width, height, grey.tobytes())


def canvas_size(image: Image.Image, size_px: int) -> tuple[int, int]:
    """Return width and height with the picture's aspect ratio and ``size_px`` as the longer side."""
    scale = size_px / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def exact_size(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Return width and height if one or both are given; a 0 follows from the picture's aspect ratio."""
    return (
        width or max(1, round(height * image.width / image.height)),
        height or max(1, round(width * image.height / image.width)),
    )


def encode(picture: Raster, image_format: ImageFormat, quality: int, made_by: str | None = None) -> bytes:
    """Return the picture as a file in sRGB.

    Args:
        picture: What to encode.
        image_format: File format.
        quality: Quality of JPEG and WebP; WebP at 100 is lossless.
        made_by: Text of the EXIF user comment, ASCII only. Without it the file holds pixels only.
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
    """Return a plane as a grey PNG, one byte per pixel."""
    out = io.BytesIO()
    Image.frombytes("L", (picture.width, picture.height), content_of(picture.values, picture.size)).save(out, "PNG")
    return out.getvalue()


_SOFTWARE, _EXIF_IFD, _USER_COMMENT, _ORIENTATION = 0x0131, 0x8769, 0x9286, 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation."""


def _exif(comment: str) -> Image.Exif:
    exif = Image.Exif()
    exif[_SOFTWARE] = "impasto"
    exif[_EXIF_IFD] = {_USER_COMMENT: b"ASCII\0\0\0" + comment.encode("ascii")}
    return exif


@functools.cache
def _srgb_profile() -> bytes:
    """Return the sRGB profile without its creation time, so that the same picture always gives the same file."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"has {width} x {height} pixels; at most {max_pixels} in all are accepted")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(f"has {width} x {height} pixels; each side needs at least {MIN_SIDE_PX}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"has {width} x {height} pixels; one side may be at most {MAX_ASPECT:g} times the other")


def _check_parts(data: bytes | mmap.mmap) -> None:
    """Reject files with so many chunks or segments that Pillow, which reads each, would take too long."""
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


def _has_png_size(data: bytes) -> bool:
    return data.startswith(containers.PNG) and data[12:16] == b"IHDR"


def _png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _orientation(image: Image.Image, block: bytes | None) -> int:
    """Return a picture's orientation, from an EXIF block or its own; 1, upright, if there is none or it cannot be read.

    Pillow's ``getexif`` would take an orientation from XMP too, which browsers ignore.
    """
    try:
        exif = Image.Exif()
        exif.load(block or image.info.get("exif") or b"")
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # untrusted metadata; Pillow raises many kinds of errors for it
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _with_clear_color(image: Image.Image, png: containers.PlainPng) -> Image.Image:
    """Return a 16-bit picture, of which Pillow keeps the high bytes, with its transparent colour."""
    lower = Image.open(io.BytesIO(png.data), formats=("PNG",))
    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # the bytes the other way round: the low ones are kept
    lower.load()
    other = Image.new("L", image.size)
    for value, high, low in zip(png.clear or (), image.split(), lower.split(), strict=True):
        for band, byte in ((high, value >> 8), (low, value & 255)):
            other = ImageChops.lighter(other, band.point([255 * (found != byte) for found in range(256)]))
    return Image.merge("RGBA", (*image.split(), other))


def _to_rgb(image: Image.Image, profile: object, background: str, curve: list[int] | None = None) -> Image.Image:
    """Return 8-bit RGB in sRGB, with transparent pictures put on a background.

    Args:
        image: The picture.
        profile: Its colour profile, if it has one.
        background: What transparent parts are put on.
        curve: The sRGB values of its 256 values, if those are encoded otherwise.
    """
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        image = _eight_bits(image)
    opacity: Image.Image | None = None
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        rgba = image.convert("RGBA")
        opacity = rgba.getchannel("A")
        image = rgba.getchannel("R") if image.mode in ("L", "LA", "La") else rgba.convert("RGB")  # a profile of grey fits grey
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")  # a profile applies to colours, not to palette indices
    if isinstance(profile, bytes):
        image = _to_srgb(image, profile)
    image = image.convert("RGB")
    if curve is not None:
        image = image.point(curve * 3)
    if opacity is None:
        return image
    below = Image.new("RGB", image.size, background)
    below.paste(image, mask=opacity)
    return below


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey picture in 8 bits, with its transparent value if it has one."""
    clear = image.info.get("transparency")
    deep = image.convert("I")
    grey = deep.point(lambda value: value / 257).convert("L")
    if not isinstance(clear, int):
        return grey
    opaque = ImageMath.lambda_eval(lambda names: names["convert"]((names["deep"] != clear) * 255, "L"), deep=deep)
    return Image.merge("LA", (grey, opaque))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert from an embedded profile; a profile that does not fit the picture is ignored, as browsers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted or image
