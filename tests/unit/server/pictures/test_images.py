from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from impasto_server.pictures import images
from impasto_server.pictures.images import ImageError, canvas_size, encode, fit, open_image

LIMIT = 1_000_000


def file(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def patchwork(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    image = Image.new("RGB", size, (200, 30, 60))
    image.paste((10, 120, 240), (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


SAMPLES = {name: file(patchwork(), name) for name in images.FORMATS}


@pytest.mark.parametrize("name", images.FORMATS)
def test_the_three_formats_are_read(name: str) -> None:
    """PNG, JPEG and WebP come out at their size, with their colours."""
    image = open_image(SAMPLES[name], LIMIT)
    assert image.size == (40, 20)
    assert image.mode == "RGB"
    assert image.getpixel((35, 10)) == pytest.approx((200, 30, 60), abs=12)


@pytest.mark.parametrize("name", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(name: str) -> None:
    """Even those that Pillow could read."""
    with pytest.raises(ImageError, match="not a PNG, JPEG or WebP"):
        open_image(file(patchwork(), name), LIMIT)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"RIFF"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    """Empty, text, a bare signature, markup."""
    with pytest.raises(ImageError):
        open_image(data, LIMIT)


@pytest.mark.parametrize("name", images.FORMATS)
@pytest.mark.parametrize("left", [0.3, 0.7, 0.99])
def test_files_that_are_cut_off_are_refused(name: str, left: float) -> None:
    """Also those that lack only their last bytes, which Pillow alone would decode in silence."""
    noise = Image.effect_noise((120, 90), 60).convert("RGB")
    data = file(noise, name)
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        open_image(data[: int(len(data) * left)], LIMIT)


@pytest.mark.parametrize(("name", "lossless"), [("PNG", True), ("JPEG", False), ("WEBP", False), ("WEBP", True)])
@pytest.mark.parametrize("left", [0.3, 0.7, 0.9])
def test_files_that_end_in_zeros_are_refused(name: str, lossless: bool, left: float) -> None:
    """A download that reserved its space and stopped has its length, and libwebp makes pixels of zeros."""
    data = file(Image.effect_noise((480, 360), 60).convert("RGB"), name, quality=95, lossless=lossless)
    kept = int(len(data) * left)
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        open_image(data[:kept] + bytes(len(data) - kept), LIMIT)


@pytest.mark.parametrize("options", [{"method": 0, "quality": 100}, {"method": 6, "quality": 1}, {"lossless": True}])
def test_flat_webp_files_are_read(options: dict[str, Any]) -> None:
    """Their encoder writes zeros for large parts of them."""
    for color in ("white", "black", (200, 180, 255)):
        image = Image.new("RGB", (1000, 1000), color)
        image.paste(Image.effect_noise((200, 50), 60).convert("RGB"))
        assert open_image(file(image, "WEBP", **options), LIMIT).size == image.size


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13_000, 13_000), (60_000, 60_000), (2_000, 501)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    """Nothing of them is decoded: a megabyte of memory is enough."""
    tracemalloc.start()
    with pytest.raises(ImageError, match="pixels"):
        open_image(bomb(*size), LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (100, 3)])
def test_slivers_are_refused(size: tuple[int, int]) -> None:
    """A side of one pixel, or one side more than twenty times the other."""
    with pytest.raises(ImageError, match="pixels"):
        open_image(file(Image.new("RGB", size)), LIMIT)


@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_files_of_very_many_parts_are_refused(name: str) -> None:
    """Before Pillow looks at each of them, which takes it many seconds."""
    data = SAMPLES[name]
    if name == "PNG":
        chunk = struct.pack(">I", 0) + b"prIv" + struct.pack(">I", zlib.crc32(b"prIv"))
        data = data[:33] + chunk * (images.MAX_PARTS + 1) + data[33:]
    else:
        data = data[:2] + b"\xff\xfe\x00\x02" * (images.MAX_PARTS + 1) + data[2:]
    with pytest.raises(ImageError, match="parts"):
        open_image(data, 1_000_000)
    assert images.pixels_of(data) == 0


def test_exif_orientation_is_applied() -> None:
    """A picture that says it lies on its side is set upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(file(patchwork(), "JPEG", exif=exif, quality=95), LIMIT)
    assert image.size == (20, 40)
    assert image.getpixel((10, 5)) == pytest.approx((10, 120, 240), abs=12)


def test_transparency_is_laid_on_white() -> None:
    """Fully transparent pixels are white whatever colour hides in them; half transparent ones are mixed."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 128))
    opened = open_image(file(image), LIMIT)
    assert opened.getpixel((3, 3)) == (255, 255, 255)
    assert opened.getpixel((0, 0)) == pytest.approx((127, 127, 127), abs=1)


def test_palettes_with_transparency_are_laid_on_white() -> None:
    """Also where the transparency is one colour of a palette."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    opened = open_image(file(image, transparency=0), LIMIT)
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((2, 2)) == (0, 255, 0)


def test_sixteen_bit_grey_keeps_its_lightness() -> None:
    """Half of 65535 is half of 255, not clipped white."""
    image = Image.new("I;16", (4, 4), 32_896)
    assert open_image(file(image), LIMIT).getpixel((1, 1)) == (128, 128, 128)


def test_cmyk_becomes_rgb() -> None:
    """A JPEG from the printers."""
    opened = open_image(file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), LIMIT)
    red, green, blue = opened.getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Grey, bilevel and palette."""
    assert open_image(file(patchwork(mode)), LIMIT).mode == "RGB"


def test_a_colour_profile_is_converted_and_a_broken_one_ignored() -> None:
    """An embedded sRGB profile changes nothing; bytes that are no profile change nothing either."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = open_image(file(patchwork()), LIMIT).tobytes()
    assert open_image(file(patchwork(), icc_profile=profile), LIMIT).tobytes() == plain
    assert open_image(file(patchwork(), icc_profile=b"no profile"), LIMIT).tobytes() == plain


def linear_grey() -> bytes:
    """Return a colour profile of grey whose values are proportional to light."""
    curve = b"curv" + bytes(8)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I", 2) + b"kTRC" + struct.pack(">2I", 156, 12) + b"wtpt" + struct.pack(">2I", 168, 20)
    head = struct.pack(">I", 188) + bytes(4) + b"\x02\x10\0\0mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    return (head + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0") + tags + curve + white


@pytest.mark.parametrize("mode", ["L", "LA", "tRNS", "I;16"])
def test_a_profile_of_grey_is_applied_whether_or_not_the_picture_has_transparency(mode: str) -> None:
    """A fifth of the light is the value 124 in sRGB; what is transparent is white."""
    kind = "L" if mode == "tRNS" else mode
    image = Image.new(kind, (4, 4), {"LA": (51, 255), "I;16": 51 * 257}.get(kind, 51))
    extra: dict[str, object] = {"transparency": 7} if mode == "tRNS" else {}
    if kind == "LA":
        image.putpixel((0, 0), (51, 0))
    opened = open_image(file(image, icc_profile=linear_grey(), **extra), LIMIT)
    assert opened.getpixel((2, 2)) == pytest.approx((124, 124, 124), abs=1)
    assert opened.getpixel((0, 0)) == ((255, 255, 255) if kind == "LA" else opened.getpixel((2, 2)))


def test_orientation_is_that_of_exif_and_not_of_xmp() -> None:
    """As in browsers."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for name in ("JPEG", "WEBP"):
        assert open_image(file(patchwork(), name, xmp=xmp), LIMIT).size == (40, 20), name


def test_a_phones_photo_with_a_second_picture_is_complete_or_refused() -> None:
    """Pillow calls such a JPEG MPO."""
    pair = file(patchwork(size=(320, 240)), "MPO", save_all=True, append_images=[patchwork(size=(320, 240))], quality=95)
    assert open_image(pair, LIMIT).size == (320, 240)
    scan = pair.index(b"\xff\xda")
    end = pair.index(b"\xff\xd9", scan)
    holed = pair[: scan + 20] + bytes(end - scan - 20) + pair[end:]
    cut = pair[: scan + (end - scan) // 2] + pair[end:]
    with pytest.raises(ImageError, match="truncated"):
        open_image(cut, LIMIT)
    with pytest.raises(ImageError, match="truncated|damaged"):
        open_image(holed, LIMIT)


def test_an_animation_gives_its_first_frame() -> None:
    """The others are not even decoded."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = file(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(data, LIMIT).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_results_come_back_as_they_were(name: str) -> None:
    """Encoded and opened again: the same size, and nearly or exactly the same pixels."""
    raster = fit(Image.effect_noise((64, 48), 40).convert("RGB"), 64, 48)
    opened = open_image(encode(raster, name, 100), LIMIT)
    difference = max(abs(a - b) for a, b in zip(opened.tobytes(), raster.rgb, strict=True))
    assert difference == 0 if name in ("png", "webp") else difference < 12


def test_canvas_keeps_the_aspect() -> None:
    """The longer side is as asked, the other follows."""
    assert canvas_size(patchwork(size=(400, 300)), 256) == (256, 192)
    assert canvas_size(patchwork(size=(30, 90)), 60) == (20, 60)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(images.FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 2000),
)
def test_mutated_files_are_opened_or_refused_and_nothing_else(name: str, changes: list[tuple[int, int]], cut: int) -> None:
    """Whatever is done to the bytes, there is a picture within the limit or an ImageError."""
    data = bytearray(SAMPLES[name])
    for position, value in changes:
        data[position % len(data)] = value
    try:
        image = open_image(bytes(data[: max(1, len(data) - cut % 40)]), LIMIT)
    except ImageError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= LIMIT


def test_real_photographs_open() -> None:
    """The photographs that the demo uses."""
    import skimage

    for name in ("astronaut.png", "coffee.png", "rocket.jpg"):
        image = open_image((Path(skimage.__file__).parent / "data" / name).read_bytes(), LIMIT)
        assert min(image.size) > 200
