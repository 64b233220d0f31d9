"""Overhead of an evaluation over a bare pass, and time to reach the loss of the textbook baseline. Run by `make bench`.

Timings on shared machines drift, so everything that is compared runs interleaved in this one process: alternating single
evaluations for the first table, slices of 20 evaluations for the second. Scoring in float32 is not timed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
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
from textbook import CPU, SLICE, Textbook
from torch.nn import functional as F

from impasto_engine import painting
from impasto_engine.batch import RunningBatch
from impasto_engine.devices import auto_precision, describe, keep_freed_memory
from impasto_engine.networks import Network
from impasto_engine.objective import StackedObjectives
from impasto_engine.painting import Job, Style
from impasto_engine.parameters import PRESETS, Parameters, fitted
from impasto_engine.weights import load_network

ROOT = Path(__file__).parents[1]
CONTENT = Path(skimage.__file__).parent / "data" / "rocket.jpg"
STYLE = ROOT / "samples" / "embers.jpg"


def pixels(path: Path, width: int, height: int) -> torch.Tensor:
    """Return a picture of exactly this size."""
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(resized).copy())


def make_job(network: Network, size: int, **changes: Any) -> Job:
    """Return a square job with the default preset for the network's filters."""
    chosen = replace(Parameters(), **{"size_px": size, **changes})
    parameters = fitted(chosen, f"{network.name}:{network.weights.name}", "default", changes)
    return Job(size, size, pixels(CONTENT, size, size), [Style(pixels(STYLE, size, size))], parameters)


