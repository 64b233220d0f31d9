"""The report's experiments and `redo`, with the real server and engine, on small pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import impasto
from impasto.experiments import series as experiments
from impasto.experiments.paper import plot
from impasto.experiments.sheets import Tile, contact_sheet
from tests.conftest import ServerProcess, opened
from tests.integration.test_end_to_end import cli

Png = Callable[..., bytes]
SMALL = ("--size", "64", "--steps", "4", "-q")


@pytest.fixture
def files(tmp_path: Path, png: Png) -> Path:
    (tmp_path / "content.png").write_bytes(png(96, 72))
    (tmp_path / "style.png").write_bytes(png(80, 80, seed=1))
    (tmp_path / "other.png").write_bytes(png(80, 80, seed=2))
    mask = Image.new("L", (10, 10))
    mask.paste(255, (0, 0, 5, 10))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def test_a_picture_is_made_again_byte_for_byte(files: Path) -> None:
    """From its own file, across a restart of the server, with every picture it was made from found by its hash."""
    arguments = ["content.png", "style.png", "other.png", "-o", "first.png", *SMALL, "--style-shares", "0.7,0.3"]
    arguments += ["--mask", "mask.png", "--style-region", "mask.png", "--style-region", "", "--color", "matched"]
    arguments += ["--init", "noise", "--seed", "5", "--tv-weight", "0.1", "--style-scale", "0.8"]
    first, second = ServerProcess(), None
    try:
        assert cli("stylize", *arguments, server=first, cwd=files).returncode == 0
        first.stop()
        second = ServerProcess()
        away = files / "away"
        away.mkdir()
        (files / "content.png").rename(away / "renamed.png")
        done = cli("redo", "first.png", "-o", "second.png", "-q", "--from", "away", server=second, cwd=files)
        assert done.returncode == 0, done.stderr
        assert (files / "second.png").read_bytes() == (files / "first.png").read_bytes()
        (away / "renamed.png").unlink()
        done = cli("redo", "first.png", "-o", "third.png", "-q", server=second, cwd=files)
        assert done.returncode == 1
        assert b"not found by their hash: content.png; give their location with --from" in done.stderr
    finally:
        for server in (first, second):
            if server and server.process.poll() is None:
                server.stop()


@pytest.mark.parametrize("name", ["again.jpg", "again.webp"])
def test_other_formats_are_made_again_too(real_server: ServerProcess, files: Path, name: str) -> None:
    """With a schedule of sizes, an exact size and another network."""
    arguments = ["content.png", "style.png", "-o", name, "-q", "--schedule", "96:2,128:2", "--network", "alexnet:random-3"]
    assert cli("stylize", *arguments, "--quality", "80", server=real_server, cwd=files).returncode == 0
    done = cli("redo", name, "-o", f"second-{name}", "-q", server=real_server, cwd=files)
    assert done.returncode == 0, done.stderr
    assert (files / name).read_bytes() == (files / f"second-{name}").read_bytes()


def test_what_impasto_did_not_paint_cannot_be_made_again(real_server: ServerProcess, files: Path) -> None:
    """A photograph, and a picture without its metadata, say nothing."""
    cli("stylize", "content.png", "style.png", "-o", "bare.png", *SMALL, "--no-metadata", server=real_server, cwd=files)
    for name in ("content.png", "bare.png", "text.txt"):
        (files / "text.txt").write_text("hello")
        done = cli("redo", name, "-o", "out.png", server=real_server, cwd=files)
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_layer_is_reconstructed(real_server: ServerProcess, files: Path) -> None:
    """One layer as a picture, the series as a sheet whose PSNR falls with depth."""
    done = cli("reconstruct", "content.png", "--layer", "relu3_1", "-o", "one.png", *SMALL, server=real_server, cwd=files)
    assert done.returncode == 0, done.stderr
    assert opened(files / "one.png") == ("PNG", (64, 48))
    done = cli("redo", "one.png", "-o", "again.png", "-q", server=real_server, cwd=files)
    assert done.returncode == 0, done.stderr
    assert (files / "again.png").read_bytes() == (files / "one.png").read_bytes()
    arguments = ("--series", "-o", "sheet.png", "--size", "64", "--steps", "60", "-q", "--json")
    done = cli("reconstruct", "content.png", *arguments, server=real_server, cwd=files)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["psnr_db"]
    assert list(figures) == list(experiments.RECONSTRUCTED)
    assert figures["relu1_1"] > figures["relu2_1"] > figures["relu4_1"]
    assert opened(files / "sheet.png")[0] == "PNG"


def test_relu1_2_keeps_a_photograph(real_server: ServerProcess, tmp_path: Path) -> None:
    """25 dB and more from the second layer, at 128 px; docs/lab/report.md has the table at 256 px."""
    import skimage

    photograph = Path(skimage.__file__).parent / "data" / "rocket.jpg"
    with impasto.Client(real_server.address) as client:
        result = client.reconstruct(photograph, "relu1_2", size_px=128, steps=100)
    with Image.open(photograph) as original:
        wanted = original.convert("RGB").resize(result.image.size, Image.Resampling.LANCZOS)
    assert experiments.psnr(result.image, wanted) >= 25


def test_textures_from_the_command_line(real_server: ServerProcess, files: Path) -> None:
    """One, and the series over layers with both optimizers."""
    done = cli("texture", "style.png", "-o", "one.png", "--layers", "relu1_1,relu2_1", *SMALL, server=real_server, cwd=files)
    assert done.returncode == 0, done.stderr
    assert opened(files / "one.png") == ("PNG", (64, 64))
    arguments = ("--series", "--layers", "relu1_1,relu2_1", "-o", "sheet.png", *SMALL, "--json")
    done = cli("texture", "style.png", *arguments, server=real_server, cwd=files)
    assert list(json.loads(done.stdout)["losses"]) == [
        "lbfgs, to relu1_1",
        "lbfgs, to relu2_1",
        "adam, to relu1_1",
        "adam, to relu2_1",
    ]


def test_filters_show_what_they_see(real_server: ServerProcess, files: Path) -> None:
    """The strongest, or those named; from another network too; an unknown layer is one line."""
    arguments = ("--layer", "conv1_1", "-o", "seen.png", "--json")
    done = cli("features", "content.png", *arguments, "--filters", "5", server=real_server, cwd=files)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["filters"]) == 5
    assert opened(files / "seen.png")[0] == "PNG"
    done = cli("features", "content.png", *arguments, "--filters", "3,17", server=real_server, cwd=files)
    assert list(json.loads(done.stdout)["filters"]) == ["3", "17"]
    with impasto.Client(real_server.address) as client:
        found = client.features(files / "content.png", "relu2_1", [1, 0], network="squeezenet1_1:random-2", size_px=96)
        strongest = client.features(files / "content.png", "relu2_1", 64).responses
    assert [item.filter for item in found.responses] == [1, 0]
    assert found.network.id == "squeezenet1_1:random-2"
    assert found.responses[0].image.size == (23, 17)
    deviations = [item.deviation for item in strongest]
    assert deviations == sorted(deviations, reverse=True)
    done = cli("features", "content.png", "--layer", "relu9_9", "-o", "x.png", server=real_server, cwd=files)
    assert done.returncode == 1
    assert b"relu9_9" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_the_async_client_does_the_experiments_too(real_server: ServerProcess, files: Path) -> None:
    """The same calls, awaited."""
    async with impasto.AsyncClient(real_server.address) as client:
        reconstructed = await client.reconstruct(files / "content.png", "relu2_1", size_px=48, steps=2)
        painted = await client.texture(files / "style.png", ["relu1_1"], size_px=48, steps=2)
        seen = await client.features(files / "content.png", "conv1_2", [5])
    assert reconstructed.image.size == (48, 36)
    assert painted.job.parameters["style_layers"] == {"relu1_1": 1.0}
    assert seen.responses[0].filter == 5


def test_the_paper_is_written(real_server: ServerProcess, files: Path) -> None:
    """One page with every section; every picture it names is there."""
    arguments = ("content.png", "style.png", "-o", "paper", "--size", "96", "--steps", "3", "-q")
    done = cli("paper", *arguments, "--networks", ",alexnet:random-0", server=real_server, cwd=files)
    assert done.returncode == 0, done.stderr
    page = (files / "paper" / "index.html").read_text()
    for name in ("filters", "reconstructions", "textures", "optimizers", "networks"):
        assert f"src='{name}.png'" in page
        assert opened(files / "paper" / f"{name}.png")[0] == "PNG"
    assert page.count("<h2>") == 5
    assert page.count("<polyline") == 4


def test_a_masked_picture_keeps_what_was_left_out(real_server: ServerProcess, files: Path) -> None:
    """Outside the mask the content within 30 dB, through the whole service."""
    done = cli(
        *(
            "stylize",
            "content.png",
            "style.png",
            "-o",
            "out.png",
            "--mask",
            "mask.png",
            "--size",
            "96",
            "--steps",
            "20",
            "-q",
            "--content-weight",
            "0.01",
        ),
        server=real_server,
        cwd=files,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(files / "out.png") as found, Image.open(files / "content.png") as content:
        outside = (60, 0, 96, 72)
        assert experiments.psnr(found.crop(outside), content.convert("RGB").crop(outside)) >= 30
        inside = (0, 0, 40, 72)
        assert experiments.psnr(found.crop(inside), content.convert("RGB").crop(inside)) < 30


def test_options_that_exclude_each_other_are_told(real_server: ServerProcess, files: Path) -> None:
    """Instead of one of them being left aside in silence; and a filter that is none, and one alone."""
    for arguments, message in (
        (
            ("stylize", "content.png", "style.png", "-o", "a.png", "--schedule", "64:2", "--size", "96"),
            b"--size and --schedule",
        ),
        (
            ("stylize", "content.png", "style.png", "-o", "a.png", "--schedule", "64:2", "--steps", "9"),
            b"--steps and --schedule",
        ),
        (("texture", "style.png", "-o", "a.png", "--series", "--optimizer", "adam"), b"both optimizers"),
        (("features", "content.png", "--layer", "conv1_1", "-o", "a.png", "--filters", "-1"), b"numbers start at 0"),
        (("features", "content.png", "--layer", "conv1_1", "-o", "a.png", "--filters", "0"), b"at least one"),
    ):
        done = cli(*arguments, server=real_server, cwd=files)
        assert done.returncode == 2
        assert message in done.stderr
    arguments = ("features", "content.png", "--layer", "conv1_1", "-o", "a.png", "--filters", "3,", "--json")
    assert list(json.loads(cli(*arguments, server=real_server, cwd=files).stdout)["filters"]) == ["3"]


def test_series_follow_the_network(real_server: ServerProcess, files: Path) -> None:
    """Layers are the network's own."""
    small = ("--size", "96", "--steps", "2", "-q", "--json", "--network", "alexnet:random-1")
    done = cli("reconstruct", "content.png", "--series", "-o", "a.png", *small, server=real_server, cwd=files)
    assert list(json.loads(done.stdout)["psnr_db"]) == ["relu1_1", "relu2_1", "relu3_1", "relu3_2", "relu3_3"]
    done = cli("texture", "style.png", "--series", "-o", "a.png", *small, server=real_server, cwd=files)
    assert len(json.loads(done.stdout)["losses"]) == 6


def test_contact_sheets_show_every_tile() -> None:
    """In rows, each fitted into its square."""
    tiles = [Tile(Image.new("RGB", (40, 20), "red"), "one"), Tile(Image.new("L", (10, 30), 90), "two\nlines")]
    sheet = contact_sheet([tiles, tiles[:1]], 64)
    assert sheet.width == 2 * 72 + 8
    assert sheet.getpixel((8 + 32, 8 + 32)) == (255, 0, 0)
    assert sheet.getpixel((8 + 72 + 32, 8 + 32)) == (90, 90, 90)


def test_plots_bear_odd_losses() -> None:
    """None, one, zero and equal ones."""
    assert plot({}) == ""
    for losses in ((1.0,), (2.0, 2.0), (1.0, 0.0, 0.1)):
        assert plot({"a<b": losses}).count("a&lt;b") == 1
