"""Files as phones, scanners and editors write them: metadata never refuse a picture, missing pixels always do."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from impasto_server.pictures.images import ImageError, open_image, pixels_of
from tests.conftest import encoded
from tests.files import ODD_METADATA, PICTURE, TRUNCATED, chunk, interlaced, png_of, swapped_profile, with_chunks

LIMIT = 64_000_000


@pytest.mark.parametrize("before", ODD_METADATA.values(), ids=ODD_METADATA)
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


@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED)
def test_pixels_that_are_missing_are_told(data: bytes) -> None:
    """Pillow fills them up without a word."""
    with pytest.raises(ImageError, match="truncated"):
        open_image(data, LIMIT)
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


def deep(values: np.ndarray, *before: bytes) -> bytes:
    """Return a 16-bit RGB PNG."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(before)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_only_the_transparent_colour_of_a_16_bit_picture_is_transparent() -> None:
    """And not the colours that have its high bytes: nearly black is not black."""
    values = np.full((6, 8, 3), (0x1200, 0x0034, 0xFF00))
    values[0, 0] = (0x1201, 0x0034, 0xFF00)
    values[1, 1] = (0x1200, 0x0034, 0xFF01)
    values[2, 2] = (0x1200, 0x0134, 0xFF00)
    opened = np.asarray(open_image(deep(values, chunk(b"tRNS", struct.pack(">3H", 0x1200, 0x0034, 0xFF00))), LIMIT))
    white = (opened == 255).all(axis=2)
    assert white.sum() == 45
    assert opened[0, 0].tolist() == opened[1, 1].tolist() == [0x12, 0, 0xFF]
    assert opened[2, 2].tolist() == [0x12, 1, 0xFF]


@pytest.mark.parametrize("length", [0, 1, 5, 7])
def test_a_transparency_of_the_wrong_length_is_ignored(length: int) -> None:
    """As libpng does, in pictures of colours, grey and a palette."""
    for image in (PICTURE, PICTURE.convert("L"), PICTURE.quantize(3)):
        plain = encoded(image)
        head = plain[:33] if image.mode != "P" else plain[: plain.index(b"IDAT") - 4]
        odd = head + chunk(b"tRNS", bytes(length)) + plain[len(head) :]
        wanted = open_image(plain, LIMIT).tobytes()
        assert open_image(odd, LIMIT).tobytes() == wanted or (image.mode == "P" and length == 1)


@pytest.mark.parametrize("sequence", [0, 5])
@pytest.mark.parametrize("size", [(48, 40), (200, 40), (0, 0), (4, 4)])
def test_an_animation_that_is_wrong_is_a_still_picture(size: tuple[int, int], sequence: int) -> None:
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, *size, 0, 0, 1, 10, 0, 0))
    assert open_image(with_chunks(control + frame), LIMIT).tobytes() == open_image(encoded(PICTURE), LIMIT).tobytes()


def test_a_palette_that_is_missing_is_told() -> None:
    plain = encoded(PICTURE.quantize(5))
    at = plain.index(b"PLTE") - 4
    without = plain[:at] + plain[at + 12 + int.from_bytes(plain[at : at + 4], "big") :]
    with pytest.raises(ImageError, match="palette is missing"):
        open_image(without, LIMIT)


def test_values_that_are_encoded_otherwise_become_srgb() -> None:
    """By the gamma of the file, if it has neither a profile nor the mark of sRGB."""
    grey = Image.new("RGB", (8, 8), (55, 55, 55))
    plain = encoded(grey)
    linear = plain[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + plain[33:]
    assert open_image(linear, LIMIT).getpixel((3, 3)) == (128, 128, 128)
    usual = plain[:33] + chunk(b"gAMA", struct.pack(">I", 45_455)) + plain[33:]
    marked = plain[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"sRGB", b"\0") + plain[33:]
    wrong = plain[:33] + chunk(b"gAMA", struct.pack(">I", 0)) + plain[33:]
    assert {open_image(data, LIMIT).getpixel((3, 3)) for data in (usual, marked, wrong)} == {(55, 55, 55)}


SHORT = [
    (0xE0, b"JFIF\0"),
    (0xE1, b"Exif\0\0"),
    (0xE2, b"ICC_PROFILE\0"),
    (0xE2, b"MPF\0"),
    (0xED, b"Photoshop 3.0\0" + b"8BIM"),
    (0xEE, b"Adobe"),
    (0xFE, b""),
]


@pytest.mark.parametrize("segment", SHORT, ids=lambda segment: f"{segment[0]:x}")
def test_segments_that_are_too_short_never_refuse_a_jpeg(segment: tuple[int, bytes]) -> None:
    """libjpeg ignores them."""
    marker, body = segment
    plain = encoded(PICTURE, "JPEG")
    odd = plain[:2] + b"\xff" + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + plain[2:]
    assert open_image(odd, LIMIT).tobytes() == open_image(plain, LIMIT).tobytes()


def test_what_tells_a_jpegs_colours_is_kept() -> None:
    """The profile and the mark of CMYK that is inverted."""
    for image, more in ((PICTURE, {"icc_profile": swapped_profile()}), (PICTURE.convert("CMYK"), {})):
        data = encoded(image, "JPEG", quality=95, **more)
        noisy = data[:2] + b"\xff\xfe" + struct.pack(">H", 7) + b"words" + data[2:]
        opened = np.asarray(open_image(noisy, LIMIT)).astype(int)
        assert (opened == np.asarray(open_image(data, LIMIT))).all()
        if more:
            assert abs(opened - np.asarray(PICTURE)).mean() > 10
