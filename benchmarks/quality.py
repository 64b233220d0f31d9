"""Picture quality of the default preset, by a judge network and by eye. Run by `make bench-quality`.

Paints a fixed set of six contents by six styles with the default preset. Writes contact sheets to docs/build/, and each
picture's distances and run time to benchmarks/results/. Some pairs are also painted by the textbook baseline
(benchmarks/textbook.py: neural-style-pt's objective from the content, 300 iterations, the same filters), and by the default at
several content weights, so that styles are compared at the textbook's content distance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from engine import ROOT, about
from PIL import Image
from textbook import CPU, Textbook

from impasto.cli.stylize import QUALITIES
from impasto.experiments.sheets import Tile, contact_sheet
from impasto_engine import painting
from impasto_engine.devices import keep_freed_memory
from impasto_engine.judge import JUDGE, Judge
from impasto_engine.networks import Network
from impasto_engine.painting import Job, Style
from impasto_engine.parameters import COARSEST_PX, PRESETS, Parameters, fitted, settled
from impasto_engine.weights import load_network

DATA = Path(skimage.__file__).parent / "data"
CONTENTS = {
    "face": DATA / "astronaut.png",
    "room": DATA / "motorcycle_left.png",
    "still": DATA / "coffee.png",
    "animal": DATA / "chelsea.png",
    "graphics": DATA / "logo.png",
    "night": DATA / "rocket.jpg",
}
STYLES = {
    "strokes": ROOT / "samples" / "swirls.jpg",
    "shapes": ROOT / "samples" / "cutouts.jpg",
    "lines": ROOT / "samples" / "etching.jpg",
    "texture": DATA / "gravel.png",
    "mosaic": ROOT / "samples" / "mosaic.jpg",
    "watercolor": ROOT / "samples" / "watercolor.jpg",
}
RACED = (("face", "strokes"), ("night", "mosaic"), ("animal", "lines"), ("still", "watercolor"))
ITERATIONS = 300
RACE_STEPS = 100
"""Steps of this engine against the textbook, which take about a sixth of its time. The default uses fewer."""
CONTENT_FACTORS = (1 / 32, 0.25, 1.0, 4.0)
"""Factors on the default's content weight, for the comparison at equal content distance."""
TILE_PX = 300


def pixels(path: Path, size: int) -> torch.Tensor:
    """Return a picture with the given longer side, transparency composited on white."""
    with Image.open(path) as image:
        opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    scale = size / max(opaque.size)
    sides = (round(opaque.width * scale), round(opaque.height * scale))
    return torch.from_numpy(np.asarray(opaque.resize(sides, Image.Resampling.LANCZOS)).copy())


def make_job(network: Network, content: str, style: str, size: int, preset: str = "default", **changes: Any) -> Job:
    """Return a job for a content and a style of the set."""
    chosen = replace(PRESETS[preset], **{"size_px": size, **changes})
    parameters = fitted(chosen, f"{network.name}:{network.weights.name}", preset, changes)
    wanted = pixels(CONTENTS[content], size)
    return Job(wanted.shape[0], wanted.shape[1], wanted, [Style(pixels(STYLES[style], size))], parameters)


def paint(network: Network, judge: Judge, job: Job) -> tuple[torch.Tensor, dict[str, float]]:
    """Paint with the engine; return the picture and its measurements."""
    began = time.perf_counter()
    picture, step = painting.paint(network, job)
    seconds = time.perf_counter() - began
    return picture, scores(judge, job, picture, seconds, step.evaluations)


