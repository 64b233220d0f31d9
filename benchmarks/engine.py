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
from impasto_engine.networks import Network, random_trunk
from impasto_engine.objective import StackedObjectives
from impasto_engine.painting import Job, Style
from impasto_engine.parameters import FIRST_LAYERS, Parameters
from impasto_engine.weights import load_network

ROOT = Path(__file__).parents[1]
CONTENT = Path(skimage.__file__).parent / "data" / "rocket.jpg"
STYLE = ROOT / "samples" / "embers.jpg"
SLICE = 20
CONTENT_WEIGHT = 0.02
"""What the default was when the first figures were taken: kept, so that they can be compared."""
CPU = torch.device("cpu")


def pixels(path: Path, width: int, height: int) -> torch.Tensor:
    """Return a picture of exactly this size."""
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(resized).copy())


def make_job(size: int, **changes: Any) -> Job:
    """Return a square job with the default preset, but for the content's weight."""
    parameters = replace(Parameters(), **{"size_px": size, "content_weight": CONTENT_WEIGHT, **changes})
    return Job(size, size, pixels(CONTENT, size, size), [Style(pixels(STYLE, size, size))], parameters)


def evaluation_cost(network: Network, size: int, rounds: int) -> list[dict[str, Any]]:
    """Compare an evaluation with a bare forward and backward pass of the same trunk and arithmetic."""
    rows = []
    job = make_job(size)
    objectives = StackedObjectives([painting.objective(network, job)], network)
    canvas = painting.first_canvas(job, CPU)
    for precision in ("float32", auto_precision(CPU)):
        filters = network._resident(precision)
        layers = [(type(network._modules[index]), filters.get(index)) for index in range(network.depth("relu5_1") + 1)]

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

    def __init__(self, network: Network, job: Job, noise: float | None = None) -> None:
        model = random_trunk("vgg16", 0)
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
        first = painting.first_canvas(job, CPU)
        if noise is not None:
            first = network._mean + noise * torch.randn_like(first)
        self.canvas = first.requires_grad_()
        self.scale = 1.0
        gradient = torch.autograd.grad(self._loss(), self.canvas)[0]
        self.scale = 1e3 / float(gradient.abs().sum())
        self.optimizer = torch.optim.LBFGS(
            [self.canvas], lr=1, max_iter=SLICE, max_eval=10**9, history_size=100, tolerance_grad=-1, tolerance_change=-1
        )

    def _features(self, canvas: torch.Tensor) -> dict[str, torch.Tensor]:
        x, seen = canvas - self.mean, {}
        for name, module in zip(self.names, self.model, strict=False):
            pool = F.avg_pool2d if self.parameters.pooling == "average" else F.max_pool2d
            x = pool(x, 2) if name.startswith("pool") else F.relu(x) if name.startswith("relu") else module(x)
            seen[name] = x
        return seen

    def _gram(self, features: torch.Tensor) -> torch.Tensor:
        flat = features.flatten(2)[0]
        return flat @ flat.T / flat.shape[1]

    def _loss(self) -> torch.Tensor:
        seen, own = self._features(self.canvas), self.parameters
        by_target = own.normalization == "target"
        factor = 1 / self.content.square().sum() if by_target else 0.5
        loss = own.content_weight * factor * (seen["relu4_2"] - self.content).square().sum()
        for layer, wanted in self.grams.items():
            factor = 1 / wanted.square().sum() if by_target else 0.25 / wanted.numel()
            error = (self._gram(seen[layer]) - wanted).square().sum()
            loss = loss + own.style_weight * own.style_layers[layer] * factor * error
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


class Ours:
    """A job of this engine, to be stepped through its levels in slices."""

    def __init__(self, network: Network, job: Job) -> None:
        self._network = network
        self._levels = painting.levels(job)
        self.batch = RunningBatch(network, self._levels[0].job.key(CPU))
        painting.join(self.batch, "job", self._levels[0])

    def run(self, steps: int = SLICE) -> None:
        """Do so many steps."""
        for _ in range(steps):
            ((_, step),) = self.batch.step()
            if step.step == self._levels[0].last and len(self._levels) > 1:
                level, following = self._levels[:2]
                finer = RunningBatch(self._network, following.job.key(CPU))
                painting.climb(self.batch, finer, "job", level, following)
                self.batch = finer
                del self._levels[0]

    @property
    def canvas(self) -> torch.Tensor:
        """The canvas as it stands, at full size."""
        return self._enlarged(len(self._levels))

    def _enlarged(self, count: int) -> torch.Tensor:
        canvas = self.batch.canvas("job")[None]
        for before, after in itertools.pairwise(self._levels[:count]):
            canvas = painting.next_canvas(canvas[0], before.job, after.job, CPU)
        return canvas


