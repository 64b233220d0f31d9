"""Containers of picture files: removes metadata, and detects truncated files.

Metadata never makes a picture unusable. Pillow raises on texts and profiles above 1 MB, on wrong checksums of chunks that it
does not need, and on EXIF that is not TIFF; viewers show such pictures. So those parts are removed before Pillow sees the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass

import simplejpeg

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
MAX_PROFILE_BYTES = 8 << 20
"""Larger colour profiles are ignored."""
_CHECKED = frozenset({b"IHDR", b"PLTE", b"IDAT"})
"""Chunks whose checksum must be right, as libpng requires. All others but tRNS are metadata, or of an animation."""
_READ = frozenset({b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"gAMA", b"sRGB"})
_GREY, _RGB, _PALETTE = 0, 2, 3
_SRGB_GAMMA = 0.45455
_SEGMENTS = {0xE0: (b"JFIF\0", 14), 0xE1: (b"Exif\0\0", 6), 0xE2: (b"ICC_PROFILE\0", 14), 0xEE: (b"Adobe", 12)}
"""Segments of a JPEG that tell its colours or its orientation: how each begins, and its least length."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class TruncatedError(ValueError):
    """A file whose pixels end early."""


@dataclass(frozen=True)
class PlainPng:
    """A PNG without metadata, and what of them matters.

    Attributes:
        data: The file.
        profile: Its colour profile, if it can be read.
        exif: Its EXIF block.
        gamma: The exponent with which its values were encoded; 0 if it is not told, or there is a profile or the mark of sRGB.
        clear: The colour that is transparent in a 16-bit picture, of which Pillow would compare 8 bits. The file lacks it.
    """

    data: bytes
    profile: bytes | None
    exif: bytes | None
    gamma: float
    clear: tuple[int, int, int] | None


def plain_png(data: bytes) -> PlainPng:
    """Return a PNG without its metadata. Of an animation the picture is kept that programs for still pictures show.

    Raises:
        TruncatedError: If pixels are missing.
        ValueError: If it is damaged.
    """
    chunks = []
    for each in _chunks(data):
        chunks.append(each)
        if each[0] == b"IEND":
            break
    else:
        raise TruncatedError("its end is missing")
    first = {kind: bytes(body) for kind, body, _, _ in reversed(chunks) if kind in _READ}
    header = first.get(b"IHDR", b"")
    if len(header) != 13:
        raise ValueError("its header is missing")
    depth, color = header[8], header[9]
    needed = _CHECKED if color == _PALETTE else _CHECKED - {b"PLTE"}
    for kind, body, _, checksum in chunks:
        if kind in needed and zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"the checksum of a chunk {kind.decode()} is wrong")
    entries = len(first.get(b"PLTE", b"")) // 3
    if color == _PALETTE and not entries:
        raise ValueError("its palette is missing")
    pixels = [body for kind, body, _, _ in chunks if kind == b"IDAT"]
    _check_rows(header, pixels)
    transparency = first.get(b"tRNS", b"")
    if len(transparency) not in _lengths_of_transparency(color, entries):
        transparency = b""  # as libpng does
    clear = struct.unpack(">3H", transparency) if transparency and (color, depth) == (_RGB, 16) else None
    kept = [PNG, _chunk(b"IHDR", header)]
    if color == _PALETTE:
        kept.append(_chunk(b"PLTE", first[b"PLTE"]))
    if transparency and clear is None:
        kept.append(_chunk(b"tRNS", _eight_bit_transparency(transparency, depth=depth, color=color)))
    kept += [bytes(whole) for kind, _, whole, _ in chunks if kind == b"IDAT"]
    profile = _profile(first[b"iCCP"]) if b"iCCP" in first else None
    gamma = int.from_bytes(first.get(b"gAMA", b""), "big") / 100_000
    gamma = 0.0 if profile or b"sRGB" in first else gamma
    return PlainPng(b"".join([*kept, _chunk(b"IEND", b"")]), profile, first.get(b"eXIf"), gamma, clear)


