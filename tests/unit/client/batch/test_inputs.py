"""Files, folders, patterns, lists and CSV files become pairs with names; what is wrong is said before anything is painted."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

import impasto
from impasto.batch.inputs import DEFAULT_TEMPLATE, Pair, check_outputs, every, expanded, from_csv, listed, named


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jpg", "a.png", "deep/c.webp", "notes.txt", ".hidden.png", "out/a-b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_patterns_and_files_are_expanded_in_order(folder: Path) -> None:
    """Folders without subfolders; ``**`` reaches them; hidden files, other files and outputs are left out; each once."""
    assert expanded(["."], "photos") == [Path("a.png"), Path("b.jpg")]
    assert expanded(["b.jpg", "*.png", "b.jpg"], "photos") == [Path("b.jpg"), Path("a.png")]
    assert [str(path) for path in expanded(["**/*"], "photos", Path("out"))] == ["a.png", "b.jpg", "deep/c.webp"]
    assert expanded(["notes.txt"], "photos") == [Path("notes.txt")]  # the server says what is wrong with it


def test_what_is_not_there_is_named(folder: Path) -> None:
    """All of it, in one error."""
    (folder / "empty").mkdir()
    with pytest.raises(impasto.InvalidRequest) as caught:
        expanded(["nope.png", "empty", "z*.png", "out"], "photos", Path("out"))
    text = str(caught.value)
    for part in ("nope.png does not exist", "the folder empty has no pictures", "no picture matches z*.png", "and 1 more"):
        assert part in text
    with pytest.raises(impasto.InvalidRequest, match="out is the folder of the outputs"):
        expanded(["out"], "photos", Path("out"))


def test_a_file_whose_name_has_pattern_characters_is_a_file(folder: Path) -> None:
    (folder / "a[1].png").write_bytes(b"x")
    assert expanded(["a[1].png"], "photos") == [Path("a[1].png")]


def test_lists_have_lines_or_nuls() -> None:
    assert listed("a.png\n\nb c.png\r\n") == ["a.png", "b c.png"]
    assert listed("a\nb.png\0c.png\0") == ["a\nb.png", "c.png"]


def test_only_a_newline_ends_a_line_of_a_list() -> None:
    """Names may have the other characters at which Python splits lines; one carriage return is of the line's end."""
    assert listed("a\u2028b.png\nc\x0cd\x85e.png\nf\rg.png\r\r\n") == ["a\u2028b.png", "c\x0cd\x85e.png", "f\rg.png\r"]


def test_names_follow_the_template() -> None:
    photos, styles = [Path("in/cat.jpg"), Path("in/dog.jpg")], [impasto.Style(Path("art/night.png"))]
    assert [pair.output for pair in every(photos, styles, "{photo}-{style}.png")] == ["cat-night.png", "dog-night.png"]
    template = "{style_folder}/{style}/{photo_folder}-{photo}-{index:03}.jpg"
    assert every(photos, styles, template)[1].output == "art/night/in-dog-002.jpg"


def test_a_mix_is_one_picture_of_each_photo() -> None:
    """Named by all its styles."""
    styles = [impasto.Style(Path("a/one.png"), 0.7), impasto.Style(Path("b/two.png"), 0.3)]
    (pair,) = every([Path("cat.jpg")], styles, "{style_folder}/{photo}-{style}.png", mix=True)
    assert pair.output == "a/cat-one+two.png"
    assert pair.styles == tuple(styles)
    assert str(pair) == f"cat.jpg with {Path('a/one.png')} + {Path('b/two.png')}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{photo}.png", "would be the output of"),
        ("{photo}-{style}.gif", "must end in"),
        ("{photo}-{style}", "must end in"),
        ("../{photo}-{style}.png", "must lie below"),
        ("/{photo}-{style}.png", "must lie below"),
        ("{photo.parent}-{style}.png", "the fields are"),
        ("{photo.__class__}.png", "the fields are"),
        ("{photo[0]}.png", "the fields are"),
        ("{photo!r}-{style}.png", "the fields are"),
        ("{nope}-{style}.png", "the fields are"),
        ("{photo:>99999999999}.png", "the fields are"),
        ("{index:999999999999999}.png", "not a template|is longer"),
        ("{photo-{style}.png", "not a template|the fields are"),
        ("{}.png", "the fields are"),
        ("{photo}" + "x" * 250 + "{style}.png", "is longer than 240 bytes"),
    ],
)
def test_templates_that_cannot_name_outputs_are_refused(template: str, text: str) -> None:
    """Collisions, other formats, other folders, and what Python's format strings could do besides."""
    with pytest.raises(impasto.InvalidRequest, match=text):
        every([Path("cat.jpg")], [impasto.Style(Path("a/night.png")), impasto.Style(Path("b/night.png"))], template)


