"""Containers of picture files: removes metadata, and detects truncated files.

Metadata never makes a picture unusable. Pillow raises on texts and profiles above 1 MB, on wrong checksums of chunks that it
does not need, and on EXIF that is not TIFF; viewers show such pictures. So those parts are removed before Pillow sees the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import simplejpeg

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
MAX_PROFILE_BYTES = 8 << 20
"""Larger colour profiles are ignored."""
_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})
"""Chunks that determine the pixels. All others are metadata, or of an animation."""
_ANIMATION = {b"acTL": 8, b"fcTL": 26, b"fdAT": 4}
"""Chunks of an animation, and their length, or at least so much. If one is wrong, the picture is a still one."""
_CHECKED = frozenset({b"IHDR", b"PLTE", b"IDAT"})
"""Chunks whose checksum must be right, as libpng requires."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class TruncatedError(ValueError):
    """A file whose pixels end early."""


def plain_png(data: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """Return a PNG without its metadata, and its colour profile and EXIF block if they can be read.

    Raises:
        TruncatedError: If pixels are missing.
        ValueError: If it is damaged.
    """
    kept: list[tuple[bytes, bytes]] = []
    profile, exif = None, None
    pixels: list[memoryview] = []
    header = b""
    ended, animated = False, True
    for kind, body, whole, checksum in _chunks(data):
        if kind in _CHECKED and zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ValueError(f"the checksum of a chunk {kind.decode()} is wrong")
        if kind == b"IHDR":
            header = bytes(body)
        elif kind == b"IDAT":
            pixels.append(body)
        elif kind == b"iCCP":
            profile = _profile(bytes(body))
        elif kind == b"eXIf":
            exif = bytes(body)
        if kind == b"tRNS" and len(header) == 13:
            kept.append((kind, _chunk(kind, _eight_bit_transparency(bytes(body), depth=header[8], color=header[9]))))
        elif kind in _KEPT or kind in _ANIMATION:
            # Other checksums are recomputed: a wrong checksum of an unneeded chunk is no reason to reject a picture.
            kept.append((kind, bytes(whole) if kind in _CHECKED else _chunk(kind, bytes(body))))
        if kind in _ANIMATION:
            wanted = _ANIMATION[kind]
            animated &= len(body) == wanted or (kind == b"fdAT" and len(body) > wanted)
        if kind == b"IEND":
            ended = True
            break
    if not ended:
        raise TruncatedError("its end is missing")
    if len(header) == 13:  # else Pillow reports the problem
        _check_rows(header, pixels)
    return b"".join([PNG, *(whole for kind, whole in kept if animated or kind not in _ANIMATION)]), profile, exif


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


def _eight_bit_transparency(body: bytes, depth: int, color: int) -> bytes:
    """Return the transparent value as Pillow compares it: with pixels scaled to 8 bits, except for 16-bit grey."""
    if color == 0 and depth < 8 and len(body) == 2:
        return struct.pack(">H", int.from_bytes(body, "big") * 255 // ((1 << depth) - 1) & 255)
    if color == 2 and depth == 16 and len(body) == 6:
        return struct.pack(">3H", *(value >> 8 for value in struct.unpack(">3H", body)))
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
