"""PIL images are sent as the files that they would be, or refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from impasto import InvalidRequest, NamedFile, Unavailable, Violation
from impasto._base import of_upload
from impasto.pictures import to_bytes
from tests.conftest import encoded, picture

DRAWN = picture(mode="L")
GREY = np.asarray(DRAWN)
DEEP = GREY.astype(np.uint16) * 257


def seen(image: Image.Image) -> np.ndarray:
    """Return how bright a server sees a picture."""
    pytest.importorskip("simplejpeg", reason="the server is not installed")
    from impasto_server.pictures.images import open_image

    return np.asarray(open_image(to_bytes(image, "content"), 1_000_000).convert("L")).astype(int)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image.fromarray(DEEP),
        lambda: Image.frombytes("I;16B", GREY.shape[::-1], DEEP.astype(">u2").tobytes()),
        lambda: Image.fromarray(DEEP.astype(np.int32)),
        lambda: Image.fromarray(GREY).convert("1"),
        lambda: Image.fromarray(GREY).convert("LA"),
        lambda: Image.fromarray(GREY).convert("LA").convert("La"),
        lambda: DRAWN.convert("RGBA").convert("RGBa"),
        lambda: DRAWN.convert("CMYK"),
        lambda: DRAWN.convert("YCbCr"),
        lambda: Image.fromarray(GREY).convert("P"),
    ],
    ids=["I;16", "I;16B", "I", "1", "LA", "La", "RGBa", "CMYK", "YCbCr", "P"],
)
def test_every_mode_looks_as_it_is(make: Callable[[], Image.Image]) -> None:
    image = make()
    wanted = np.asarray(image.convert("L")).astype(int) if image.mode == "1" else GREY.astype(int)
    assert abs(seen(image) - wanted).mean() < 3


@pytest.mark.parametrize(("mode", "factor"), [("F", 1 / 255), ("I", 70_000), ("I", 1)])
def test_values_whose_scale_is_unknown_are_refused_by_name(mode: str, factor: float) -> None:
    """Nobody but their owner knows what is white. Values up to 255 in 32 bits may be of 8 bits, or of 16 and nearly black."""
    values = (GREY.astype(float) * factor).astype(np.float32 if mode == "F" else np.int32)
    with pytest.raises(InvalidRequest, match=f"content: has mode {mode} with values from"):
        to_bytes(Image.fromarray(values), "content")


def test_a_phones_picture_is_upright_as_a_path_and_as_an_image(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    path.write_bytes(encoded(picture(96, 72), "JPEG", exif=exif.tobytes()))
    with Image.open(path) as image, Image.open(io.BytesIO(to_bytes(image, "content"))) as sent:
        assert sent.size == (72, 96)
        assert sent.getexif().get(0x0112, 1) == 1


def test_a_broken_exif_block_is_no_reason_to_refuse_an_image() -> None:
    with Image.open(io.BytesIO(encoded(picture(), "JPEG", exif=b"Exif\0\0garbage!"))) as image:
        assert to_bytes(image, "content").startswith(b"\x89PNG")


def test_a_profile_goes_along_where_it_fits() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, fits in (("RGB", True), ("L", False)):
        image = picture(mode=mode)
        image.info["icc_profile"] = profile
        with Image.open(io.BytesIO(to_bytes(image, "content"))) as sent:
            assert ("icc_profile" in sent.info) is fits


def test_a_result_keeps_what_made_it_in_every_format_that_can(tmp_path) -> None:
    """Read as `impasto redo` reads it; a BMP cannot hold it, which is told."""
    from impasto.redo import provenance
    from tests.unit.client.test_results import result

    exif = Image.Exif()
    exif[0x8769] = {0x9286: b'ASCII\0\0\0{"impasto":1}'}
    for kind in ("PNG", "JPEG", "WEBP"):
        painted = result(encoded(picture(), kind, exif=exif))
        for ending in (".png", ".jpg", ".webp", ".avif", ".tif", ".tiff"):
            assert provenance(painted.save(tmp_path / f"x{ending}")) == {"impasto": 1}, (kind, ending)
        with pytest.warns(UserWarning, match=r"x\.bmp: a BMP file holds no metadata"):
            painted.save(tmp_path / "x.bmp")


@pytest.mark.parametrize("ending", [".gif", ".pdf", ".ico", ".nonsense"])
def test_a_result_is_saved_in_formats_that_hold_all_of_it_only(tmp_path, ending: str) -> None:
    """A GIF would keep 256 of its colours; the error names what can be written, and nothing is written."""
    from tests.unit.client.test_results import result

    with pytest.raises(ValueError, match=f"must end in .png, .jpg, .webp, .avif, .tif or .bmp, not {ending}"):
        result(encoded(picture())).save(tmp_path / f"x{ending}")
    assert not list(tmp_path.iterdir())
    for other in (".tif", ".bmp", ".webp"):
        with Image.open(result(encoded(picture())).save(tmp_path / f"x{other}")) as saved:
            assert saved.size == picture().size


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    """It is refused before it is sent, so that no error speaks of the messages of an upload."""
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    with pytest.raises(InvalidRequest, match=r"^content: is empty: empty\.jpg$"):
        to_bytes(empty, "content")
    with pytest.raises(InvalidRequest, match=r"^content: is empty: a\.png$"):
        to_bytes(NamedFile(b"", "a.png"), "content")
    for nothing in (b"", io.BytesIO()):
        with pytest.raises(InvalidRequest, match=r"^mask: is empty$"):
            to_bytes(nothing, "mask")


def test_an_upload_that_is_refused_for_its_size_names_the_file() -> None:
    """And not a field of a message that the caller never made; other errors stay as they are."""
    size = InvalidRequest("start.size_bytes: x", violations=(Violation("start.size_bytes", "must be from 1 to 9, got 10"),))
    told = of_upload(size, "large.png")
    assert str(told) == "picture: large.png: size_bytes must be from 1 to 9, got 10"
    assert isinstance(told, InvalidRequest)
    assert [item.field for item in told.violations] == ["picture"]
    for other in (InvalidRequest("too large"), Unavailable("gone")):
        assert of_upload(other, "large.png") is other
