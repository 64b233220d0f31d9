"""``impasto grid``, ``show`` and ``redo`` with changes, against the service with a worker that counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from impasto.cli.main import cli
from impasto.experiments.sheets import labelled_grid
from impasto.v1 import style_transfer_pb2 as pb
from tests.integration.contract.test_labels import command
from tests.unit.server.fakes import FakeWorker

FAST = ["--size", "48", "--steps", "3", "--levels", "1"]


@pytest.fixture
def files(tmp_path: Path, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "p.png").write_bytes(png())
    (tmp_path / "s.png").write_bytes(png(seed=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_a_grid_keeps_each_cell_and_says_how_it_was_painted(service: Any, files: Path) -> None:
    """Across and down; a second run paints nothing."""
    async with service() as running:
        varied = ["--vary", "content_weight=0.02,0.1,0.5", "--vary", "--style-scale=0.5,1"]
        arguments = ["grid", "p.png", "s.png", *varied, "-o", "sheet.png", *FAST, "--json"]
        done = await command(running.running.address, *arguments)
        assert done.exit_code == 0, done.output
        values = json.loads((files / "sheet.json").read_text())
        assert json.loads(done.stdout) == values
        assert values["axes"] == [
            {"option": "content_weight", "values": ["0.02", "0.1", "0.5"]},
            {"option": "style_scale", "values": ["0.5", "1"]},
        ]
        assert len(values["cells"]) == 6
        for cell in values["cells"]:
            assert cell["parameters"]["content_weight"] == float(cell["varied"]["content_weight"])
            assert cell["parameters"]["style_scale"] == float(cell["varied"]["style_scale"])
            assert (files / "sheet-cells" / cell["output"]).is_file()
        assert [(cell["row"], cell["column"]) for cell in values["cells"]] == [(r, c) for r in range(2) for c in range(3)]
        with Image.open("sheet.png") as sheet:
            assert sheet.width > 3 * 256
        again = await command(running.running.address, *arguments[:-1])
        assert again.exit_code == 0
        assert again.stderr == "sheet.png: 0 of 6 pictures painted, 6 kept from an earlier run; they are in sheet-cells\n"
        assert len((await running.stub.ListJobs(pb.ListJobsRequest())).jobs) == 6


async def test_invalid_values_do_not_end_a_grid(service: Any, files: Path) -> None:
    """However many come first: they are fields without a picture."""
    async with service() as running:
        arguments = ["grid", "p.png", "s.png", "--vary", "style_scale=-1,-2,-3,-4,-5,1", "-o", "s.jpg", *FAST]
        done = await command(running.running.address, *arguments)
        assert done.exit_code == 1
        assert "s.jpg: 1 of 6 pictures painted, 5 failed" in done.stderr, done.output


@pytest.mark.parametrize(
    ("defaults", "vary", "parameter", "expected"),
    [
        ("width_px = 64\nheight_px = 48", "size=40,56", "size_px", [40, 56]),
        ("schedule = '32:2,64:2'", "steps=2,5", "steps", [2, 5]),
        ("steps = 4", "preset=draft,best", "steps", [30, 160]),
        ("steps = 4", "steps=2,5", "steps", [2, 5]),
        ("steps = 4\nsize_px = 64", "schedule=32:2;40:3", "size_px", [32, 40]),
    ],
)
async def test_what_varies_takes_precedence_over_a_profile(
    service: Any, files: Path, monkeypatch: pytest.MonkeyPatch, defaults: str, vary: str, parameter: str, expected: list[int]
) -> None:
    """Over what contradicts it too, as an option of the command line does."""
    (files / "client.toml").write_text(f"[profiles.studio.defaults]\n{defaults}\n")
    monkeypatch.setenv("IMPASTO_CLIENT_CONFIG", str(files / "client.toml"))
    async with service(FakeWorker(step_s=0.0)) as running:
        arguments = ["--profile", "studio", "grid", "p.png", "s.png", "--vary", vary, "-o", "s.png.jpg", "--json"]
        done = await command(running.running.address, *arguments)
        assert done.exit_code == 0, done.output
        cells = json.loads(done.stdout)["cells"]
        assert [cell["parameters"][parameter] for cell in cells] == expected
        for cell in cells:
            assert max(cell["width_px"], cell["height_px"]) == cell["parameters"]["size_px"]


def test_a_grid_does_not_replace_its_photo(files: Path) -> None:
    """Which may be a cell of an earlier one."""
    (files / "o-cells").mkdir()
    (files / "p.png").rename(files / "o-cells/01-02.png")
    arguments = ["grid", "o-cells/01-02.png", "s.png", "--vary", "seed=1,2", "-o", "o.png"]
    done = CliRunner(env={"IMPASTO_SERVER": "127.0.0.1:1"}).invoke(cli, arguments)
    assert "would replace o-cells/01-02.png" in str(done.exception)
    assert not (files / "o-cells/manifest.jsonl").exists()


async def test_a_grid_may_mix_styles_with_masks(service: Any, files: Path, png: Callable[..., bytes]) -> None:
    """The sheet's file says which; another mask paints the cells anew."""
    (files / "m.png").write_bytes(png(seed=2))
    arguments = ["grid", "p.png", "s.png", "p.png", "--vary", "seed=1,2", "-o", "sheet.png", *FAST, "--json"]
    arguments += ["--style-shares", "0.7,0.3", "--style-mask", "", "--style-mask", "m.png", "--mask", "m.png"]
    async with service() as running:
        done = await command(running.running.address, *arguments)
        assert done.exit_code == 0, done.output
        values = json.loads(done.stdout)
        assert values["styles"] == [
            {"path": "s.png", "weight": 0.7},
            {"path": "p.png", "weight": 0.3, "mask": {"path": "m.png"}},
        ]
        assert values["mask"] == {"path": "m.png"}
        jobs = (await running.stub.ListJobs(pb.ListJobsRequest())).jobs
        fields = ["content", "mask", "styles[0].image", "styles[1].image", "styles[1].mask"]
        assert [sorted(item.field for item in job.inputs) for job in jobs] == [fields] * 2
        (files / "m.png").write_bytes(png(seed=3))
        assert (await command(running.running.address, *arguments)).exit_code == 0
        assert len((await running.stub.ListJobs(pb.ListJobsRequest())).jobs) == 4