def test_names_that_differ_in_case_only_collide() -> None:
    """Some file systems ignore case."""
    with pytest.raises(impasto.InvalidRequest, match="would be the output"):
        every([Path("cat.jpg"), Path("CAT.jpg")], [impasto.Style(Path("s.png"))], "{photo}-{style}.png")


@pytest.mark.parametrize("name", ["./a.png", "x/../a.png", ".//a.png"])
def test_two_spellings_of_one_output_collide(folder: Path, name: str) -> None:
    """Only the spelling without detours is used, so that the manifest knows it; ``..`` is refused."""
    table = folder / "pairs.csv"
    table.write_text(f"photo,style,output\na.png,b.jpg,a.png\nb.jpg,a.png,{name}\n")
    with pytest.raises(impasto.InvalidRequest, match="line 3: output .*(is also that of line 2|must lie below)"):
        from_csv(table, "{photo}-{style}.png")
    table.write_text("photo,style,output\na.png,b.jpg,./x//a.png\na.png,b.jpg,x/a.png\n")  # the same pair twice
    assert [pair.output for pair in from_csv(table, "{photo}-{style}.png")] == ["x/a.png"]


@pytest.mark.parametrize("photo", ["x" * 245, "\u732b" * 82, "e\U0001f431" * 49])
def test_names_that_are_too_long_are_shortened(photo: str) -> None:
    """Between characters; a hash of the whole names keeps them apart, the same in every run and folder."""
    night = impasto.Style(Path("art/night.png"))
    photos = [Path(f"in/{photo}1.png"), Path(f"in/{photo}2.png")]
    outputs = [pair.output for pair in every(photos, [night], DEFAULT_TEMPLATE)]
    digest = hashlib.sha256(json.dumps([f"{photo}1.png", "night.png"]).encode()).hexdigest()[:8]
    assert outputs[0].endswith(f"-night-{digest}.png")
    assert len(set(outputs)) == 2
    for output in outputs:
        assert photo.startswith(output[: -len("-night-12345678.png")])
        assert 236 < len(output.encode()) <= 240
    moved = every([Path(f"else/{photo}1.png")], [night], DEFAULT_TEMPLATE)
    assert moved[0].output == outputs[0]
    assert every([Path("cat.png")], [night], DEFAULT_TEMPLATE)[0].output == "cat-night.png"


def test_a_mix_with_a_long_name_is_shortened() -> None:
    """The photo's name stays where the styles' are too long."""
    styles = [impasto.Style(Path(f"art/{'s' * 30}{index}.png")) for index in range(16)]
    (pair,) = every([Path("cat.jpg")], styles, DEFAULT_TEMPLATE, mix=True)
    assert pair.output.startswith("cat-sss")
    assert len(pair.output) == 240


def test_a_long_name_that_was_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(impasto.InvalidRequest, match="is longer than 240 bytes; see --name"):
        every([Path("x" * 245 + ".png")], [impasto.Style(Path("s.png"))], "{photo}-{style}.jpg")
    (folder / "pairs.csv").write_text(f"photo,style,output\na.png,b.jpg,{'x' * 245}.png\n")
    with pytest.raises(impasto.InvalidRequest, match="line 2: output .* is longer than 240 bytes"):
        from_csv(folder / "pairs.csv", DEFAULT_TEMPLATE)


def chosen(folder: Path, **files: str) -> list[Pair]:
    """Return a pair whose output is out/x.png, with other files."""
    names = {"photo": "a.png", "style": "b.jpg", **files}
    paths = {name: folder / text for name, text in names.items()}
    style = impasto.Style(paths["style"], mask=paths.get("style_mask"), region=paths.get("style_region"))
    options = {"mask": paths["mask"]} if "mask" in paths else {}
    return [Pair(paths["photo"], (style,), "x.png", options)]