def paint_textbook(network: Network, judge: Judge, job: Job, iterations: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Paint with the textbook baseline; return the picture and its measurements."""
    began = time.perf_counter()
    textbook = Textbook(network, job)
    textbook.run(iterations)
    seconds = time.perf_counter() - began
    picture = painting.to_pixels(textbook.canvas.detach()[0])
    return picture, scores(judge, job, picture, seconds, iterations)


def scores(judge: Judge, job: Job, picture: torch.Tensor, seconds: float, evaluations: int) -> dict[str, float]:
    """Return a picture's distances, run time and number of evaluations."""
    assert job.content is not None
    content, style = judge.distances(picture, job.content, job.styles[0].pixels)
    return {"content": round(content, 4), "style": round(style, 4), "seconds": round(seconds, 1), "evaluations": evaluations}


def tile(picture: torch.Tensor, label: str) -> Tile:
    """Return a picture for a contact sheet."""
    return Tile(Image.fromarray(picture.numpy()), label)


def race(
    network: Network, judge: Judge, pair: tuple[str, str], size: int, iterations: int
) -> tuple[dict[str, Any], list[Tile]]:
    """Paint a pair with the textbook and with the default at several content weights; compare at equal content distance."""
    content, style = pair
    picture, theirs = paint_textbook(
        network, judge, make_job(network, content, style, size, "neural-style", init="content"), iterations
    )
    tiles = [tile(picture, f"textbook {theirs['content']:.2f}/{theirs['style']:.3f} {theirs['seconds']:.0f} s")]
    ours = []
    base = make_job(network, content, style, size).parameters.content_weight
    for factor in CONTENT_FACTORS:
        picture, own = paint(
            network, judge, make_job(network, content, style, size, content_weight=base * factor, steps=RACE_STEPS)
        )
        ours.append({"content_weight": base * factor, **own})
        tiles.append(
            tile(picture, f"content {base * factor:g}: {own['content']:.2f}/{own['style']:.3f} {own['seconds']:.0f} s")
        )
    row: dict[str, Any] = {"content": content, "style": style, "textbook": theirs, "ours": ours}
    row["style_at_equal_content"] = equal = interpolated(ours, theirs["content"])
    row["style_over_textbook"] = None if equal is None else round(equal / theirs["style"], 3)
    row["seconds_over_textbook"] = round(statistics.median(own["seconds"] for own in ours) / theirs["seconds"], 3)
    print(
        f"{content} in {style}: {theirs}; ours at equal content {equal}, ratio to the textbook {row['style_over_textbook']}",
        flush=True,
    )
    return row, tiles


def qualities(network: Network, judge: Judge, pair: tuple[str, str], size: int) -> tuple[dict[str, Any], list[Tile]]:
    """Paint a pair with the presets that differ in how far they go, and with the levels of earlier versions."""
    row: dict[str, Any] = {"content": pair[0], "style": pair[1]}
    tiles = []
    before = {"60 steps, 0.4 coarse": (24, 36), "100 steps, 0.4 coarse": (40, 60)} if size >= 2 * COARSEST_PX else {}
    for name, steps in before.items():
        schedule = tuple(zip((size // 2, size), steps, strict=True))
        job = make_job(network, *pair, size, schedule=schedule)
        picture, row[name] = paint(network, judge, replace(job, parameters=settled(job.parameters)))
        tiles.append(tile(picture, f"{name} {row[name]['content']:.2f}/{row[name]['style']:.3f}"))
    for preset in QUALITIES:
        picture, row[preset] = paint(network, judge, make_job(network, *pair, size, preset))
        tiles.append(tile(picture, f"{preset} {row[preset]['content']:.2f}/{row[preset]['style']:.3f}"))
    print(row, flush=True)
    return row, tiles


def interpolated(ours: list[dict[str, float]], content: float) -> float | None:
    """Return the style distance at a content distance, interpolated between content weights; None outside their range.

    If all our pictures are closer to the content than requested, the one farthest from it is used. This never favours us.
    """
    ordered = sorted(ours, key=lambda own: own["content"])
    if content >= ordered[-1]["content"]:
        return ordered[-1]["style"]
    for low, high in itertools.pairwise(ordered):
        if low["content"] <= content <= high["content"]:
            part = (content - low["content"]) / max(high["content"] - low["content"], 1e-9)
            return round(low["style"] + part * (high["style"] - low["style"]), 4)
    return None


def main() -> None:
    """Paint the set, then the races, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--filters", default="auto", help="name of the filters")
    parser.add_argument("--judge", default=JUDGE)
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="iterations of the textbook")
    parser.add_argument("--races", type=int, default=len(RACED), help="number of pairs that the textbook paints")
    parser.add_argument("--no-set", action="store_true", help="run only the races")
    parser.add_argument("--qualities", action="store_true", help="run only the presets draft, good and best on the raced pairs")
    arguments = parser.parse_args()
    keep_freed_memory()
    network, judge = load_network(arguments.filters, CPU), Judge(load_network(arguments.judge, CPU))
    build = ROOT / "docs" / "build"
    build.mkdir(parents=True, exist_ok=True)
    size, name = arguments.size, f"{network.weights.name}-{arguments.size}px"
    report: dict[str, Any] = {**about(network), "judge": arguments.judge, "size_px": size, "preset": vars(Parameters())}
    rows, tiles = [], []
    for content in () if arguments.no_set or arguments.qualities else CONTENTS:
        tiles.append([tile(pixels(CONTENTS[content], TILE_PX), content)])
        for style in STYLES:
            picture, own = paint(network, judge, make_job(network, content, style, size))
            rows.append({"content_picture": content, "style_picture": style, **own})
            tiles[-1].append(tile(picture, f"{style} {own['content']:.2f}/{own['style']:.3f}"))
            print(f"{content:9s} in {style:10s} {own}", flush=True)
    if rows:
        report["set"] = rows
        report["mean"] = {
            key: round(math.fsum(row[key] for row in rows) / len(rows), 4) for key in ("content", "style", "seconds")
        }
        print(report["mean"])
        contact_sheet(tiles, TILE_PX).save(build / f"quality-{name}.png")
    if arguments.qualities:
        found = [qualities(network, judge, pair, size) for pair in RACED]
        report["qualities"] = [row for row, _ in found]
        contact_sheet([sheet for _, sheet in found], TILE_PX).save(build / f"qualities-{name}.png")
    raced = () if arguments.qualities else RACED[: arguments.races]
    races = [race(network, judge, pair, size, arguments.iterations) for pair in raced]
    if races:
        report["races"] = [row for row, _ in races]
        contact_sheet([found for _, found in races], TILE_PX).save(build / f"quality-races-{name}.png")
    target = ROOT / "benchmarks" / "results" / f"quality-{name}.json"
    before = json.loads(target.read_text()) if target.exists() and (arguments.no_set or arguments.qualities) else {}
    target.write_text(json.dumps({**before, **report}, indent=2, default=dict) + "\n")
    print(f"figures: {target}\nsheets:  {build}")


if __name__ == "__main__":
    main()
