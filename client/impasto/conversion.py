"""Pictures that Pillow reads and the server does not: AVIF, TIFF, GIF, BMP and HEIC become PNG before they are sent."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator

from PIL import Image, UnidentifiedImageError, features

from impasto.display import shown
from impasto.errors import InvalidRequest
from impasto.installing import needs
from impasto.protobuf_fields import invalid

MOST_PIXELS = 64_000_000
"""Largest picture that is converted; servers take no larger ones."""
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def kind_of(data: bytes) -> str:
    """Return Pillow's name of a file's format if the client converts it, by its first bytes; else an empty text."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in _AVIF or (brand in _HEIF[-2:] and any(name in data[16:64] for name in _AVIF)):
            return "AVIF"
        return "HEIF" if brand in _HEIF else ""
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return "BMP" if data[:2] == b"BM" and data[6:10] == b"\0\0\0\0" else ""


def converted(data: bytes, field: str, encode: Callable[[Image.Image, str], bytes]) -> bytes:
    """Return a file that servers take: the file itself, or its first frame as PNG, with its orientation and profile.

    Args:
        data: The file.
        field: Name of the field, for errors.
        encode: Makes a PNG of a picture; refuses modes without a known scale.

    Raises:
        InvalidRequest: If it has a format that the client converts and cannot be read, or is too large.
    """
    kind = kind_of(data)
    if not kind:
        return data
    _check_readable(kind, field)
    if kind in ("AVIF", "HEIF") and not _all_boxes(data):
        raise invalid(field, f"is a {kind} file that is truncated: its end is missing", "UNREADABLE")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd tags
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                if image.width * image.height > MOST_PIXELS:
                    text = f"has {image.width} x {image.height} pixels; at most {MOST_PIXELS} are converted"
                    raise invalid(field, text)
                if kind in ("AVIF", "HEIF") and _ends_in_zeros(data, image.width * image.height):
                    raise invalid(field, f"is a {kind} file that is truncated: its end is blank", "UNREADABLE")
                if kind == "TIFF" and (odd := _odd_tiff(image)):
                    raise invalid(field, f"is a TIFF file {odd}; save it again as PNG, or with 8 bits per value", "UNREADABLE")
                image.load()
                return encode(_opaque_if_clear(image) if kind == "BMP" else image, field)
    except UnidentifiedImageError:  # its text has the object in memory
        raise invalid(field, f"is a {kind} file that cannot be read", "UNREADABLE") from None
    except InvalidRequest:
        raise
    except Exception as error:  # decoders raise many kinds for damaged files, RuntimeError among them
        raise invalid(field, f"is a {kind} file that cannot be read: {shown(error)}", "UNREADABLE") from None


def _opaque_if_clear(image: Image.Image) -> Image.Image:
    """Return a picture without its alpha channel if that is 0 everywhere: writers of BMP files leave the channel unused."""
    clear = image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
    return image.convert("RGB") if clear else image


_BOXES = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"wide", b"uuid"})


def _all_boxes(data: bytes) -> bool:
    """Return whether a file of ISO boxes is as long as they say. Decoders fill in what is missing, and may not report it."""
    return all(end <= len(data) for _, end in _boxes(data))


def _ends_in_zeros(data: bytes, pixels: int) -> bool:
    """Return whether the pixels of a file of ISO boxes end in zeros, as a program leaves them that reserves a file's space.

    Decoders make pixels of them. Encoders write none: libavif 1.4 and libheif did not in 12 million flat pixels.
    """
    blank = 512 + pixels // 4096
    return any(kind == b"mdat" and end - blank > 0 and not any(data[end - blank : end]) for kind, end in _boxes(data))


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the kind and the end of each box, up to the first that is unknown: no picture is behind it."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind not in _BOXES:
            return
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        at = len(data) if size == 0 else at + max(size, 8)  # 0: to the end
        yield kind, at


_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT, _DNG = 254, 258, 259, 262, 284, 339, 50706


def _odd_tiff(image: Image.Image) -> str:
    """Return what Pillow would read wrongly in a TIFF file, without an error; empty if nothing is known."""
    tags = image.tag_v2  # type: ignore[attr-defined]  # of TIFF files
    bits = max(tags.get(_BITS, (1,)))
    if tags.get(_SUBFILE, 0) & 1 or _DNG in tags:
        return "whose first picture is only a preview, as in raw photos"
    if bits not in (1, 2, 4, 8, 16, 32):
        return f"with {bits} bits per value"
    if 2 in tags.get(_SAMPLE_FORMAT, ()) and bits < 32:
        return "with signed values"
    if bits == 16 and tags.get(_PLANES, 1) == 2 and tags.get(_COMPRESSION, 1) == 1 and len(image.getbands()) > 1:
        return "with 16 bits per value in separate planes"
    if bits == 16 and tags.get(_PHOTOMETRIC, 1) == 0:
        return "with 16 bits per value whose zero is white"
    return ""


def _check_readable(kind: str, field: str) -> None:
    if kind == "HEIF":
        try:
            import pillow_heif  # noqa: PLC0415 - optional
        except ImportError:
            raise invalid(field, needs("a HEIC picture", "pillow-heif", "heif"), "UNREADABLE") from None
        pillow_heif.register_heif_opener()
    if kind == "AVIF" and not features.check("avif"):
        raise invalid(field, "is an AVIF file, which needs Pillow 11.3 or newer", "UNREADABLE")