def evaluation_cost(network: Network, size: int, rounds: int) -> list[dict[str, Any]]:
    """Compare an evaluation with a bare forward and backward pass through the same trunk in the same arithmetic."""
    rows = []
    job = make_job(network, size)
    pooling = job.parameters.pooling
    pool = F.avg_pool2d if pooling == "average" else F.max_pool2d
    deepest = max(map(network.depth, job.parameters.style_layers))
    objectives = StackedObjectives([painting.objective(network, job)], network)
    canvas = painting.first_canvas(job, network.device)
    for precision in ("float32", auto_precision(network.device)):
        filters = network._resident(precision)
        layers = [(type(network._modules[index]), filters.get(index)) for index in range(deepest + 1)]

        def bare() -> torch.Tensor:
            leaf = canvas.detach().requires_grad_()
            x = leaf if precision == "float32" else leaf.to(torch.bfloat16)
            for kind, weights in layers:
                if weights is not None:
                    x = F.conv2d(x, *weights, padding=1)
                else:
                    x = F.relu(x, inplace=True) if kind is torch.nn.ReLU else pool(x, 2)
            return torch.autograd.grad(x.sum(), leaf)[0]

        def ours() -> None:
            objectives.evaluate(network, canvas, pooling, precision)

        clock(bare), clock(ours)
        pairs = [(clock(ours), clock(bare)) for _ in range(rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        ms = [statistics.median(column) * 1e3 for column in zip(*pairs, strict=True)]
        rows.append({"precision": precision, "size_px": size, "ours_ms": ms[0], "bare_ms": ms[1], "ratio": ratio})
        print(f"{size} px {precision:9s} evaluation {ms[0]:6.1f} ms, bare pass {ms[1]:6.1f} ms, ratio {ratio:.3f}")
        if precision == auto_precision(network.device) == "float32":
            break
    return rows


def clock(work: Callable[[], Any]) -> float:
    """Return the run time of a function in seconds, until the device has done its work."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Ours:
    """A job of this engine, stepped through its levels in slices."""

    def __init__(self, network: Network, job: Job) -> None:
        self._network = network
        self._levels = painting.levels(job)
        self.batch = RunningBatch(network, self._levels[0].job.key(network.device), lag=0)
        painting.join(self.batch, "job", self._levels[0])

    def run(self, steps: int = SLICE) -> None:
        """Run the given number of steps."""
        for _ in range(steps):
            (*_, (_, step)) = self.batch.step()
            if step.step == self._levels[0].last and len(self._levels) > 1:
                level, following = self._levels[:2]
                finer = RunningBatch(self._network, following.job.key(self._network.device), lag=0)
                painting.climb(self.batch, finer, "job", level, following)
                self.batch = finer
                del self._levels[0]

    @property
    def canvas(self) -> torch.Tensor:
        """The current canvas, at full size."""
        return self._enlarged(len(self._levels))

    def _enlarged(self, count: int) -> torch.Tensor:
        canvas = self.batch.canvas("job")[None]
        for before, after in itertools.pairwise(self._levels[:count]):
            canvas = painting.next_canvas(canvas[0], before.job, after.job, canvas.device)
        return canvas


def neural_style(network: Network, size: int) -> Job:
    """Return a square job with the objective of neural-style-pt, from the preset ``neural-style``.

    Its total variation of 1e-3 is omitted on both sides: it is a sum of absolute values, which this engine does not implement.
    """
    preset = PRESETS["neural-style"]
    return make_job(
        network,
        size,
        **{name: value for name, value in vars(preset).items() if name not in ("size_px", "steps", "history", "network")},
    )


def scorer(network: Network, job: Job) -> Callable[[torch.Tensor], float]:
    """Return a function that gives a canvas's loss in float32."""
    stacked = StackedObjectives([painting.objective(network, job)], network)

    def score(canvas: torch.Tensor) -> float:
        return float(stacked.evaluate(network, canvas.detach(), job.parameters.pooling, "float32").terms.sum())

    return score


def race(network: Network, job: Job, evaluations: int, our_evaluations: int, noise: float | None = None) -> dict[str, Any]:
    """Run the textbook and this engine alternately, and return both loss curves. This engine may stop earlier to save time."""
    size, init = job.width, job.parameters.init
    job = replace(job, parameters=replace(job.parameters, steps=our_evaluations))
    score = scorer(network, job)
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
    print(f"{size} px from {init}: the textbook reaches {goal:.6g} in {evaluations} evaluations, {theirs[-1][1]:.0f} s")
    for name, slack in (("its loss", 1.0), ("within 2 %", 1.02), ("within 5 %", 1.05)):
        here, there = reach(ours, goal * slack), reach(theirs, goal * slack)
        share = here[1] / theirs[-1][1] if here else None
        result[name] = {"ours": here, "textbook": there, "seconds_over_textbook_whole": share}
        if here:
            print(f"  {name:10s}: {here[0]:.0f} evaluations, {here[1]:.1f} s: {share:.2f} of the textbook's time")
        else:
            print(
                f"  {name:10s}: not reached in {ours[-1][0]} evaluations; ended at {ours[-1][2] / goal:.4f} of the textbook's"
            )
    return result


def against_adam(network: Network, size: int, evaluations: int) -> list[dict[str, Any]]:
    """Run L-BFGS and Adam at several learning rates with the default preset, for the same number of evaluations."""
    rows = []
    for optimizer, rate in (("lbfgs", 1.0), ("adam", 0.01), ("adam", 0.02), ("adam", 0.05)):
        job = make_job(network, size, optimizer=optimizer, learning_rate=rate, steps=evaluations)
        score = scorer(network, job)
        own = Ours(network, job)
        trace = {}
        for done in range(1, evaluations + 1):
            own.run(1)
            if done in (20, 50, 100, 200, 300):
                trace[done] = score(own.canvas)
        rows.append({"optimizer": optimizer, "learning_rate": rate, "loss_after_evaluations": trace})
        print(f"{optimizer:5s} {rate:4g}: " + ", ".join(f"{loss:.5f} after {done}" for done, loss in trace.items()))
    return rows


def reach(trace: list[tuple[int, float, float]], goal: float) -> tuple[float, float] | None:
    """Return the evaluations and seconds at which a trace reaches a loss, interpolated in the log loss."""
    for (e0, s0, l0), (e1, s1, l1) in itertools.pairwise(trace):
        if l1 <= goal:
            part = 1.0 if l0 <= l1 else (np.log(l0) - np.log(max(goal, l1))) / (np.log(l0) - np.log(l1))
            part = float(np.clip(part, 0, 1))
            return e0 + part * (e1 - e0), s0 + part * (s1 - s0)
    return None


def about(network: Network | None = None) -> dict[str, Any]:
    """Return the date, commit, device, settings and versions of a measurement."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S607
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "device": describe(CPU),
        "filters": network.weights.name if network else "builtin",
        "threads": torch.get_num_threads(),
        "spinning": os.environ.get("GOMP_SPINCOUNT", ""),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument(
        "--our-evaluations", type=int, default=200, help="evaluations of this engine; after that only the textbook continues"
    )
    parser.add_argument(
        "--filters", default="auto", help="name of the filters; results with the built-in ones go to a separate file"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--inits", nargs="+", default=["content", "noise"])
    parser.add_argument("--only", choices=["cost", "race", "peers"])
    arguments = parser.parse_args()
    keep_freed_memory()
    network = load_network(arguments.filters, CPU)
    report = about(network)
    print(report)
    if arguments.only in (None, "cost"):
        report["evaluation_cost"] = evaluation_cost(network, arguments.size, arguments.rounds)
    size, evaluations, own = arguments.size, arguments.evaluations, arguments.our_evaluations
    if arguments.only in (None, "race"):
        report["race"] = [race(network, make_job(network, size, init=init), evaluations, own) for init in arguments.inits]
    if arguments.only in (None, "peers"):
        report["neural_style"] = race(network, neural_style(network, size), evaluations, own, noise=0.001)
        report["adam"] = against_adam(network, size, 200)
    suffix = "-builtin" if network.weights.name == "builtin" else ""
    target = ROOT / "benchmarks" / "results" / f"engine-{size}px{suffix}.json"
    before = json.loads(target.read_text()) if target.exists() and arguments.only else {}
    target.write_text(json.dumps({**before, **report}, indent=1) + "\n")
    print(target)


if __name__ == "__main__":
    main()