async def test_a_picture_is_made_again_with_other_shares_masks_and_previews(
    service: Any, files: Path, png: Callable[..., bytes]
) -> None:
    """What is not given stays as it was recorded; previews alone change nothing."""
    (files / "m.png").write_bytes(png(seed=2))
    async with service() as running:
        address = running.running.address
        styles = ["s.png", "p.png", "--style-shares", "0.7,0.3", "--style-mask", "m.png", "--style-mask", ""]
        done = await command(address, "stylize", "p.png", *styles, "-o", "o.png", *FAST, "-q")
        assert done.exit_code == 0, done.output
        wrong = await command(address, "redo", "o.png", "-o", "again.png", "--style-shares", "1")
        assert "give one value for each of the 2 styles, not 1" in wrong.output
        changes = ["--style-shares", "1,2", "--style-region", "", "--style-region", "m.png"]
        done = await command(address, "redo", "o.png", "-o", "again.png", *changes, "-q")
        assert done.exit_code == 0, done.output
        shown = json.loads((await command(address, "show", "again.png", "--json")).stdout)
        assert shown["style_weights"] == [1.0, 2.0]
        roles = {"content", "styles[0].image", "styles[0].mask", "styles[1].image", "styles[1].region"}
        assert {source["role"] for source in shown["sources"]} == roles
        done = await command(
            address, "redo", "again.png", "-o", "third.png", "--preview-dir", "seen", "--preview-every", "1", "-q"
        )
        assert done.exit_code == 0, done.output
        assert (files / "seen/step-00003.jpg").is_file()
        third = json.loads((await command(address, "show", "third.png", "--json")).stdout)
        assert third == shown


@pytest.mark.parametrize(
    ("option", "look"),
    [
        ("--quality", {"color": "luminance", "content_weight": 0.5}),
        ("--preset", {"color": "style", "content_weight": 0.05}),
    ],
)
async def test_redo_with_a_quality_changes_only_how_far_the_painting_goes(
    service: Any, files: Path, option: str, look: Mapping[str, Any]
) -> None:
    """A preset replaces the look of the picture too."""
    async with service(FakeWorker(step_s=0.0)) as running:
        address = running.running.address
        options = ["--color", "luminance", "--content-weight", "0.5", "--size", "32", "--quality", "draft"]
        assert (await command(address, "stylize", "p.png", "s.png", "-o", "o.png", *options, "-q")).exit_code == 0
        done = await command(address, "redo", "o.png", "-o", "again.png", option, "best", "-q")
        assert done.exit_code == 0, done.output
        shown = json.loads((await command(address, "show", "again.png", "--json")).stdout)["parameters"]
        assert (shown["steps"], shown["tolerance"]) == (160, 0.002)
        assert {name: shown[name] for name in look} == look


