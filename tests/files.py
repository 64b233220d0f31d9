"""Picture files as phones, scanners, editors and broken downloads make them, and names of files as people have them."""

from __future__ import annotations

import os
import random
import struct
import zlib
from typing import Any

from PIL import Image

from tests.conftest import encoded, picture

PICTURE = picture()  # drawn once: its noise has no seed
NAMES = (
    "plain.png",
    "Screenshot 2026-01-01 at 9.41.00\u202fAM.png",
    "obrazovka\u00a01.png",
    "family \U0001f468\u200d\U0001f469.png",
    "tab\there.png",
    "line\nbreak.png",
    "right\u202eto left.png",
    "\x1b[31mred.png",
    os.fsdecode(b"caf\xe9.png"),
    "%s%n {0} $HOME.png",
    "x" * 240 + ".png",
    "-o",
)


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """Return a PNG chunk, with the right checksum unless another is given."""
    right = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", right if checksum is None else checksum)


def png_of(rows: list[bytes], width: int, depth: int, color: int, before: bytes = b"", height: int = 0) -> bytes:
    """Return a PNG of packed rows, with more chunks before its pixels; a greater height leaves rows missing."""
    head = struct.pack(">IIBBBBB", width, height or len(rows), depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def rows_of(image: Image.Image) -> list[bytes]:
    """Return the rows of an RGB picture."""
    data, length = image.convert("RGB").tobytes(), 3 * image.width
    return [data[at : at + length] for at in range(0, len(data), length)]


def with_chunks(before: bytes) -> bytes:
    """Return :data:`PICTURE` as a PNG with more chunks."""
    return png_of(rows_of(PICTURE), 48, 8, 2, before)


def noise(size: int) -> bytes:
    """Return so many bytes that do not compress."""
    return random.Random(1).randbytes(size)


ODD_METADATA = {
    "exif": chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "no exif": chunk(b"eXIf", b""),
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b'{"node":1}' * 300_000)),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * 600_000)),
    "tEXt": chunk(b"tEXt", b"note\0" + b"x" * 3_000_000),
    "profile": chunk(b"iCCP", b"scanner\0\0" + zlib.compress(noise(2_000_000))),
    "torn profile": chunk(b"iCCP", b"scanner\0\0" + noise(50)),
    "checksum": chunk(b"tEXt", b"note\0text", checksum=1),
    "gamma": chunk(b"gAMA", struct.pack(">I", 45_455), checksum=1),
    "pHYs": chunk(b"pHYs", b"short"),
    "short gamma": chunk(b"gAMA", b"\0\1"),
    "short primaries": chunk(b"cHRM", bytes(9)),
    "empty sRGB": chunk(b"sRGB", b""),
    "short animation": chunk(b"acTL", bytes(3)),
    "short frame": chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", bytes(5)),
    "tIME": chunk(b"tIME", bytes(700)),
    "private": chunk(b"prVt", noise(5000)),
}
"""Chunks that Pillow or libpng stumbles on, and that no viewer minds."""


def interlaced(missing: int) -> bytes:
    """Return a grey Adam7 PNG of 8 x 8 pixels whose last so many bytes are missing."""
    sizes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    data = b"".join((b"\0" + b"\x80" * width) * height for width, height in sizes)
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    body = zlib.compress(data[: len(data) - missing])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def half_jpeg(**more: Any) -> bytes:
    """Return a JPEG of which a third is missing, although it has an end marker."""
    data = encoded(picture(96, 72), "JPEG", quality=95, **more)
    return data[: len(data) * 2 // 3] + b"\xff\xd9"


TRUNCATED = {
    "half": png_of(rows_of(PICTURE)[:20], 48, 8, 2, height=40),
    "a row": png_of(rows_of(PICTURE)[:39], 48, 8, 2, height=40),
    "interlaced byte": interlaced(1),
    "interlaced": interlaced(40),
    "no end": encoded(PICTURE)[:-12],
    "jpeg": half_jpeg(),
    "progressive": half_jpeg(progressive=True),
    "jpeg end": encoded(PICTURE, "JPEG")[:-2],
    "webp": encoded(PICTURE, "WEBP")[:-8],
}
"""Files whose pixels end early. Pillow fills in the missing ones and reports nothing."""


def swapped_profile() -> bytes:
    """Return an RGB profile whose red and blue are exchanged, so that a conversion that is left out is plain to see."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"swap\0" + b"\0" * 79),
        (b"wtpt", xyz(0.9642, 1.0, 0.8249)),
        (b"rXYZ", xyz(0.1431, 0.0606, 0.7141)),
        (b"gXYZ", xyz(0.3851, 0.7169, 0.0971)),
        (b"bXYZ", xyz(0.4360, 0.2225, 0.0139)),
        *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")),
        (b"cprt", b"text\0\0\0\0none"),
    ]
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for sign, data in tags:
        table += sign + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + struct.pack(">i", round(0.9642 * 65536))
    return head.ljust(128, b"\0") + table + body
