"""What one canvas is optimised for, and how a batch of different objectives is evaluated at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from impasto_engine.losses import ContentLoss, StyleLoss, gram, total_variation
from impasto_engine.networks import Network, Tap
from impasto_engine.parameters import Arithmetic, Normalization, Pooling

TERMS = ("content", "style", "total_variation")
_TINY = 1e-12


@dataclass(frozen=True)
class ContentTarget:
    """Features to come near at one layer, and the factor of their summed squared error."""

    features: Float[Tensor, "channels height width"]
    coefficient: float


@dataclass(frozen=True)
class StyleTarget:
    """Gram matrix to come near at one layer, the factor of its summed squared error, and the part no canvas can remove."""

    gram: Float[Tensor, "channels channels"]
    coefficient: float
    remainder: float = 0.0


@dataclass(frozen=True)
class Objective:
    """Everything one canvas is judged by: content and style targets by layer, and the weight of its total variation."""

    content: Mapping[str, ContentTarget]
    style: Mapping[str, StyleTarget]
    total_variation_weight: float = 0.0

    @property
    def layers(self) -> frozenset[str]:
        """Names of the layers that are read."""
        return frozenset(self.content) | frozenset(self.style)


def content_targets(
    features: Mapping[str, Float[Tensor, "1 _ _ _"]],
    weights: Mapping[str, float],
    weight: float,
    normalization: Normalization,
) -> dict[str, ContentTarget]:
    """Return the content targets of one canvas: ``weights`` by layer, all multiplied by ``weight``."""
    targets = {}
    for layer, layer_weight in weights.items():
        wanted = features[layer][0]
        factor = 1 / max(float(wanted.square().sum()), _TINY) if normalization == "target" else 0.5
        targets[layer] = ContentTarget(wanted, weight * layer_weight * factor)
    return targets


def style_grams(
    features: Mapping[str, Float[Tensor, "1 _ _ _"]],
) -> dict[str, Float[Tensor, "_ _"]]:
    """Return the Gram matrix of one picture at each layer: all that is kept of a style."""
    return {layer: gram(seen)[0] for layer, seen in features.items()}


def style_targets(
    grams: Sequence[Mapping[str, Float[Tensor, "_ _"]]],
    shares: Sequence[float],
    weights: Mapping[str, float],
    weight: float,
    normalization: Normalization,
) -> dict[str, StyleTarget]:
    """Return the style targets of one canvas for any number of styles.

    The weighted sum of the styles' losses, ``sum_s c_s |G - A_s|^2``, is folded into one target per layer (see
    :class:`~impasto_engine.losses.StyleLoss`).

    Args:
        grams: Gram matrices by layer, one mapping per style.
        shares: Weight of each style; they are divided by their sum.
        weights: Weight of each layer.
        weight: Multiplies all of them.
        normalization: How the layers' errors are made comparable.
    """
    total_share = sum(shares)
    targets = {}
    for layer, layer_weight in weights.items():
        matrices = [picture[layer] for picture in grams]
        factors = []
        for matrix, share in zip(matrices, shares, strict=True):
            raw = 1 / max(float(matrix.square().sum()), _TINY) if normalization == "target" else 0.25 / matrix.numel()
            factors.append(weight * layer_weight * share / total_share * raw)
        coefficient = sum(factors)
        mean = sum((matrix * (f / coefficient) for matrix, f in zip(matrices, factors, strict=True)), start=0 * matrices[0])
        spread = (f * float((matrix - mean).square().sum()) for matrix, f in zip(matrices, factors, strict=True))
        targets[layer] = StyleTarget(mean, coefficient, sum(spread))
    return targets


@dataclass(frozen=True)
class Evaluation:
    """Weighted losses of a batch and the gradient of their sum.

    Attributes:
        terms: Columns as in :data:`TERMS`; a sample's loss is the sum of its row.
        gradient: With respect to the canvases.
    """

    terms: Float[Tensor, "batch 3"]
    gradient: Float[Tensor, "batch 3 height width"]


class StackedObjectives:
    """Objectives of a batch, stacked by layer. A sample that does not read a layer has a factor of zero there."""

    def __init__(self, objectives: Sequence[Objective], network: Network) -> None:
        layers = {layer for objective in objectives for layer in objective.layers}
        self._content: dict[str, tuple[Tensor, Tensor]] = {}
        self._style: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for layer in sorted(layers, key=network.depth):
            contents = [objective.content.get(layer) for objective in objectives]
            wanted = next((c.features for c in contents if c), None)
            if wanted is not None:
                self._content[layer] = (
                    torch.stack([c.features if c else torch.zeros_like(wanted) for c in contents]),
                    wanted.new_tensor([c.coefficient if c else 0.0 for c in contents]),
                )
            styles = [objective.style.get(layer) for objective in objectives]
            matrix = next((s.gram for s in styles if s), None)
            if matrix is not None:
                self._style[layer] = (
                    torch.stack([s.gram if s else torch.zeros_like(matrix) for s in styles]),
                    matrix.new_tensor([s.coefficient if s else 0.0 for s in styles]),
                    matrix.new_tensor([s.remainder if s else 0.0 for s in styles]),
                )
        self._variation = torch.tensor([o.total_variation_weight for o in objectives], device=network.device)
        self._smooths = any(o.total_variation_weight for o in objectives)

    def evaluate(
        self,
        network: Network,
        canvas: Float[Tensor, "batch 3 height width"],
        pooling: Pooling,
        precision: Arithmetic,
    ) -> Evaluation:
        """Return each sample's losses at its canvas, and their gradient: one forward and one backward pass."""
        leaf = canvas.detach().requires_grad_()
        content: list[Tensor] = []
        style: list[Tensor] = []
        with torch.enable_grad():
            network.forward(leaf, self._taps(content, style), pooling, precision)
            losses = [*content, *style]
            gradient = torch.autograd.grad(sum(losses, start=leaf.new_zeros(())).sum(), leaf)[0] if losses else None
        zero = canvas.new_zeros(len(canvas))
        smoothness = zero
        gradient = torch.zeros_like(canvas) if gradient is None else gradient.contiguous()
        if self._smooths:
            value, slope = total_variation(canvas)
            smoothness = self._variation * value
            gradient = gradient + self._variation.view(-1, 1, 1, 1) * slope
        terms = torch.stack([_sum(content, zero), _sum(style, zero), smoothness], dim=1)
        return Evaluation(terms.detach(), gradient)

    def _taps(self, content: list[Tensor], style: list[Tensor]) -> dict[str, Tap]:
        def tap_at(layer: str) -> Tap:
            def tap(features: Tensor) -> Tensor:
                if layer in self._style:
                    features, loss = StyleLoss.apply(features, *self._style[layer])
                    style.append(loss)
                if layer in self._content:
                    features, loss = ContentLoss.apply(features, *self._content[layer])
                    content.append(loss)
                return features

            return tap

        return {layer: tap_at(layer) for layer in self._content.keys() | self._style.keys()}


def _sum(losses: list[Tensor], zero: Tensor) -> Tensor:
    return torch.stack(losses).sum(dim=0) if losses else zero


def to_canvas(pixels: UInt8[Tensor, "height width 3"], device: torch.device) -> Float[Tensor, "1 3 height width"]:
    """Return 8-bit sRGB pixels as a float canvas with values in [0, 1]."""
    # Contiguous: torch keeps strides, and channels-last features would be copied before every Gram product.
    return (pixels.to(device).permute(2, 0, 1)[None].float() / 255).contiguous()


def to_pixels(canvas: Float[Tensor, "3 height width"]) -> UInt8[Tensor, "height width 3"]:
    """Return a canvas as 8-bit sRGB pixels on the CPU; values outside [0, 1] are clipped."""
    return (canvas.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