async def test_layers_and_words_can_vary_and_a_cell_may_fail(service: Any, files: Path) -> None:
    """Semicolons separate values with commas. The failed cell is grey and has its error; the exit code is 1."""
    async with service() as running:
        done = await command(
            running.running.address,
            *["grid", "p.png", "s.png", "--vary", "style_layers=relu1_1,relu2_1=0.5;relu1_1;nope", "-o", "s.jpg", *FAST],
        )
        assert done.exit_code == 1, done.output
        cells = json.loads((files / "s.json").read_text())["cells"]
        assert cells[0]["parameters"]["style_layers"] == {"relu1_1": 1.0, "relu2_1": 0.5}
        assert cells[1]["error"] is None
        assert "nope" in cells[2]["error"]["message"]
        assert "failed: 01-03.png (style_layers = nope): " in done.stderr
        assert "s.jpg: 2 of 3 pictures painted, 1 failed; they are in s-cells" in done.stderr
        assert "  01-02.png (style_layers = relu1_1)  loss " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--vary", "nonsense=1,2"], "'nonsense' is not an option that can vary"),
        (["--vary", "priority=1,2"], "'priority' is not an option that can vary"),
        (["--vary", "content_weight"], "has no values"),
        (["--vary", "content_weight=,"], "has no values"),
        (["--vary", "content_weight=1,x"], "'x' is not a valid float"),
        (["--vary", "optimizer=adam,sgd"], "'sgd' is not one of"),
        (["--vary", "seed=1,1"], "has a value twice"),
        (["--vary", "seed=1,2", "--vary", "seed=3,4"], "seed is on both axes"),
        (["--vary", "seed=1", "--vary", "steps=2", "--vary", "history=3"], "once or twice"),
        (["--vary", "seed=1,2", "--seed", "3"], "seed is given and varies"),
        (["--vary", "steps=1,2", "--schedule", "32:2"], "--steps and --schedule are mutually exclusive"),
        (["--vary", "schedule=32:2;40:2", "--vary", "size=32,40"], "--size and --schedule are mutually exclusive"),
        (["--vary", "seed=" + ",".join(map(str, range(401)))], "at most 400"),
    ],
)
def test_axes_that_make_no_sheet_are_refused_before_anything_is_sent(files: Path, arguments: list[str], text: str) -> None:
    done = CliRunner(env={"IMPASTO_SERVER": "127.0.0.1:1"}).invoke(cli, ["grid", "p.png", "s.png", "-o", "o.png", *arguments])
    assert text in done.output + str(done.exception)


async def test_a_picture_is_made_again_with_changes_and_shown(service: Any, files: Path) -> None:
    """The rest stays as it was recorded."""
    async with service() as running:
        address = running.running.address
        done = await command(address, "stylize", "p.png", "s.png", "-o", "o.png", *FAST, "--content-weight", "0.7", "-q")
        assert done.exit_code == 0, done.output
        shown = json.loads((await command(address, "show", "o.png", "--json")).stdout)
        assert shown["parameters"]["content_weight"] == 0.7
        assert [source["name"] for source in shown["sources"]] == ["p.png", "s.png"]
        done = await command(address, "redo", "o.png", "-o", "again.png", "--size", "64", "--label", "a=b", "-q")
        assert done.exit_code == 0, done.output
        again = json.loads((await command(address, "show", "again.png", "--json")).stdout)
        assert again["parameters"] == {**shown["parameters"], "size_px": 64}
        text = (await command(address, "show", "o.png")).stdout
        assert ["content_weight", "0.7"] in [line.split() for line in text.splitlines()]
        refused = await command(address, "show", "p.png")
        assert "has no metadata on how it was made" in str(refused.exception)


def test_labels_and_captions_are_drawn_within_the_sheet() -> None:
    """Long captions are cut; a cell without a picture is grey."""
    red = Image.new("RGB", (64, 32), "red")
    sheet = labelled_grid([[(red, "x" * 500), (None, "failed")]], ["a = 1", "a = 2"], ["b = 1"], 64)
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or ()}
    assert {(255, 0, 0), (211, 211, 211), (255, 255, 255)} <= colours
    assert all(sheet.getpixel((sheet.width - 1, y)) == (255, 255, 255) for y in range(sheet.height))
