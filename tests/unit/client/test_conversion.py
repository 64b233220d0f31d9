"""Pictures that servers do not take are converted: as they look, upright, with their profile; or refused by name."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms, ImageOps

from impasto import InvalidRequest, NamedFile
from impasto.conversion import kind_of
from impasto.pictures import to_bytes
from impasto.redo import _find
from tests.conftest import encoded, picture

COLOUR = picture(96, 72)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def sent(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(to_bytes(data, "content")))
    image.load()
    return image


def heif(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return encoded(image, "HEIF", quality=95, **options)


@pytest.mark.parametrize("name", ["AVIF", "TIFF", "GIF", "BMP", "HEIF"])
def test_formats_are_converted_and_look_the_same(name: str) -> None:
    """However the file is given."""
    data = heif(COLOUR) if name == "HEIF" else encoded(COLOUR, name, **({"quality": 95} if name == "AVIF" else {}))
    assert kind_of(data) == name
    found = sent(data)
    assert found.format == "PNG"
    difference = np.asarray(found.convert("RGB")).astype(int) - np.asarray(COLOUR).astype(int)
    assert abs(difference).mean() < (12 if name == "GIF" else 4)
    for given in (bytearray(data), io.BytesIO(data), NamedFile(data, "x")):
        assert to_bytes(given, "content") == to_bytes(data, "content")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_what_servers_take_is_sent_unchanged(name: str) -> None:
    data = encoded(COLOUR, name)
    assert to_bytes(data, "content") == data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["TIFF", "AVIF", "HEIF"])
def test_pictures_are_upright(name: str, orientation: int) -> None:
    """For all eight orientations, and turned once only."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = exif.tobytes()
    data = heif(COLOUR, exif=written) if name == "HEIF" else encoded(COLOUR, name, exif=exif if name == "TIFF" else written)
    as_jpeg = Image.open(io.BytesIO(encoded(COLOUR, "JPEG", exif=written, quality=95)))
    wanted = ImageOps.exif_transpose(as_jpeg)
    found = sent(data)
    assert found.getexif().get(0x0112, 1) == 1
    assert found.size == wanted.size
    assert abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(wanted).astype(int)).mean() < 6


@pytest.mark.parametrize("name", ["TIFF", "AVIF", "HEIF"])
def test_profiles_are_kept(name: str) -> None:
    data = heif(COLOUR, icc_profile=PROFILE) if name == "HEIF" else encoded(COLOUR, name, icc_profile=PROFILE)
    assert sent(data).info["icc_profile"] == PROFILE


def test_the_first_frame_of_an_animation_is_sent() -> None:
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert sent(data).convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_transparency_is_kept() -> None:
    """Of palettes too; the server lays it on white."""
    shape = Image.new("P", (16, 16), 1)
    shape.putpalette([255, 0, 0, 0, 255, 0])
    shape.paste(0, (0, 0, 8, 16))
    data = encoded(shape, "GIF", transparency=0)
    found = sent(data).convert("RGBA")
    assert found.getpixel((2, 2))[3] == 0
    assert found.getpixel((12, 2)) == (0, 255, 0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "LAB", "YCbCr"])
def test_every_mode_of_a_tiff_looks_as_it_is(mode: str) -> None:
    """16 bits are not cut to 8, and what Pillow itself cannot convert goes through a profile."""
    if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("this Pillow writes such files without compression and reads them as JPEG")
    grey = COLOUR.convert("L")
    if mode == "I;16":
        deep = np.asarray(grey).astype(np.uint16) * 257
        image = Image.fromarray(deep)
    elif mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(COLOUR, srgb, lab, outputMode="LAB")
        assert image is not None
    else:
        image = COLOUR.convert(mode)
    found = sent(encoded(image, "TIFF"))
    if mode == "I;16":
        assert (np.asarray(found) == deep).all()
        return
    wanted = np.asarray(image.convert("L") if mode in ("1", "P") else grey).astype(int)
    assert abs(np.asarray(found.convert("L")).astype(int) - wanted).mean() < 4


