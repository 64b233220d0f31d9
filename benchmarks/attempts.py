"""Attempts to need fewer evaluations, measured free of noise: evaluations to within 2 % of the textbook's last loss.

Each attempt changes one thing of the default: the start, the scales or history of L-BFGS, the arithmetic, the sizes. Losses are
scored in float32. An evaluation at half the size counts a quarter. What was learned: docs/lab/performance.md. Run by
`make bench-attempts`; the textbook's traces are kept in docs/build/ for the next run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from engine import ROOT, Ours, about, reach, scorer
from quality import RACED, make_job
from textbook import CPU, SLICE, Textbook
from torch import Tensor
from torch.nn import functional as F

from impasto_engine import colors, optimizers, painting
from impasto_engine.devices import keep_freed_memory
from impasto_engine.networks import Network
from impasto_engine.optimizers import LBFGS, OPTIMIZERS, State
from impasto_engine.painting import Job
from impasto_engine.spectral import Spectrum
from impasto_engine.weights import load_network

EVERY = 10
BLUR_PX = 17


def matched_content(job: Job, device: torch.device) -> Tensor:
    """Return the content with the mean and covariance of the style's colours."""
    assert job.content is not None
    return painting.to_canvas(colors.colored_like(job.content, job.styles[0].pixels), device)


def _white(job: Job) -> Tensor:
    """Return white noise of unit variance from the job's seed."""
    generator = torch.Generator().manual_seed(job.parameters.seed)
    return torch.randn(1, 3, job.height, job.width, generator=generator)


def coloured_noise(job: Job, device: torch.device) -> Tensor:
    """Return white noise with the mean and covariance of the style's colours."""
    style = painting.to_canvas(job.styles[0].pixels, device)[0].flatten(1)
    mean = style.mean(dim=1, keepdim=True)
    factor = torch.linalg.cholesky((style - mean) @ (style - mean).T / style.shape[1] + 1e-6 * torch.eye(3))
    noise = _white(job)
    return (mean + factor @ noise[0].flatten(1)).view_as(noise)


def random_phase(job: Job, device: torch.device) -> Tensor:
    """Return noise with the style's spectrum (Galerne, Gousseau & Morel, "Random Phase Textures", IEEE TIP 2011)."""
    style = painting.to_canvas(job.styles[0].pixels, device)
    style = F.interpolate(style, size=(job.height, job.width), mode="bicubic", antialias=True)
    mean = style.mean(dim=(2, 3), keepdim=True)
    phase = torch.fft.rfft2(_white(job)[:, :1])
    phase = phase / phase.abs().clamp_min(1e-9)
    return mean + torch.fft.irfft2(torch.fft.rfft2(style - mean) * phase, s=(job.height, job.width))


