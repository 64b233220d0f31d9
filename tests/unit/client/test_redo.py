"""A picture's file may say anything about how it was made: nothing of it is trusted."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from impasto.display import shown
from impasto.errors import InvalidRequest
from impasto.redo import Circumstances, circumstances_of, description, recipe

BASE: dict[str, Any] = {
    "impasto": 1,
    "parameters": {"size_px": 32, "steps": 2, "levels": 1, "content_layers": {"relu4_2": 1.0}, "schedule": []},
    "output": {"format": "png", "quality": 95},
    "style_weights": [1.0],
}


def picture(folder: Path, values: Any) -> Path:
    """Return a file that says this about itself."""
    text = values if isinstance(values, str) else json.dumps(values)
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b"ASCII\0\0\0" + text.encode()}
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", exif=exif)
    path = folder / "hostile.png"
    path.write_bytes(out.getvalue())
    return path


def made(**changes: Any) -> dict[str, Any]:
    source = {"role": "styles[0].image", "name": "style.png", "sha256": "0" * 64}
    return {**BASE, "sources": [source], **changes}


def with_source(**changes: Any) -> dict[str, Any]:
    return made(sources=[{"role": "styles[0].image", "name": "style.png", "sha256": "0" * 64, **changes}])


def test_an_honest_file_is_understood(tmp_path: Path) -> None:
    """Its settings, its style by the hash, wherever the file lies among those that are searched."""
    data = b"a style"
    (tmp_path / "renamed.png").write_bytes(data)
    found = recipe(picture(tmp_path, with_source(sha256=hashlib.sha256(data).hexdigest())))
    assert found.missing == ()
    assert found.options["size_px"] == 32
    assert found.options["format"] == "png"
    assert len(found.styles) == 1


@pytest.mark.parametrize("where", ["absolute", "above", "windows"])
def test_names_are_no_paths(tmp_path: Path, where: str) -> None:
    """A file outside of the folders that are searched is not read, though its hash is named."""
    secret = tmp_path / "home" / "private.dat"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    folder = tmp_path / "downloads"
    folder.mkdir()
    name = {"absolute": str(secret), "above": "../home/private.dat", "windows": "..\\home\\private.dat"}[where]
    found = recipe(picture(folder, with_source(name=name, sha256=hashlib.sha256(b"secret").hexdigest())))
    assert found.missing == ("private.dat",)


@pytest.mark.parametrize(
    "values",
    [
        made(parameters={**BASE["parameters"], "init_image": "/etc/passwd"}),
        made(parameters={**BASE["parameters"], "mask": "/etc/passwd"}),
        made(parameters={**BASE["parameters"], "preset": "x"}),
        made(output={**BASE["output"], "priority": 10}),
        made(output={**BASE["output"], "time_limit_s": 1}),
        made(parameters={**BASE["parameters"], "seed": 10**30}),
        made(parameters={**BASE["parameters"], "steps": True}),
        made(parameters={**BASE["parameters"], "schedule": [[1]]}),
        made(parameters={**BASE["parameters"], "style_layers": {"relu1_1": "x"}}),
        made(parameters={**BASE["parameters"], "optimizer": {}}),
        made(output={"format": [1]}),
        made(output=[1]),
        made(style_weights=["a"]),
        made(style_weights=[1.0] * 1000),
        made(sources=None),
        made(sources=[1]),
        with_source(role="../x"),
        with_source(sha256=5),
        json.dumps(made()).replace('"steps": 2', '"steps": 1e400'),
        json.dumps(made()).replace('"steps": 2', '"steps": ' + "9" * 5000),
        json.dumps(made())[:-1] + ',"x":' + "[" * 60_000,
        {**made(), "impasto": [1]},
        "[" * 60_000,
        "not JSON",
    ],
)
def test_what_no_impasto_writes_is_refused_in_one_line(tmp_path: Path, values: Any) -> None:
    """Paths, priorities, wrong kinds, depth and size: a clear error, never another exception."""
    with pytest.raises(InvalidRequest) as caught:
        recipe(picture(tmp_path, values))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", [5, [1], None, "a\0b", "a" * 5000, "\x1b]0;owned\x07\x1b[31mred", ".."])
def test_odd_names_are_cleaned_and_shown_safely(tmp_path: Path, name: Any) -> None:
    """They are labels: they neither stop the job nor act on the terminal."""
    found = recipe(picture(tmp_path, with_source(name=name)))
    assert all(label.isprintable() and len(label) <= 255 for label in found.missing)


def test_text_is_shown_without_what_acts_on_a_terminal() -> None:
    """Escapes are replaced, long texts cut."""
    assert shown("\x1b[31mred\u202e") == "�[31mred�"
    assert len(shown("x" * 500)) == 120


def test_what_made_a_picture_is_described(tmp_path: Path) -> None:
    """Only what impasto writes; no file beside the picture is read."""
    (tmp_path / "unreadable.png").symlink_to("/nonexistent")
    found = description(picture(tmp_path, made()))
    assert found["sources"] == [{"role": "styles[0].image", "name": "style.png", "sha256": "0" * 64}]
    assert found["parameters"]["size_px"] == 32
    assert found["output"] == {"format": "png", "quality": 95}
    with pytest.raises(InvalidRequest, match="invalid"):
        description(picture(tmp_path, made(output={**BASE["output"], "priority": 10})))


def test_circumstances_that_differ_are_told_as_far_as_they_are_known(tmp_path: Path) -> None:
    """Nothing is told of those that only one of the pictures has, or that no impasto writes."""
    before = recipe(picture(tmp_path, made(threads=2, versions={"impasto": "1.0", "torch": "2.11.0+cu130"}))).circumstances
    after = circumstances_of(picture(tmp_path, made(threads=1, versions={"impasto": "1.0", "torch": "2.14.1"})).read_bytes())
    assert list(before.differences(after)) == [
        "the picture was painted with 2 threads, and this one with 1: sums differ, so pixels may differ",
        "the picture was painted with torch 2.11.0+cu130, and this one with 2.14.1: pixels may differ",
    ]
    assert not [*before.differences(before), *before.differences(Circumstances()), *Circumstances().differences(after)]
    hostile = [1, {"torch": "\x1b[31m"}, {"torch": 2}, {"torch": "1" * 100}, {"another": "1"}]
    for versions in hostile:
        assert recipe(picture(tmp_path, made(versions=versions, threads=-1))).circumstances == Circumstances()


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "data",
    [
        _png(30_000, 30_000, (b"IDAT", zlib.compress(b"\0" * 10_000_000))),
        _png(9_000, 9_000, (b"IDAT", zlib.compress(b"\0" * (9_000 * 27_001)))),
        _png(8, 8, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\0" * 200_000_000))),
        _png(8, 8, (b"eXIf", b"MM\0*" + b"\xff" * 1000)),
        _png(8, 8, (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\xff\xff\xff\xff\x08\0\0\0")),
        b"GIF89a" + b"\xff" * 50,
        b"",
    ],
    ids=["many pixels", "pixels behind", "packed text", "wrong exif", "exif that counts itself", "other", "empty"],
)
def test_files_that_ask_for_memory_get_an_error_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Pixels are not decoded to look for metadata, and packed texts are limited."""
    path = tmp_path / "hostile.png"
    path.write_bytes(data)
    decoded: list[str] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.format))
    tracemalloc.start()
    try:
        for read in (description, recipe):
            with pytest.raises(InvalidRequest) as caught:
                read(path)
            assert len(str(caught.value).splitlines()) == 1
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()
    assert decoded == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no picture", "is not a PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP or HEIC picture"),
        (b"", "is empty"),
        (b"GIF89a" + b"\xff" * 3, "is a GIF file that cannot be read"),
    ],
)
def test_files_that_are_no_pictures_are_told_as_elsewhere(tmp_path: Path, data: bytes, said: str) -> None:
    """In the words of a batch, with the file's name once."""
    path = tmp_path / "x.png"
    path.write_bytes(data)
    for read in (description, recipe):
        with pytest.raises(InvalidRequest) as caught:
            read(path)
        assert str(caught.value) == f"{path}: {said}"


def test_stripped_and_edited_files_say_so(tmp_path: Path) -> None:
    """A picture without metadata, and one whose text was cut by an editor."""
    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    for damaged, text in ((plain, "has no metadata"), (picture(tmp_path, json.dumps(made())[:-9]), "has no metadata")):
        with pytest.raises(InvalidRequest, match=text):
            description(damaged)
    with pytest.raises(InvalidRequest, match="this client reads format 1"):
        description(picture(tmp_path, {**made(), "impasto": 2}))
