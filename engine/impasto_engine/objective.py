"""The objective of one canvas, and the joint evaluation of a batch with different objectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from impasto_engine.devices import computing
from impasto_engine.losses import ContentLoss, StyleLoss, total_variation
from impasto_engine.networks import Network, Tap
from impasto_engine.parameters import Arithmetic, Normalization, Pooling, StyleLossName
from impasto_engine.statistics import statistic

TERMS = ("content", "style", "total_variation")
FLOOR = 0.25
"""Lower bound of the content normalizer, as a fraction of the mean square of a natural picture's features. At relu4_2 with
ImageNet's filters, photographs have fractions of 0.3 to 2, the moon's surface 0.1, a grey card 0.004."""
STYLE_FLOOR = 0.01
"""The same for a style's Gram matrix, which scales with the square of the contrast."""
_TINY = 1e-12


@dataclass(frozen=True)
class ContentTarget:
    """Target features at one layer, and the coefficient of their summed squared error."""

    features: Float[Tensor, "channels height width"]
    coefficient: float


@dataclass(frozen=True)
class StyleTarget:
    """Target statistic at one layer, the coefficient of its squared error, and the part that no canvas can remove.

    Attributes:
        value: The style's statistic, as returned by :func:`~impasto_engine.statistics.statistic`.
        coefficient: Multiplies the squared error.
        remainder: Constant loss that remains when several different styles are mixed.
        statistic: Name of the statistic.
        guide: Where on the canvas the style applies, with a mean square of 1; None for everywhere.
    """

    value: Float[Tensor, "rows columns"]
    coefficient: float
    remainder: float = 0.0
    statistic: StyleLossName = "gram"
    guide: Float[Tensor, "1 height width"] | None = None


@dataclass(frozen=True)
class Frame:
    """The part of a canvas that is painted. The rest of the picture stays unchanged.

    The network sees ``mask * canvas + (1 - mask) * picture``, so no step can change pixels outside the mask.
    """

    mask: Float[Tensor, "1 height width"]
    picture: Float[Tensor, "3 height width"]