def neural_style(size: int) -> Job:
    """Return a job with the objective of neural-style-pt: content 5 and style 100 of mean squares, no normalizers.

    Its Gram matrices are divided by the channels too, its means are taken over all values; both are put into the weights.
    Its total variation of 1e-3 is left out on both sides: it is a sum of absolute values, which this engine does not have.
    """
    channels = dict(zip(FIRST_LAYERS, (64, 128, 256, 512, 512), strict=True))
    return make_job(
        size,
        init="noise",
        normalization="gatys",
        pooling="max",
        content_weight=2 * 5 / (512 * (size // 8) ** 2),
        style_weight=1.0,
        style_layers={layer: 4 * 100 / count**2 for layer, count in channels.items()},
        total_variation_weight=0.0,
    )


def race(network: Network, job: Job, evaluations: int, our_evaluations: int, noise: float | None = None) -> dict[str, Any]:
    """Run the textbook and ours in turns; return what each had reached when. Ours may stop earlier, to save time."""
    size, init = job.width, job.parameters.init
    job = replace(job, parameters=replace(job.parameters, steps=our_evaluations))
    scorer = StackedObjectives([painting.objective(network, job)], network)

    def score(canvas: torch.Tensor) -> float:
        return float(scorer.evaluate(network, canvas.detach(), job.parameters.pooling, "float32").terms.sum())

    textbook = Textbook(network, job, noise)
    own = Ours(network, job)
    theirs, ours = [(0, 0.0, score(textbook.canvas))], [(0, 0.0, score(own.canvas))]
    for done in range(SLICE, evaluations + 1, SLICE):
        seconds = clock(textbook.run)
        theirs.append((done, theirs[-1][1] + seconds, score(textbook.canvas)))
        if done > our_evaluations:
            continue
        seconds = clock(own.run)
        ours.append((done, ours[-1][1] + seconds, score(own.canvas)))
    result: dict[str, Any] = {"size_px": size, "init": init, "precision": own.batch.key.precision}
    result["textbook"] = [{"evaluations": e, "seconds": round(s, 2), "loss": loss} for e, s, loss in theirs]
    result["ours"] = [{"evaluations": e, "seconds": round(s, 2), "loss": loss} for e, s, loss in ours]
    goal = min(loss for *_, loss in theirs)
    print(f"{size} px from {init}: the textbook ends at {goal:.6g} after {evaluations} evaluations, {theirs[-1][1]:.0f} s")
    for name, slack in (("its loss", 1.0), ("within 2 %", 1.02), ("within 5 %", 1.05)):
        here, there = reach(ours, goal * slack), reach(theirs, goal * slack)
        share = here[1] / theirs[-1][1] if here else None
        result[name] = {"ours": here, "textbook": there, "seconds_over_textbook_whole": share}
        if here:
            print(f"  {name:10s}: {here[0]:.0f} evaluations, {here[1]:.1f} s: {share:.2f} of the textbook's seconds")
        else:
            print(f"  {name:10s}: not reached in {ours[-1][0]} evaluations; ended at {ours[-1][2] / goal:.4f} of it")
    return result


def against_adam(network: Network, size: int, evaluations: int) -> list[dict[str, Any]]:
    """Run the default preset's L-BFGS, and Adam at several learning rates, for the same evaluations from the content."""
    rows = []
    for optimizer, rate in (("lbfgs", 1.0), ("adam", 0.01), ("adam", 0.02), ("adam", 0.05)):
        job = make_job(size, optimizer=optimizer, learning_rate=rate, steps=evaluations)
        scorer = StackedObjectives([painting.objective(network, job)], network)
        own = Ours(network, job)
        trace = {}
        for done in range(1, evaluations + 1):
            own.run(1)
            if done in (20, 50, 100, 200, 300):
                trace[done] = float(scorer.evaluate(network, own.canvas, job.parameters.pooling, "float32").terms.sum())
        rows.append({"optimizer": optimizer, "learning_rate": rate, "loss_after_evaluations": trace})
        print(f"{optimizer:5s} {rate:4g}: " + ", ".join(f"{loss:.5f} after {done}" for done, loss in trace.items()))
    return rows


def reach(trace: list[tuple[int, float, float]], goal: float) -> tuple[float, float] | None:
    """Return evaluations and seconds at which a trace comes down to a loss, between its points by log loss."""
    for (e0, s0, l0), (e1, s1, l1) in itertools.pairwise(trace):
        if l1 <= goal:
            part = 1.0 if l0 <= l1 else (np.log(l0) - np.log(max(goal, l1))) / (np.log(l0) - np.log(l1))
            part = float(np.clip(part, 0, 1))
            return e0 + part * (e1 - e0), s0 + part * (s1 - s0)
    return None


def about() -> dict[str, Any]:
    """Return when, on what and with what figures were taken."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S607
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "device": describe(CPU),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--our-evaluations", type=int, default=200, help="after so many of ours only the textbook goes on")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--inits", nargs="+", default=["content", "noise"])
    parser.add_argument("--only", choices=["cost", "race", "peers"])
    arguments = parser.parse_args()
    keep_freed_memory()
    network = load_network("builtin", CPU)
    report = about()
    print(report)
    if arguments.only in (None, "cost"):
        report["evaluation_cost"] = evaluation_cost(network, arguments.size, arguments.rounds)
    size, evaluations, own = arguments.size, arguments.evaluations, arguments.our_evaluations
    if arguments.only in (None, "race"):
        report["race"] = [race(network, make_job(size, init=init), evaluations, own) for init in arguments.inits]
    if arguments.only in (None, "peers"):
        report["neural_style"] = race(network, neural_style(size), evaluations, own, noise=0.001)
        report["adam"] = against_adam(network, size, 200)
    target = ROOT / "benchmarks" / "results" / f"engine-{size}px.json"
    before = json.loads(target.read_text()) if target.exists() and arguments.only else {}
    target.write_text(json.dumps({**before, **report}, indent=1) + "\n")
    print(target)


if __name__ == "__main__":
    main()