@pytest.mark.parametrize("part", ["photo", "style", "mask", "style_mask", "style_region"])
@pytest.mark.parametrize("link", ["", "input", "output", "folder"])
def test_an_output_that_would_replace_an_input_is_refused(folder: Path, part: str, link: str) -> None:
    """Whichever it is, also where links lead to it; its name is in the error."""
    source = folder / "out/x.png"
    source.write_bytes(b"x")
    if link == "input":
        (folder / "link.png").symlink_to(source)
        check_outputs(chosen(folder), folder / "out")
        with pytest.raises(impasto.InvalidRequest, match=r"x\.png, the output of .* would replace .*link\.png"):
            check_outputs(chosen(folder, **{part: "link.png"}), folder / "out")
        return
    if link == "output":
        source.unlink()
        source.symlink_to(folder / "deep/c.webp")
    if link == "folder":
        (folder / "other").symlink_to(folder / "out")
    name = "deep/c.webp" if link == "output" else "out/x.png"
    with pytest.raises(impasto.InvalidRequest, match=f"would replace .*{name}, which the run reads"):
        check_outputs(chosen(folder, **{part: name}), folder / ("other" if link == "folder" else "out"))


def test_other_files_that_are_read_are_not_replaced_either(folder: Path) -> None:
    """The mask of all pictures, and the initial canvas; nor does the contact sheet replace a photo."""
    check_outputs(chosen(folder), folder / "out", [folder / "deep/c.webp"], sheet="contact-sheet.jpg")
    with pytest.raises(impasto.InvalidRequest, match=r"would replace .*out/x\.png"):
        check_outputs(chosen(folder), folder / "out", [folder / "out/x.png"])
    sheet = chosen(folder, photo="contact-sheet.jpg")
    check_outputs(sheet, folder)
    with pytest.raises(impasto.InvalidRequest, match=r"the contact sheet .* would replace .*contact-sheet\.jpg"):
        check_outputs(sheet, folder, sheet="contact-sheet.jpg")


@pytest.mark.parametrize("name", ["contact-sheet.jpg", "Contact-Sheet.JPG", "manifest.jsonl/a.png"])
def test_names_of_the_run_itself_are_reserved(folder: Path, name: str) -> None:
    """That of the sheet only if there is one."""
    (folder / "pairs.csv").write_text(f"photo,style,output\na.png,b.jpg,{name}\n")
    pairs = from_csv(folder / "pairs.csv", DEFAULT_TEMPLATE)
    with pytest.raises(impasto.InvalidRequest, match="line 2: .* is the name of a file of the run's own; see --name"):
        check_outputs(pairs, folder / "out", sheet="contact-sheet.jpg")
    if "manifest" not in name:
        check_outputs(pairs, folder / "out")


def test_names_are_safe_to_print() -> None:
    """A newline does not split a line of the progress, and nothing rings."""
    pair = Pair(Path("in/a\nb.png"), (impasto.Style(Path("s\x07.png")),), "a\nb-s\x07.png", note="x\x1b")
    assert str(pair) == f"{Path('in')}{os.sep}a\ufffdb.png with s\ufffd.png"
    assert pair.title == "a\ufffdb-s\ufffd.png (x\ufffd)"


def test_pairs_come_from_a_csv_file(folder: Path) -> None:
    """As spreadsheets write it; a line that is there twice counts once."""
    table = folder / "pairs.csv"
    table.write_bytes(b"\xef\xbb\xbfphoto,style,output\r\na.png,b.jpg,\r\nb.jpg,a.png,mine/x.jpg\r\na.png,b.jpg,\r\n")
    assert [(str(pair), pair.output) for pair in from_csv(Path(table.name), "{photo}-{style}.png")] == [
        ("a.png with b.jpg", "a-b.png"),
        ("b.jpg with a.png", "mine/x.jpg"),
    ]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_file_may_have_other_separators(folder: Path, separator: str) -> None:
    """Spreadsheets write semicolons in much of Europe; a comma in a value is then part of it."""
    (folder / "a,b.png").write_bytes(b"x")
    table = folder / "pairs.csv"
    table.write_text("photo;style;output\na,b.png;b.jpg;\nb.jpg;a.png;mine/x.jpg\n".replace(";", separator))
    assert [pair.output for pair in from_csv(table, "{photo}-{style}.png")] == ["a,b-b.png", "mine/x.jpg"]