def test_big_endian_sixteen_bits_are_read_right() -> None:
    """I;16B is how TIFF files of scanners are."""
    deep = np.asarray(COLOUR.convert("L")).astype(np.uint16) * 257
    image = Image.frombytes("I;16B", deep.shape[::-1], deep.astype(">u2").tobytes())
    assert (np.asarray(sent(encoded(image, "TIFF"))) == deep).all()


def test_floats_are_refused_by_name() -> None:
    values = np.asarray(COLOUR.convert("L")).astype(np.float32) / 255
    with pytest.raises(InvalidRequest, match="content: has mode F with values from"):
        to_bytes(encoded(Image.fromarray(values), "TIFF"), "content")


@pytest.mark.parametrize("name", ["AVIF", "TIFF", "GIF", "BMP"])
def test_damaged_files_are_refused_by_name(name: str) -> None:
    data = encoded(COLOUR, name)
    for cut in (data[: len(data) // 2], data[:40], data[:16]):
        try:
            to_bytes(cut, "styles[0].image")
        except InvalidRequest as error:
            assert f"styles[0].image: is a {name} file that " in str(error)
            assert len(str(error).splitlines()) == 1


def test_huge_files_are_refused_before_they_are_decoded() -> None:
    """A BMP of a hundred bytes may say that it has a gigapixel."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    data[18:26] = (20_000).to_bytes(4, "little") + (20_000).to_bytes(4, "little")
    with pytest.raises(InvalidRequest, match="20000 x 20000 pixels|exceeds limit"):
        to_bytes(bytes(data), "content")


def test_heic_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InvalidRequest, match=r"pillow-heif.*\[heif\]"):
        to_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100, "content")


def test_redo_finds_sources_that_were_converted(tmp_path: Path) -> None:
    """Their hash is that of what was sent."""
    import hashlib

    data = encoded(COLOUR, "TIFF")
    (tmp_path / "scan.tif").write_bytes(data)
    wanted = hashlib.sha256(to_bytes(data, "content")).hexdigest()
    assert list(_find({wanted: "scan.tif"}, [tmp_path])) == [wanted]


def tiff(*, bits: int = 8, samples: int = 1, **tags: int) -> bytes:
    """Return an uncompressed TIFF of 8 x 8 pixels, little-endian.

    Args:
        bits: Bits per value.
        samples: Values per pixel.
        tags: More tags, each by the number after its first letter; a negative value is written as a text.
    """
    data = bytes(8 * 8 * samples * bits // 8)
    numbers = {256: 8, 257: 8, 258: bits, 259: 1, 262: 2 if samples == 3 else 1, 273: 8, 277: samples, 278: 8, 279: len(data)}
    numbers |= {int(name[1:]): value for name, value in tags.items()}
    kinds = {tag: 4 if value >= 0 else 2 for tag, value in numbers.items()}  # a negative value is a text instead of a number
    entries = b"".join(struct.pack("<HHII", tag, kinds[tag], 1, abs(value)) for tag, value in sorted(numbers.items()))
    directory = struct.pack("<H", len(numbers)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        ({"bits": 12}, "12 bits per value"),
        ({"bits": 16, "t339": 2}, "signed values"),
        ({"bits": 16, "t262": 0}, "zero is white"),
        ({"t254": 1}, "only a preview"),
        ({"bits": 16, "t50706": 1}, "only a preview"),
        ({"t254": -1}, "cannot be read"),
    ],
)
def test_files_that_pillow_reads_wrongly_without_a_word_are_refused_by_name(odd: dict[str, int], text: str) -> None:
    """Scanners, microscopes and raw photos."""
    assert sent(tiff()).size == sent(tiff(bits=16)).size == (8, 8)
    with pytest.raises(InvalidRequest, match=f"content: .*{text}"):
        sent(tiff(**odd))


def test_planes_of_16_bits_are_refused_where_pillow_mixes_them_up() -> None:
    """It reads the first plane's rows as pixels of all three. Planes of 8 bits, and compressed ones, are right."""
    values = np.arange(8 * 8, dtype="<u2").reshape(8, 8) * 900
    found = tiff(bits=16, samples=3, t284=2)
    strips = b"".join(plane.tobytes() for plane in (values, values, values))
    data = found[:8] + strips + found[8 + len(strips) :]
    with pytest.raises(InvalidRequest, match="content: .*separate planes"):
        sent(data)


def test_orientation_in_xmp_only_turns_nothing() -> None:
    """As in browsers; a picture's EXIF counts."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = COLOUR.copy()
    image.info["xmp"] = xmp
    assert Image.open(io.BytesIO(to_bytes(image, "content"))).size == COLOUR.size
    assert image.info["xmp"] == xmp
    image.getexif()[0x0112] = 6
    assert Image.open(io.BytesIO(to_bytes(image, "content"))).size == COLOUR.size[::-1]


def test_a_file_in_text_mode_and_a_path_that_cannot_be_are_told_by_their_field(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(COLOUR, "JPEG"))
    with (tmp_path / "photo.jpg").open(encoding="utf-8") as file, pytest.raises(InvalidRequest, match="content: .*binary mode"):
        to_bytes(file, "content")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="content: cannot be read: .*null"):
        to_bytes("a\0b", "content")
    with pytest.raises(InvalidRequest, match="content: cannot be read: .*closed"):
        to_bytes(file, "content")  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
def test_files_of_boxes_that_end_early_are_told(name: str, left: float) -> None:
    """A decoder may show what there is."""
    data = heif(COLOUR) if name == "HEIF" else encoded(COLOUR, name)
    with pytest.raises(InvalidRequest, match=f"content: is a {name} file that (is truncated|cannot be read)"):
        sent(data[: int(len(data) * left)])
    for behind in (bytes(5), bytes(50), b"SEFT" * 5, b"\xff" * 20, bytes(10_000)):
        assert sent(data + behind).size == COLOUR.size  # what follows the last box is not the picture's


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
def test_files_of_boxes_that_end_in_zeros_are_told(name: str, left: float) -> None:
    """As of a download that reserved its space and stopped; a decoder shows something."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    data = heif(image) if name == "HEIF" else encoded(image, name, quality=95)
    kept = int(len(data) * left)
    with pytest.raises(InvalidRequest, match=f"content: is a {name} file that (is truncated: its end is blank|cannot be read)"):
        sent(data[:kept] + bytes(len(data) - kept))
    flat = Image.new("RGB", (1600, 1200), "white")
    assert sent(heif(flat) if name == "HEIF" else encoded(flat, name)).size == flat.size


@pytest.mark.parametrize("name", ["AVIF", "HEIF", "TIFF", "GIF", "BMP"])
def test_files_that_are_damaged_in_any_way_are_told(name: str) -> None:
    """Whatever their decoder raises."""
    data = heif(COLOUR) if name == "HEIF" else encoded(COLOUR, name)
    draw = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(data)
        start = int(draw.integers(12, len(data)))
        damaged[start : start + 60] = draw.bytes(len(damaged[start : start + 60]))
        with contextlib.suppress(InvalidRequest):
            sent(bytes(damaged))


def test_an_alpha_channel_that_a_bmp_does_not_use_is_ignored() -> None:
    """Many programs leave it 0."""
    head = struct.pack("<IiiHHIIiiII", 108, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + 16, 0, 0, 14 + len(head)) + head + bytes((10, 20, 30, 0)) * 4
    assert sent(data).convert("RGBA").getpixel((0, 0)) == (30, 20, 10, 255)
    half = data[:-4] + bytes((10, 20, 30, 128))
    assert sent(half).getchannel("A").getextrema() == (0, 128)