def plain_jpeg(data: bytes) -> bytes:
    """Return a JPEG without its metadata, except for those that tell its colours and its orientation and are long enough."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + length
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA or length < 2 or end > len(data):
            break  # the first scan, or nothing that is known
        start, least = _SEGMENTS.get(marker, (b"", 0))
        metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not metadata or (start and data.startswith(start, at + 4) and length - 2 >= least):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def curve(gamma: float) -> list[int] | None:
    """Return the 8-bit sRGB values of the 256 values that were encoded with an exponent; None if that is about the same."""
    if not 0.1 <= gamma <= 3 or abs(gamma / _SRGB_GAMMA - 1) < 0.05:
        return None
    linear = [(value / 255) ** (1 / gamma) for value in range(256)]
    return [round(255 * (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055)) for x in linear]


def check_jpeg(data: bytes) -> None:
    """Check whether a JPEG's pixels are complete: libjpeg fills in missing ones, and Pillow does not report it.

    Raises:
        TruncatedError: If they are not.
    """
    if data.rfind(b"\xff\xd9") < 0:
        raise TruncatedError("its end is missing")
    try:
        simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise TruncatedError("pixels are missing") from None
    # Pillow decides about all other warnings of libjpeg.


def check_webp_length(data: bytes) -> None:
    """Check that a WebP file is as long as its header says; other files pass.

    Raises:
        TruncatedError: If it is shorter.
    """
    if _is_webp(data) and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise TruncatedError("its end is missing")


def check_webp_pixels(data: bytes, pixels: int) -> None:
    """Check that a WebP file's pixels do not end in zeros; other files pass.

    Programs that reserve a file's space before they write it leave zeros when they stop early, and libwebp makes pixels of
    them. Encoders write zeros for flat parts too: 1 byte for 512 pixels at most, as measured with libwebp 1.6 (quality 100,
    method 0), and a thirtieth of that in the default method.

    Args:
        data: The file.
        pixels: Number of pixels in its header.

    Raises:
        TruncatedError: If more zeros than that are at the end of a frame.
    """
    at = 12
    while _is_webp(data) and at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        blank = 512 + pixels // 256
        if kind in (b"VP8 ", b"VP8L", b"ANMF") and size > blank and not any(data[at + 8 + size - blank : at + 8 + size]):
            raise TruncatedError("its end is blank")
        at += 8 + size + size % 2


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview, int]]:
    """Yield each chunk's type, body, all of it, and checksum; ends where the file does."""
    view, at = memoryview(data), len(PNG)
    while at + 12 <= len(view):
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 12 + length
        if end > len(view):
            return
        kind = bytes(view[at + 4 : at + 8])
        yield kind, view[at + 8 : end - 4], view[at:end], int.from_bytes(view[end - 4 : end], "big")
        at = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _lengths_of_transparency(color: int, entries: int) -> Container[int]:
    """Return the lengths that a tRNS chunk may have."""
    return {_GREY: (2,), _RGB: (6,), _PALETTE: range(1, entries + 1)}.get(color, ())


def _eight_bit_transparency(body: bytes, depth: int, color: int) -> bytes:
    """Return the transparent value as Pillow compares it: with pixels scaled to 8 bits, except for 16-bit grey."""
    if color == _GREY and depth < 8:
        return struct.pack(">H", int.from_bytes(body, "big") * 255 // ((1 << depth) - 1) & 255)
    return body


def _profile(body: bytes) -> bytes | None:
    """Return an iCCP chunk's profile; None if it cannot be read or is very large."""
    _, _, rest = body.partition(b"\0")
    inflating = zlib.decompressobj()
    try:
        profile = inflating.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflating.eof else None


def _check_rows(header: bytes, pixels: list[memoryview]) -> None:
    """Count the bytes of the rows: Pillow leaves missing rows black.

    Raises:
        TruncatedError: If there are too few.
        ValueError: If they cannot be decompressed.
    """
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if color not in _CHANNELS:
        return  # Pillow reports the problem
    bits = depth * _CHANNELS[color]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    wanted = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if rows > 0 and columns > 0)
    found = _inflated(pixels, wanted)
    if found < wanted:
        raise TruncatedError(f"{100 * (wanted - found) / wanted:.0f} % of its pixels are missing")


def _inflated(pixels: list[memoryview], most: int) -> int:
    """Return how many bytes the chunks hold, counted up to a number.

    Raises:
        ValueError: If they cannot be decompressed.
    """
    inflating, found = zlib.decompressobj(), 0
    try:
        for piece in pixels:
            data: bytes | memoryview = piece
            while data and found < most:
                found += len(inflating.decompress(data, 1 << 20))
                data = inflating.unconsumed_tail
        while found < most and (more := inflating.decompress(b"", 1 << 20)):
            found += len(more)
    except zlib.error as error:
        raise ValueError(f"its pixels cannot be decompressed: {error}") from None
    return found