def test_paths_in_a_csv_file_are_relative_to_its_folder(folder: Path) -> None:
    """Else to the current one; absolute ones are taken as they are, and outputs lie below the batch's folder."""
    table = folder / "deep/pairs.csv"
    table.write_text(f"photo,style,output\nc.webp,../b.jpg,x.png\n{folder / 'a.png'},c.webp,\n")
    first, second = from_csv(Path("deep/pairs.csv"), "{photo}-{style}.png")
    assert (first.photo, first.style_files, first.output) == (Path("deep/c.webp"), [Path("deep/../b.jpg")], "x.png")
    assert (second.photo, second.output) == (folder / "a.png", "a-c.png")
    table.write_text("photo,style\na.png,c.webp\n")
    (mixed,) = from_csv(Path("deep/pairs.csv"), "{photo}-{style}.png")
    assert (mixed.photo, mixed.style_files) == (Path("a.png"), [Path("deep/c.webp")])
    table.write_text("photo,style\nnone.png,c.webp\n")
    expected = r"line 2: photo 'none\.png' does not exist in deep, the folder of the CSV file, or in the current folder"
    with pytest.raises(impasto.InvalidRequest, match=expected):
        from_csv(Path("deep/pairs.csv"), "{photo}-{style}.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_paths_from_a_pipe_are_relative_to_the_current_folder(folder: Path) -> None:
    """A pipe, such as ``<(...)`` of a shell, lies in no folder of pictures."""
    os.mkfifo(folder / "deep/pipe")
    writer = threading.Thread(target=(folder / "deep/pipe").write_text, args=("photo,style\na.png,b.jpg\n",))
    writer.start()
    (pair,) = from_csv(folder / "deep/pipe", "{photo}-{style}.png")
    writer.join()
    assert str(pair) == "a.png with b.jpg"


def test_a_csv_file_may_have_masks(folder: Path) -> None:
    """An empty value is none; one that does not exist is named; the same pair with another mask needs another name."""
    table = folder / "pairs.csv"
    table.write_text("photo,style,mask,style_mask,style_region\na.png,b.jpg,deep/c.webp,,b.jpg\nb.jpg,a.png,,a.png,\n")
    first, second = from_csv(table, "{photo}-{style}.png")
    assert first.options == {"mask": folder / "deep/c.webp"}
    assert first.styles == (impasto.Style(folder / "b.jpg", mask=None, region=folder / "b.jpg"),)
    assert second.options == {}
    assert second.styles[0].mask == folder / "a.png"
    table.write_text("photo,style,mask\na.png,b.jpg,nope.png\n")
    with pytest.raises(impasto.InvalidRequest, match=r"line 2: mask 'nope\.png' does not exist"):
        from_csv(table, "{photo}-{style}.png")
    table.write_text("photo,style,mask\na.png,b.jpg,\na.png,b.jpg,b.jpg\n")
    with pytest.raises(impasto.InvalidRequest, match="would be the output of"):
        from_csv(table, "{photo}-{style}.png")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("photo|style\na|b\n", r"the columns are .*, with commas, semicolons or tabs between; got photo\|style"),
        ("photo;style\na;b\n", "line 2: photo 'a' does not exist"),
        ("photo,style,wieght\na.png,b.jpg,1\n", "the columns are"),
        ("", "got none"),
        ("photo,style\na.png\n", "line 2: has not 2 values"),
        ("photo,style\na.png,b.jpg,c\n", "line 2: has not 2 values"),
        ("photo,style\na.png,b.jpg\nnope.png,b.jpg\n", "line 3: photo 'nope.png' does not exist"),
        ("photo,style,output\na.png,b.jpg,../x.png\n", r"pairs\.csv, line 2: output '\.\./x\.png' must lie below"),
        ("photo,style,output\na.png,b.jpg,\na.png,b.jpg,x.gif\n", r"pairs\.csv, line 3: output 'x\.gif' must end in \.png, "),
        (
            "photo,style,output\na.png,b.jpg,x.png\nb.jpg,a.png,X.png\n",
            r"pairs\.csv, line 3: output 'X\.png' is also that of line 2 \(.*a\.png with .*b\.jpg\)$",
        ),
        (
            "photo,style,output\na.png,b.jpg,b-a.png\nb.jpg,a.png,\n",
            r"pairs\.csv, line 3: output 'b-a\.png', by --name, is also that of line 2 ",
        ),
    ],
)
def test_wrong_lines_of_a_csv_file_are_named(folder: Path, text: str, said: str) -> None:
    (folder / "pairs.csv").write_text(text)
    with pytest.raises(impasto.InvalidRequest, match=said):
        from_csv(folder / "pairs.csv", "{photo}-{style}.png")
    (folder / "pairs.csv").write_bytes(b"photo,style\n\xff\xfe,x\n")
    with pytest.raises(impasto.InvalidRequest, match="UTF-8"):
        from_csv(folder / "pairs.csv", "{photo}-{style}.png")


def test_undecodable_names_are_taken(folder: Path) -> None:
    """Old disks have them."""
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).write_bytes(b"x")
    pair = Pair(Path(name), (impasto.Style(Path("a.png")),), "")
    assert named([pair], "{photo}-{style}.png")[0].output == os.fsdecode(b"caf\xe9-a.png")
