"""What one evaluation costs over a bare pass, and how soon the textbook's loss is reached. `make bench` runs it.

Timings on shared machines drift, so everything that is compared runs interleaved in this one process: evaluation by
evaluation for the first table, slices of 20 evaluations for the second. Losses are scored in float32 outside the clock.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from PIL import Image
from torch.nn import functional as F

from impasto_engine import painting
from impasto_engine.batch import RunningBatch
from impasto_engine.devices import auto_precision, describe, keep_freed_memory
from impasto_engine.networks import Network, empty_vgg16
from impasto_engine.objective import StackedObjectives
from impasto_engine.painting import Job, Style
from impasto_engine.parameters import Parameters
from impasto_engine.weights import load_network

ROOT = Path(__file__).parents[1]
CONTENT = Path(skimage.__file__).parent / "data" / "rocket.jpg"
STYLE = ROOT / "samples" / "embers.jpg"
SLICE = 20
CPU = torch.device("cpu")


def pixels(path: Path, width: int, height: int) -> torch.Tensor:
    """Return a picture of exactly this size."""
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(resized).copy())


def make_job(size: int, **changes: Any) -> Job:
    """Return a square job with the default preset."""
    parameters = replace(Parameters(), size_px=size, **changes)
    return Job(size, size, pixels(CONTENT, size, size), [Style(pixels(STYLE, size, size))], parameters)


def evaluation_cost(network: Network, size: int, rounds: int) -> list[dict[str, Any]]:
    """Compare an evaluation with a bare forward and backward pass of the same trunk and arithmetic."""
    rows = []
    job = make_job(size)
    objectives = StackedObjectives([painting.objective(network, job)], network)
    canvas = painting.first_canvas(job, CPU)
    for precision in ("float32", auto_precision(CPU)):
        filters = network._resident(precision)
        layers = [(network._kinds[index], filters.get(index)) for index in range(network.depth("relu5_1") + 1)]

        def bare() -> torch.Tensor:
            leaf = canvas.detach().requires_grad_()
            x = leaf if precision == "float32" else leaf.to(torch.bfloat16)
            for kind, weights in layers:
                if weights is not None:
                    x = F.conv2d(x, *weights, padding=1)
                else:
                    x = F.relu(x, inplace=True) if kind is torch.nn.ReLU else F.avg_pool2d(x, 2)
            return torch.autograd.grad(x.sum(), leaf)[0]

        def ours() -> None:
            objectives.evaluate(network, canvas, "average", precision)

        clock(bare), clock(ours)
        pairs = [(clock(ours), clock(bare)) for _ in range(rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        ms = [statistics.median(column) * 1e3 for column in zip(*pairs, strict=True)]
        rows.append({"precision": precision, "size_px": size, "ours_ms": ms[0], "bare_ms": ms[1], "ratio": ratio})
        print(f"{size} px {precision:9s} evaluation {ms[0]:6.1f} ms, bare pass {ms[1]:6.1f} ms, ratio {ratio:.3f}")
        if precision == auto_precision(CPU) == "float32":
            break
    return rows


def clock(work: Callable[[], Any]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Textbook:
    """What a tutorial would write: plain autograd, float32, torch.optim.LBFGS with its defaults and no stopping tests.

    The loss is multiplied so that the first gradient has an absolute sum of 1000: torch's absolute tests would otherwise
    not let it move at all.
    """

    def __init__(self, network: Network, job: Job) -> None:
        model = empty_vgg16()
        filters = network._filters["float32"]
        for index, module in enumerate(model):
            if index in filters:
                module.weight.data, module.bias.data = filters[index]
        self.model = model[: network.depth("relu5_1") + 1].requires_grad_(False)
        self.names = network.layers
        self.mean = network._mean
        self.job, self.parameters = job, job.parameters
        self.content = self._features(painting.to_canvas(job.content, CPU))["relu4_2"]
        style = self._features(painting.to_canvas(job.styles[0].pixels, CPU))
        self.grams = {layer: self._gram(style[layer]) for layer in self.parameters.style_layers}
        self.canvas = painting.first_canvas(job, CPU).requires_grad_()
        self.scale = 1.0
        gradient = torch.autograd.grad(self._loss(), self.canvas)[0]
        self.scale = 1e3 / float(gradient.abs().sum())
        self.optimizer = torch.optim.LBFGS(
            [self.canvas], lr=1, max_iter=SLICE, max_eval=10**9, history_size=100, tolerance_grad=-1, tolerance_change=-1
        )

    def _features(self, canvas: torch.Tensor) -> dict[str, torch.Tensor]:
        x, seen = canvas - self.mean, {}
        for name, module in zip(self.names, self.model, strict=False):
            x = F.avg_pool2d(x, 2) if name.startswith("pool") else F.relu(x) if name.startswith("relu") else module(x)
            seen[name] = x
        return seen

    def _gram(self, features: torch.Tensor) -> torch.Tensor:
        flat = features.flatten(2)[0]
        return flat @ flat.T / flat.shape[1]

    def _loss(self) -> torch.Tensor:
        seen = self._features(self.canvas)
        loss = self.parameters.content_weight * F.mse_loss(seen["relu4_2"], self.content) / self.content.square().mean()
        for layer, wanted in self.grams.items():
            error = F.mse_loss(self._gram(seen[layer]), wanted) / wanted.square().mean()
            loss = loss + self.parameters.style_layers[layer] * error
        variation = self.canvas.diff(dim=2).square().sum() + self.canvas.diff(dim=3).square().sum()
        return (loss + self.parameters.total_variation_weight * variation / self.canvas.numel()) * self.scale

    def run(self) -> None:
        """Do a slice of iterations."""

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self._loss()
            loss.backward()
            return loss

        self.optimizer.step(closure)


def race(network: Network, size: int, init: str, evaluations: int) -> dict[str, Any]:
    """Run the textbook and ours in turns; return what each had reached when."""
    job = make_job(size, init=init, steps=evaluations)
    scorer = StackedObjectives([painting.objective(network, job)], network)

    def score(canvas: torch.Tensor) -> float:
        return float(scorer.evaluate(network, canvas.detach(), "average", "float32").terms.sum())

    textbook = Textbook(network, job)
    batch = RunningBatch(network, job.key(CPU))
    painting.join(batch, "job", job)
    theirs, ours = [(0, 0.0, score(textbook.canvas))], [(0, 0.0, score(textbook.canvas))]
    for done in range(SLICE, evaluations + 1, SLICE):
        seconds = clock(textbook.run)
        theirs.append((done, theirs[-1][1] + seconds, score(textbook.canvas)))
        seconds = clock(lambda: [batch.step() for _ in range(SLICE)])
        ours.append((done, ours[-1][1] + seconds, score(batch.canvas("job")[None])))
    result: dict[str, Any] = {"size_px": size, "init": init, "precision": batch.key.precision}
    result["textbook"] = [{"evaluations": e, "seconds": round(s, 2), "loss": loss} for e, s, loss in theirs]
    result["ours"] = [{"evaluations": e, "seconds": round(s, 2), "loss": loss} for e, s, loss in ours]
    goal = min(loss for *_, loss in theirs)
    print(f"{size} px from {init}: the textbook ends at {goal:.5f} after {evaluations} evaluations, {theirs[-1][1]:.0f} s")
    for name, slack in (("its loss", 1.0), ("within 2 %", 1.02), ("within 5 %", 1.05)):
        own, its = reach(ours, goal * slack), reach(theirs, goal * slack)
        result[name] = {"ours": own, "textbook": its, "seconds_over_textbook_whole": own[1] / theirs[-1][1] if own else None}
        if own:
            share = own[1] / theirs[-1][1]
            print(f"  {name:10s}: {own[0]:.0f} evaluations, {own[1]:.1f} s: {share:.2f} of the textbook's seconds")
        else:
            print(f"  {name:10s}: not reached in {evaluations} evaluations; ended at {ours[-1][2] / goal:.4f} of it")
    return result


def reach(trace: list[tuple[int, float, float]], goal: float) -> tuple[float, float] | None:
    """Return evaluations and seconds at which a trace comes down to a loss, between its points by log loss."""
    for (e0, s0, l0), (e1, s1, l1) in itertools.pairwise(trace):
        if l1 <= goal:
            part = 1.0 if l0 <= l1 else (np.log(l0) - np.log(max(goal, l1))) / (np.log(l0) - np.log(l1))
            part = float(np.clip(part, 0, 1))
            return e0 + part * (e1 - e0), s0 + part * (s1 - s0)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=["cost", "race"])
    arguments = parser.parse_args()
    keep_freed_memory()
    network = load_network("builtin", CPU)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S607
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "device": describe(CPU),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    print(report)
    if arguments.only != "race":
        report["evaluation_cost"] = evaluation_cost(network, arguments.size, arguments.rounds)
    if arguments.only != "cost":
        report["race"] = [race(network, arguments.size, init, arguments.evaluations) for init in ("content", "noise")]
        target = ROOT / "benchmarks" / "results" / f"engine-{arguments.size}px.json"
        target.write_text(json.dumps(report, indent=1) + "\n")
        print(target)


if __name__ == "__main__":
    main()
