"""The report's experiment: the preset `seed` with L-BFGS and with Adam, at equal evaluations. Run by `make docs-pictures`.

Prints the table of docs/lab/report.md and writes each picture to docs/build/.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from engine import CONTENT, ROOT, STYLE, pixels
from PIL import Image
from textbook import CPU

from impasto_engine.devices import keep_freed_memory
from impasto_engine.painting import Job, Style, paint
from impasto_engine.parameters import PRESETS
from impasto_engine.weights import load_network

RUNS = (("lbfgs", 1.0), ("adam", 0.01), ("adam", 0.02), ("adam", 0.05))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=PRESETS["seed"].steps)
    parser.add_argument("--weights", default="auto")
    arguments = parser.parse_args()
    keep_freed_memory()
    network = load_network(arguments.weights, CPU)
    build = ROOT / "docs" / "build"
    build.mkdir(parents=True, exist_ok=True)
    marks = [step for step in (25, 50, 100, 200, 400) if step <= arguments.steps]
    size = PRESETS["seed"].size_px
    width, height = size, round(size * 2 / 3)
    content, style = pixels(CONTENT, width, height), pixels(STYLE, size, round(size * 0.8))
    print("| optimizer | learning rate | " + " | ".join(f"{mark}" for mark in marks) + " |", flush=True)
    print("|---|---|" + "---|" * len(marks))
    for optimizer, rate in RUNS:
        parameters = replace(PRESETS["seed"], optimizer=optimizer, learning_rate=rate, steps=arguments.steps)
        losses: list[float] = []
        job = Job(height, width, content, [Style(style)], parameters)
        picture, _ = paint(network, job, lambda step, seen=losses: seen.append(step.losses.total))
        Image.fromarray(picture.numpy()).save(build / f"seed-{optimizer}-{rate:g}.png")
        best = [min(losses[:mark]) for mark in marks]
        print(f"| {optimizer} | {rate:g} | " + " | ".join(f"{loss:.4g}" for loss in best) + " |", flush=True)


if __name__ == "__main__":
    main()
