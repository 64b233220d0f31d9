"""The record of a batch survives crashes: lines are whole, and what is done is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from impasto.batch.identity import key_of, request_id
from impasto.batch.manifest import NAME, Manifest, entries
from impasto.errors import ImpastoError
from impasto.pictures import UploadedImage
from impasto.requests import Style


def test_what_is_done_is_known_by_the_next_run(tmp_path: Path) -> None:
    """By output and key; a failure is not done."""
    with Manifest(tmp_path) as manifest:
        manifest.append({"status": "succeeded", "output": "a.png", "key": "k1"})
        manifest.append({"status": "failed", "output": "b.png", "key": "k2"})
        assert manifest.done("a.png", "k1")
    with Manifest(tmp_path) as manifest:
        assert manifest.done("a.png", "k1")
        assert not manifest.done("a.png", "other")
        assert not manifest.done("b.png", "k2")
        assert manifest.lines == 2


def test_the_last_line_of_a_kept_picture_is_its_own(tmp_path: Path) -> None:
    """After a failure with other options its line is written again, once, also by the next run."""
    made = {"status": "succeeded", "output": "a.png", "key": "k1", "job_id": "j1"}
    with Manifest(tmp_path) as manifest:
        manifest.append({**made, "key": "k0"})
        manifest.append(made)
        manifest.keep("a.png")
        manifest.append({"status": "failed", "output": "a.png", "key": "k2"})
    with Manifest(tmp_path) as manifest:
        assert manifest.done("a.png", "k1")
        manifest.keep("a.png")
        manifest.keep("a.png")
        manifest.keep("other.png")
    lines = list(entries(tmp_path / NAME))
    assert [line["key"] for line in lines] == ["k0", "k1", "k2", "k1"]
    assert lines[-1] == lines[1]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_a_power_cut_left_incomplete_is_removed(tmp_path: Path, cut: int) -> None:
    """The lines before it stay, and the next line does not follow in the same line."""
    with Manifest(tmp_path) as manifest:
        manifest.append({"status": "succeeded", "output": "a.png", "key": "k1"})
        manifest.append({"status": "succeeded", "output": "b.png", "key": "k2"})
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    with Manifest(tmp_path) as manifest:
        assert manifest.done("a.png", "k1")
        assert not manifest.done("b.png", "k2")
        manifest.append({"status": "succeeded", "output": "c.png", "key": "k3"})
    assert [line["output"] for line in entries(path)] == ["a.png", "c.png"]


@pytest.mark.parametrize("line", [b"not json", b"[]", b"7", b'{"status": "succeeded"}', b"[" * 100_000, b"\xff\xfe", b'"x"'])
def test_lines_of_others_are_left_alone(tmp_path: Path, line: bytes) -> None:
    (tmp_path / NAME).write_bytes(line + b"\n")
    with Manifest(tmp_path) as manifest:
        manifest.append({"status": "succeeded", "output": "a.png", "key": "k"})
    assert (tmp_path / NAME).read_bytes().startswith(line + b"\n")
    assert [found["output"] for found in entries(tmp_path / NAME)] == ["a.png"]


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    """The second one says why; when the first has ended, it may start."""
    with Manifest(tmp_path), pytest.raises(ImpastoError, match="another 'impasto batch' writes to"):
        Manifest(tmp_path)
    Manifest(tmp_path).close()


def test_names_that_are_not_unicode_are_kept(tmp_path: Path) -> None:
    """Lines are UTF-8, which other programs read; other names stay as they are."""
    with Manifest(tmp_path) as manifest:
        manifest.append({"status": "succeeded", "output": "caf\udce9.png", "key": "k"})
        manifest.append({"status": "succeeded", "output": "\u732b.png", "key": "k"})
    assert "\u732b.png" in (tmp_path / NAME).read_text("utf-8")
    with Manifest(tmp_path) as manifest:
        assert manifest.lines == 2
        assert manifest.done("caf\udce9.png", "k")
    assert [line["output"] for line in entries(tmp_path / NAME)] == ["caf\udce9.png", "\u732b.png"]


def test_names_that_earlier_versions_wrote_as_they_are_can_be_read(tmp_path: Path) -> None:
    line = b'{"manifest": 1, "status": "succeeded", "output": "caf\xe9.png", "key": "k"}\n'
    (tmp_path / NAME).write_bytes(line)
    with Manifest(tmp_path) as manifest:
        assert manifest.done("caf\udce9.png", "k")
    assert [line["output"] for line in entries(tmp_path / NAME)] == ["caf\udce9.png"]


def test_the_key_follows_from_what_affects_the_picture() -> None:
    """Files by their hash and options; not names, priority, labels, how long it is kept, or previews."""
    content, style = UploadedImage("a" * 64, "cat.jpg"), Style(UploadedImage("b" * 64, "night.jpg"))
    key = key_of(content, style, {"size_px": 64, "format": "png"})
    assert key == key_of(content, style, {"format": "png", "size_px": 64})
    assert key == key_of(UploadedImage("a" * 64, "renamed.jpg"), style, {"size_px": 64, "format": "png"})
    handling = {"priority": 3, "ttl_s": 60, "labels": {"album": "x"}, "preview_every_steps": 5}
    assert key == key_of(content, style, {"size_px": 64, "format": "png", **handling})
    others = [
        key_of(UploadedImage("c" * 64), style, {"size_px": 64, "format": "png"}),
        key_of(content, Style(UploadedImage("c" * 64)), {"size_px": 64, "format": "png"}),
        key_of(content, style, {"size_px": 65, "format": "png"}),
        key_of(content, style, {"size_px": 64, "format": "jpeg"}),
        key_of(content, style, {"size_px": 64, "format": "png", "mask": UploadedImage("d" * 64)}),
        key_of(content, style, {"size_px": 64, "format": "png", "time_limit_s": 5}),
    ]
    assert len({key, *others}) == 7
    assert request_id(key, 0) != request_id(key, 1)
    assert len(request_id(key, 999)) <= 128
    assert json.dumps(request_id(key, 0)).isascii()