@dataclass(frozen=True)
class Objective:
    """The complete objective of one canvas.

    Attributes:
        content: Content targets by layer.
        style: Style targets by layer, one mapping for each region of the canvas that has its own styles.
        total_variation_weight: Multiplies the total variation.
        frame: The painted part of the canvas; None for all of it.
    """

    content: Mapping[str, ContentTarget]
    style: Sequence[Mapping[str, StyleTarget]] = ()
    total_variation_weight: float = 0.0
    frame: Frame | None = None

    @property
    def layers(self) -> frozenset[str]:
        """Names of the layers that the objective reads."""
        return frozenset(self.content).union(*self.style)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors that it holds on the device."""
        yield from (target.features for target in self.content.values())
        for region in self.style:
            for target in region.values():
                yield target.value
                if target.guide is not None:
                    yield target.guide
        if self.frame is not None:
            yield from (self.frame.mask, self.frame.picture)


def content_targets(
    features: Mapping[str, Float[Tensor, "1 _ _ _"]],
    weights: Mapping[str, float],
    weight: float,
    normalization: Normalization,
    usual: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, ContentTarget]:
    """Return the content targets of one canvas.

    Args:
        features: Features of the content.
        weights: Weights by layer.
        weight: Multiplies all layer weights.
        normalization: How the layers' errors are normalized.
        usual: Mean square of a natural picture's features, by layer. :data:`FLOOR` times this is the smallest normalizer. It
            keeps a flat content, such as a plain backdrop, from dominating the loss and staying unpainted.
    """
    targets = {}
    for layer, layer_weight in weights.items():
        wanted = features[layer][0]
        squares = max(float(wanted.square().sum()), FLOOR * usual.get(layer, 0.0) * wanted.numel(), _TINY)
        factor = {"target": 1 / squares, "gatys": 0.5, "mean": 1 / wanted.numel()}[normalization]
        targets[layer] = ContentTarget(wanted, weight * layer_weight * factor)
    return targets


def style_targets(
    values: Sequence[Mapping[str, Float[Tensor, "_ _"]]],
    shares: Sequence[float],
    weights: Mapping[str, float],
    weight: float,
    normalization: Normalization,
    *,
    statistic: StyleLossName = "gram",
    guides: Mapping[str, Float[Tensor, "1 _ _"]] | None = None,
    usual: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, StyleTarget]:
    """Return the style targets of one region of a canvas for any number of styles.

    The weighted sum of the styles' losses, ``sum_s c_s |S - A_s|^2``, is folded into one target per layer (see
    :class:`~impasto_engine.losses.StyleLoss`).

    Args:
        values: Statistics by layer, one mapping per style.
        shares: Relative weight of each style. The shares over all regions of the canvas should sum to one.
        weights: Weights by layer.
        weight: Multiplies all layer weights.
        normalization: How the layers' errors are normalized.
        statistic: Name of the statistic.
        guides: Where on the canvas the styles apply, by layer.
        usual: Mean square of a natural picture's statistic, by layer. Bounds the normalizer of a flat style as in
            :func:`content_targets`.
    """
    targets = {}
    for layer, layer_weight in weights.items():
        matrices = [picture[layer] for picture in values]
        factors = [
            weight * layer_weight * share * _style_factor(matrix, normalization, usual.get(layer, 0.0))
            for matrix, share in zip(matrices, shares, strict=True)
        ]
        coefficient = sum(factors)
        if not coefficient:
            continue
        mean = sum((matrix * (f / coefficient) for matrix, f in zip(matrices, factors, strict=True)), start=0 * matrices[0])
        spread = (f * float((matrix - mean).square().sum()) for matrix, f in zip(matrices, factors, strict=True))
        guide = guides[layer] if guides else None
        targets[layer] = StyleTarget(mean, coefficient, sum(spread), statistic, guide)
    return targets


def _style_factor(matrix: Float[Tensor, "rows columns"], normalization: Normalization, usual: float) -> float:
    if normalization == "target":
        return 1 / max(float(matrix.square().sum()), STYLE_FLOOR * usual * matrix.numel(), _TINY)
    return 0.25 / matrix.numel() if normalization == "gatys" else 1 / (matrix.numel() * matrix.shape[0] ** 2)


@dataclass(frozen=True)
class Evaluation:
    """Weighted losses of a batch and the gradient of their sum.

    Attributes:
        terms: One row per sample, columns as in :data:`TERMS`. A sample's loss is the sum of its row.
        gradient: With respect to the canvases.
    """

    terms: Float[Tensor, "batch 3"]
    gradient: Float[Tensor, "batch 3 height width"]


@dataclass
class _StackedStyle:
    """The samples' targets of one statistic at one layer."""

    statistic: StyleLossName
    value: Tensor
    coefficient: Tensor
    remainder: Tensor
    guide: Tensor | None

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features to pass to the next layer, and each sample's error."""
        if self.statistic != "gram":
            found = statistic(self.statistic, features, self.guide)
            loss = self.coefficient * (found - self.value).square().sum(dim=(1, 2)) + self.remainder
            return features, loss
        if self.guide is not None:
            guided = features * self.guide.to(features.dtype)
            _, loss = StyleLoss.apply(guided, self.value, self.coefficient, self.remainder)
        else:
            features, loss = StyleLoss.apply(features, self.value, self.coefficient, self.remainder)
        return features, loss


class StackedObjectives:
    """Objectives of a batch, stacked by layer. A sample that does not read a layer has a coefficient of zero there."""

    def __init__(self, objectives: Sequence[Objective], network: Network) -> None:
        layers = {layer for objective in objectives for layer in objective.layers}
        self._content: dict[str, tuple[Tensor, Tensor]] = {}
        self._style: dict[str, list[_StackedStyle]] = {}
        for layer in sorted(layers, key=network.depth):
            contents = [objective.content.get(layer) for objective in objectives]
            wanted = next((c.features for c in contents if c), None)
            if wanted is not None:
                # In the layout of the features: a subtraction of two layouts is slow, and so is the gradient after it.
                stacked = torch.stack([c.features if c else torch.zeros_like(wanted) for c in contents])
                self._content[layer] = (
                    stacked.contiguous(memory_format=network.layout),
                    wanted.new_tensor([c.coefficient if c else 0.0 for c in contents]),
                )
            if styles := _stacked_styles(objectives, layer):
                self._style[layer] = styles
        self._variation = torch.tensor([o.total_variation_weight for o in objectives], device=network.device)
        self._has_variation = any(o.total_variation_weight for o in objectives)
        self._frame = _stacked_frames(objectives)

    def evaluate(
        self,
        network: Network,
        canvas: Float[Tensor, "batch 3 height width"],
        pooling: Pooling,
        precision: Arithmetic,
    ) -> Evaluation:
        """Return each sample's losses and their gradient. Costs one forward and one backward pass."""
        mask: Tensor | None = None
        if self._frame is not None:
            mask, rest = self._frame
            canvas = canvas * mask + rest
        leaf = canvas.detach().requires_grad_()
        content: list[Tensor] = []
        style: list[Tensor] = []
        with torch.enable_grad(), computing(precision, network.device):
            network.forward(leaf, self._taps(content, style), pooling, precision)
            losses = [*content, *style]
            gradient = torch.autograd.grad(sum(losses, start=leaf.new_zeros(())).sum(), leaf)[0] if losses else None
        zero = canvas.new_zeros(len(canvas))
        smoothness = zero
        gradient = torch.zeros_like(canvas) if gradient is None else gradient.contiguous()
        if self._has_variation:
            value, slope = total_variation(canvas)
            smoothness = self._variation * value
            gradient = gradient + self._variation.view(-1, 1, 1, 1) * slope
        if mask is not None:
            gradient = gradient * mask
        terms = torch.stack([_sum(content, zero), _sum(style, zero), smoothness], dim=1)
        return Evaluation(terms.detach(), gradient)

    def _taps(self, content: list[Tensor], style: list[Tensor]) -> dict[str, Tap]:
        def tap_at(layer: str) -> Tap:
            def tap(features: Tensor) -> Tensor:
                for target in self._style.get(layer, ()):
                    features, loss = target.read(features)
                    style.append(loss)
                if layer in self._content:
                    features, loss = ContentLoss.apply(features, *self._content[layer])
                    content.append(loss)
                return features

            return tap

        return {layer: tap_at(layer) for layer in self._content.keys() | self._style.keys()}


