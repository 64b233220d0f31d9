"""Files as phones, scanners and editors write them: metadata never refuse a picture, missing pixels always do."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from impasto_server.pictures.images import ImageError, open_image, pixels_of
from tests.conftest import encoded, picture

LIMIT = 64_000_000
PICTURE = picture()  # drawn once: its noise has no seed


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", right if checksum is None else checksum)


def png_of(rows: list[bytes], width: int, depth: int, color: int, before: bytes = b"", height: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height or len(rows), depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def rows_of(image: Image.Image) -> list[bytes]:
    data, length = image.convert("RGB").tobytes(), 3 * image.width
    return [data[at : at + length] for at in range(0, len(data), length)]


def with_chunks(before: bytes) -> bytes:
    return png_of(rows_of(PICTURE), 48, 8, 2, before)


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
        chunk(b"eXIf", b""),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b'{"node":1}' * 300_000)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * 600_000)),
        chunk(b"tEXt", b"note\0" + b"x" * 3_000_000),
        chunk(b"iCCP", b"scanner\0\0" + zlib.compress(noise(2_000_000))),
        chunk(b"iCCP", b"scanner\0\0" + noise(50)),
        chunk(b"tEXt", b"note\0text", checksum=1),
        chunk(b"gAMA", struct.pack(">I", 45_455), checksum=1),
        chunk(b"pHYs", b"short"),
        chunk(b"tIME", bytes(700)),
        chunk(b"prVt", noise(5000)),
    ],
    ids=["exif", "no exif", "zTXt", "iTXt", "tEXt", "profile", "torn profile", "checksum", "gamma", "pHYs", "tIME", "private"],
)
def test_metadata_of_a_png_never_refuse_it(before: bytes) -> None:
    """Too large, broken, or with a wrong checksum: the pixels are read all the same."""
    opened = open_image(with_chunks(before), LIMIT)
    assert opened.tobytes() == open_image(encoded(PICTURE), LIMIT).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("block", [b"Exif\0\0garbage!garbage!", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_exif_of_other_files_never_refuses_them(kind: str, block: bytes) -> None:
    assert open_image(encoded(PICTURE, kind, exif=block), LIMIT).size == (48, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_camera_that_was_turned_is_turned_back(kind: str, orientation: int) -> None:
    """As Pillow itself does it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"exif": exif.tobytes(), **({"lossless": True} if kind == "WEBP" else {})}
    opened = open_image(encoded(PICTURE, kind, **more), LIMIT)
    assert opened.size == ((40, 48) if orientation > 4 else (48, 40))
    turned = {6: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}.get(orientation)
    if turned is not None and kind != "JPEG":
        assert opened.tobytes() == PICTURE.transpose(turned).tobytes() or kind == "WEBP"


def interlaced(missing: int) -> bytes:
    """Return a grey Adam7 PNG of 8 x 8 pixels whose last so many bytes are missing."""
    sizes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    data = b"".join((b"\0" + b"\x80" * width) * height for width, height in sizes)
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    body = zlib.compress(data[: len(data) - missing])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def half_jpeg(**more: Any) -> bytes:
    data = encoded(picture(96, 72), "JPEG", quality=95, **more)
    return data[: len(data) * 2 // 3] + b"\xff\xd9"


@pytest.mark.parametrize(
    "make",
    [
        lambda: png_of(rows_of(PICTURE)[:20], 48, 8, 2, height=40),
        lambda: png_of(rows_of(PICTURE)[:39], 48, 8, 2, height=40),
        lambda: interlaced(1),
        lambda: interlaced(40),
        lambda: encoded(PICTURE)[:-12],
        half_jpeg,
        lambda: half_jpeg(progressive=True),
        lambda: encoded(PICTURE, "JPEG")[:-2],
        lambda: encoded(PICTURE, "WEBP")[:-8],
    ],
    ids=["half", "a row", "interlaced byte", "interlaced", "no end", "jpeg", "progressive", "jpeg end", "webp"],
)
def test_pixels_that_are_missing_are_told(make: Callable[[], bytes]) -> None:
    """Pillow fills them up without a word."""
    with pytest.raises(ImageError, match="truncated"):
        open_image(make(), LIMIT)
    assert open_image(interlaced(0), LIMIT).size == (8, 8)


def test_pixels_that_cannot_be_decompressed_are_told() -> None:
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x\x9cgarbage") + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="cannot be decompressed"):
        open_image(data, LIMIT)


def test_metadata_do_not_hide_how_large_a_picture_is(tmp_path: Path) -> None:
    """A request's pixels are bounded by its pictures' headers, whatever else is in them."""
    data = with_chunks(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)))
    (tmp_path / "large.png").write_bytes(data)
    assert pixels_of(data) == pixels_of(tmp_path / "large.png") == 48 * 40


def test_a_wrong_checksum_of_pixels_is_told() -> None:
    data = bytearray(encoded(PICTURE))
    at = data.index(b"IDAT")
    length = struct.unpack(">I", data[at - 4 : at])[0]
    data[at + 4 + length] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        open_image(bytes(data), LIMIT)


@pytest.mark.parametrize(
    ("depth", "value"), [(1, 1), (2, 2), (4, 9), (8, 77), (16, 30_000)], ids=["1 bit", "2 bits", "4 bits", "8 bits", "16 bits"]
)
def test_a_transparent_grey_is_transparent_in_every_depth(depth: int, value: int) -> None:
    """The left half has the transparent value, the right one is black."""
    samples = [value] * 8 + [0] * 8
    if depth == 16:
        row = b"".join(struct.pack(">H", sample) for sample in samples)
    else:
        bits = "".join(f"{sample:0{depth}b}" for sample in samples)
        row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    data = png_of([row] * 16, 16, depth, 0, chunk(b"tRNS", struct.pack(">H", value)))
    opened = np.asarray(open_image(data, LIMIT))
    assert (opened[:, :8] == 255).all()
    assert (opened[:, 8:] == 0).all()


def test_a_transparent_colour_of_16_bits_is_transparent() -> None:
    clear, other = (0x1234, 0x5678, 0x9ABC), (0x0000, 0x8000, 0xFFFF)
    row = b"".join(struct.pack(">3H", *color) for color in [clear] * 8 + [other] * 8)
    data = png_of([row] * 16, 16, 16, 2, chunk(b"tRNS", struct.pack(">3H", *clear)))
    opened = np.asarray(open_image(data, LIMIT))
    assert (opened[:, :8] == 255).all()
    assert tuple(opened[0, 12]) == (0, 128, 255)


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


def test_a_palette_is_converted_from_its_profile_like_full_colour() -> None:
    """As pngquant leaves them."""
    indexed, profile = PICTURE.quantize(200), swapped_profile()
    one, two, plain = (
        np.asarray(open_image(data, LIMIT)).astype(int)
        for data in (
            encoded(indexed, icc_profile=profile),
            encoded(indexed.convert("RGB"), icc_profile=profile),
            encoded(indexed),
        )
    )
    assert abs(one - two).max() <= 1
    assert abs(one - plain).mean() > 5


def test_what_is_transparent_in_a_mask_is_out() -> None:
    """White on transparent, as editors draw it."""
    mask = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 8, 16))
    opened = np.asarray(open_image(encoded(mask), LIMIT, "black"))
    assert (opened[:, :8] == 255).all()
    assert (opened[:, 8:] == 0).all()
