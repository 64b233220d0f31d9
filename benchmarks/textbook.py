"""The textbook baseline: plain autograd, float32, torch.optim.LBFGS with its standard step and no stopping tests."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from impasto_engine import painting
from impasto_engine.networks import Network, random_trunk
from impasto_engine.painting import Job

CPU = torch.device("cpu")
SLICE = 20


class Textbook:
    """A tutorial-style implementation for any objective with Gram matrices.

    The loss is scaled so that the first gradient has an absolute sum of 1000. Otherwise torch's absolute curvature test would
    prevent any progress.

    Args:
        network: The network whose filters are used.
        job: The job to paint, from its own first canvas.
        noise: If given, start from noise of this standard deviation around the mean colour, as in neural-style-pt.
    """

    def __init__(self, network: Network, job: Job, noise: float | None = None) -> None:
        model = random_trunk("vgg16", 0)
        filters = network._filters["float32"]
        for index, module in enumerate(model):
            if index in filters:
                module.weight.data, module.bias.data = filters[index]
        self.job, self.parameters = job, job.parameters
        layers = {*self.parameters.style_layers, *self.parameters.content_layers}
        self.model = model[: max(network.depth(layer) for layer in layers) + 1].requires_grad_(False)
        self.names = network.layers
        self.mean = network._mean
        seen = self._features(painting.to_canvas(job.content, network.device))
        self.content = {layer: seen[layer] for layer in self.parameters.content_layers}
        style = self._features(painting.to_canvas(job.styles[0].pixels, network.device))
        self.grams = {layer: self._gram(style[layer]) for layer in self.parameters.style_layers}
        first = painting.first_canvas(job, network.device)
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
        loss = self.canvas.new_zeros(())
        for layer, wanted in self.content.items():
            factor = {"target": 1 / wanted.square().sum(), "gatys": 0.5, "mean": 1 / wanted.numel()}[own.normalization]
            loss = loss + own.content_weight * own.content_layers[layer] * factor * (seen[layer] - wanted).square().sum()
        for layer, wanted in self.grams.items():
            by_size = {"gatys": 0.25 / wanted.numel(), "mean": 1 / (wanted.numel() * wanted.shape[0] ** 2)}
            factor = by_size.get(own.normalization) or 1 / wanted.square().sum()
            error = (self._gram(seen[layer]) - wanted).square().sum()
            loss = loss + own.style_weight * own.style_layers[layer] * factor * error
        variation = self.canvas.diff(dim=2).square().sum() + self.canvas.diff(dim=3).square().sum()
        return (loss + own.total_variation_weight * variation / self.canvas.numel()) * self.scale

    def run(self, iterations: int = SLICE) -> None:
        """Run the given number of iterations."""
        self.optimizer.param_groups[0]["max_iter"] = iterations

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self._loss()
            loss.backward()
            return loss

        self.optimizer.step(closure)