def _stacked_styles(objectives: Sequence[Objective], layer: str) -> list[_StackedStyle]:
    """Stack the samples' style targets at a layer, grouped by statistic, with one stack per region of a sample."""
    slots: dict[tuple[StyleLossName, int], list[StyleTarget | None]] = {}
    for index, objective in enumerate(objectives):
        counts: dict[StyleLossName, int] = {}
        for region in objective.style:
            target = region.get(layer)
            if target is not None:
                number = counts[target.statistic] = counts.get(target.statistic, 0) + 1
                slots.setdefault((target.statistic, number), [None] * len(objectives))[index] = target
    found = []
    for (name, _), targets in slots.items():
        one = next(target for target in targets if target)
        matrix, guide = one.value, next((target.guide for target in targets if target and target.guide is not None), None)
        guides = None
        if guide is not None:
            every = torch.ones_like(guide)
            guides = torch.stack([target.guide if target and target.guide is not None else every for target in targets])
        found.append(
            _StackedStyle(
                name,
                torch.stack([target.value if target else torch.zeros_like(matrix) for target in targets]),
                matrix.new_tensor([target.coefficient if target else 0.0 for target in targets]),
                matrix.new_tensor([target.remainder if target else 0.0 for target in targets]),
                guides,
            )
        )
    return found


def _stacked_frames(objectives: Sequence[Objective]) -> tuple[Tensor, Tensor] | None:
    """Return the samples' masks and the parts of their pictures outside the masks; None if everything is painted."""
    frames = [objective.frame for objective in objectives]
    one = next((frame for frame in frames if frame), None)
    if one is None:
        return None
    masks = torch.stack([frame.mask if frame else torch.ones_like(one.mask) for frame in frames])
    pictures = torch.stack([frame.picture if frame else torch.zeros_like(one.picture) for frame in frames])
    return masks, pictures * (1 - masks)


def framed(canvas: Float[Tensor, "3 height width"], frame: Frame | None) -> Float[Tensor, "3 height width"]:
    """Return a canvas as the network sees it, with the fixed picture outside the frame's mask."""
    return canvas if frame is None else canvas * frame.mask + frame.picture * (1 - frame.mask)


def _sum(losses: list[Tensor], zero: Tensor) -> Tensor:
    return torch.stack(losses).sum(dim=0) if losses else zero


def to_canvas(pixels: UInt8[Tensor, "height width 3"], device: torch.device) -> Float[Tensor, "1 3 height width"]:
    """Return 8-bit sRGB pixels as a float canvas with values in [0, 1]."""
    # Contiguous: torch preserves strides, and channels-last features would be copied before every Gram product.
    return (pixels.to(device).permute(2, 0, 1)[None].float() / 255).contiguous()


def to_pixels(canvas: Float[Tensor, "3 height width"]) -> UInt8[Tensor, "height width 3"]:
    """Return a canvas as 8-bit sRGB pixels on the CPU; values outside [0, 1] are clipped."""
    return (canvas.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