class LocalScales(LBFGS):
    """L-BFGS whose initial scaling also depends on the place on the canvas, from the same moments, blurred."""

    def start(self, canvas: Tensor, learning_rate: float, history: int) -> State:
        """See the base."""
        return super().start(canvas, learning_rate, history) | {"places": canvas.new_zeros(1, 2, *canvas.shape[2:])}

    def _remember(self, state: State, gradient: Tensor, eligible: Tensor) -> None:
        moved, turned = state["trial"] - state["canvas"], gradient - state["gradient"]
        super()._remember(state, gradient, eligible)
        if bool(eligible) and bool(turned.any()):
            squares = torch.cat([moved.square().sum(dim=1, keepdim=True), turned.square().sum(dim=1, keepdim=True)], dim=1)
            state["places"] = optimizers.MOMENTS_DECAY * state["places"] + squares / turned.square().sum()

    def _quasi_newton(self, state: State, gradient: Tensor) -> Tensor:
        blurred = F.avg_pool2d(state["places"], BLUR_PX, 1, BLUR_PX // 2, count_include_pad=False)
        gain = (blurred[:, :1] / blurred[:, 1:]).sqrt().nan_to_num(1.0)
        half = (gain / gain.log().mean().exp()).clamp(0.2, 5).sqrt()
        scale = Spectrum.scale
        with mock.patch.object(Spectrum, "scale", lambda own, vector, scales: half * scale(own, half * vector, scales)):
            return super()._quasi_newton(state, gradient)


@dataclass(frozen=True)
class Attempt:
    """One change of the default.

    Attributes:
        inits: The starts that it applies to.
        parameters: Changed parameters.
        first: Replaces the first canvas.
        optimizer: Replaces L-BFGS.
        decay: Replaces the decay of the moments.
    """

    inits: Sequence[str] = ("content", "noise")
    parameters: dict[str, Any] = field(default_factory=dict)
    first: Callable[[Job, torch.device], Tensor] | None = None
    optimizer: LBFGS | None = None
    decay: float = optimizers.MOMENTS_DECAY

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Change the engine meanwhile."""
        chosen = {"lbfgs": self.optimizer or OPTIMIZERS["lbfgs"]}
        with (
            mock.patch.object(painting, "first_canvas", self.first or painting.first_canvas),
            mock.patch.dict(OPTIMIZERS, chosen),  # type: ignore[arg-type]
            mock.patch.object(optimizers, "MOMENTS_DECAY", self.decay),
        ):
            yield


ATTEMPTS = {
    "as it is": Attempt(),
    "float32": Attempt(parameters={"precision": "float32"}),
    "60 pairs": Attempt(parameters={"history": 60}),
    "learning rate 1.1": Attempt(parameters={"learning_rate": 1.1}),
    "decay of moments 0.9": Attempt(decay=0.9),
    "decay of moments 0.98": Attempt(decay=0.98),
    "scales by place": Attempt(optimizer=LocalScales()),
    "content in the style's colours": Attempt(("content",), first=matched_content),
    "noise in the style's colours": Attempt(("noise",), first=coloured_noise),
    "noise with the style's spectrum": Attempt(("noise",), first=random_phase),
    "two sizes": Attempt(parameters={"levels": 2}),
}


def goal(network: Network, pair: tuple[str, str], size: int, init: str, iterations: int) -> float:
    """Return the textbook's lowest loss, scored in float32; it is kept for the next run."""
    kept = ROOT / "docs" / "build" / f"textbook-{network.weights.name}-{'-'.join(pair)}-{size}-{init}-{iterations}.json"
    if not kept.exists():
        job = make_job(network, *pair, size, init=init, levels=1)
        textbook, score = Textbook(network, job), scorer(network, job)
        losses = []
        for _ in range(0, iterations, SLICE):
            textbook.run()
            losses.append(score(textbook.canvas))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(losses))
    return min(json.loads(kept.read_text()))


def measure(
    network: Network, pair: tuple[str, str], size: int, init: str, attempt: Attempt, steps: int, wanted: float
) -> dict[str, float | None]:
    """Return the evaluations to within 5 and 2 % of a loss, in evaluations at full size, and where the run ended."""
    score = scorer(network, make_job(network, *pair, size, init=init, levels=1))
    job = make_job(network, *pair, size, init=init, steps=steps, **({"levels": 1} | attempt.parameters))
    with attempt.applied():
        own = Ours(network, job)
        trace, cost = [(0.0, 0.0, score(own.canvas))], 0.0
        for _ in range(0, steps, EVERY):
            key = own.batch.key
            own.run(EVERY)
            cost += EVERY * key.height * key.width / (job.height * job.width)
            trace.append((cost, cost, score(own.canvas)))
            if trace[-1][2] <= wanted:
                break
    found = {f"{share} %": reach(trace, wanted * (1 + share / 100)) for share in (5, 2)}
    return {name: one and round(one[0]) for name, one in found.items()} | {"end": round(trace[-1][2] / wanted, 3)}


def main() -> None:
    """Measure every attempt on every pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", default="auto", help="name of the filters; the real ones where they are in the cache")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=len(RACED), help="number of pairs of a content and a style")
    parser.add_argument("--iterations", type=int, default=300, help="iterations of the textbook")
    parser.add_argument("--steps", type=int, default=170, help="most steps of an attempt")
    parser.add_argument("--inits", nargs="+", default=["content", "noise"])
    parser.add_argument("--only", nargs="+", choices=list(ATTEMPTS), default=list(ATTEMPTS))
    chosen = parser.parse_args()
    keep_freed_memory()
    network = load_network(chosen.filters, CPU)
    for init in chosen.inits:
        rows = []
        for pair in RACED[: chosen.pairs]:
            wanted = goal(network, pair, chosen.size, init, chosen.iterations)
            for name in chosen.only:
                attempt = ATTEMPTS[name]
                if init in attempt.inits:
                    row = measure(network, pair, chosen.size, init, attempt, chosen.steps, wanted)
                    rows.append({"attempt": name, "content": pair[0], "style": pair[1], "init": init, **row})
                    print(f"{'/'.join(pair):18s} from {init:7s} {name:32s} {row}", flush=True)
        target = ROOT / "benchmarks" / "results" / f"attempts-{chosen.size}px-{init}.json"
        target.write_text(json.dumps({**about(network), "size_px": chosen.size, "attempts": rows}, indent=1) + "\n")
        print(target)


if __name__ == "__main__":
    main()
