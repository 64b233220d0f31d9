"""The losses of neural style transfer, each for a batch of independent canvases: no term mixes two samples.

``F`` are a layer's features with ``C`` channels at ``N`` positions, as in Gatys, Ecker & Bethge, "Image Style Transfer
Using Convolutional Neural Networks" (CVPR 2016).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SYMMETRIC_FROM_CHANNELS = 128


def gram(features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels channels"]:
    r"""Return how strongly every pair of channels fires together.

    .. math:: G_{ij} = \frac{1}{N} \sum_k F_{ik} F_{jk}

    Gatys et al. (CVPR 2016), eq. 3, divided by the number of positions: the paper divides in the loss (eq. 4), which ties
    the style weight to the image size. Formed in float32 whatever the features' precision (float64 stays): sums of
    half-precision products lose the small differences that a nearly finished canvas still has to make.
    """
    flat = _flat(features)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    return _self_product(flat) / flat.shape[-1]


def _flat(features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels positions"]:
    """Return the features as a matrix without copying them, whichever way they lie in memory."""
    if features.is_contiguous():
        return features.flatten(2)
    return features.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)


def _self_product(
    flat: Float[Tensor, "batch channels positions"],
) -> Float[Tensor, "batch channels channels"]:
    """Return ``F F^T``. On a CPU, without a gradient, a large one's lower left quarter is mirrored, not computed."""
    channels = flat.shape[1]
    if channels < SYMMETRIC_FROM_CHANNELS or flat.device.type != "cpu" or flat.requires_grad:
        return torch.bmm(flat, flat.transpose(1, 2))
    half = channels // 2
    upper = torch.bmm(flat[:, :half], flat.transpose(1, 2))
    lower = torch.bmm(flat[:, half:], flat[:, half:].transpose(1, 2))
    return torch.cat([upper, torch.cat([upper[:, :, half:].transpose(1, 2), lower], dim=2)], dim=1)


def total_variation(
    canvas: Float[Tensor, "batch 3 height width"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch 3 height width"]]:
    r"""Return how much neighbouring pixels differ, and its gradient.

    .. math:: V = \frac{1}{3HW} \sum (x_{i+1,j} - x_{ij})^2 + (x_{i,j+1} - x_{ij})^2

    Mahendran & Vedaldi (CVPR 2015), eq. 5 with beta = 2, divided by the number of values. The gradient is written out,
    which is cheaper than recording it.
    """
    size = canvas[0].numel()
    down = canvas[:, :, 1:] - canvas[:, :, :-1]
    right = canvas[:, :, :, 1:] - canvas[:, :, :, :-1]
    value = (down.square().sum(dim=(1, 2, 3)) + right.square().sum(dim=(1, 2, 3))) / size
    gradient = torch.zeros_like(canvas)
    gradient[:, :, 1:] += down
    gradient[:, :, :-1] -= down
    gradient[:, :, :, 1:] += right
    gradient[:, :, :, :-1] -= right
    return value, gradient.mul_(2 / size)


def _gram_error(
    features: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels channels"],
) -> Float[Tensor, "batch channels channels"]:
    """Return ``gram(features) - target`` in the target's precision.

    For bfloat16 features the subtraction happens inside the matrix product, whose sums are float32: only the small
    difference is rounded, not the large Gram matrix. What bfloat16 cannot hold of the target is subtracted after it.
    """
    if features.dtype != torch.bfloat16:
        return gram(features).sub_(target)
    flat = _flat(features)
    coarse = target.to(torch.bfloat16)
    error = torch.baddbmm(coarse, flat, flat.transpose(1, 2), beta=-1, alpha=1 / flat.shape[-1])
    return error.to(target.dtype).sub_(target - coarse.to(target.dtype))


class ContentLoss(torch.autograd.Function):
    r"""Reads features in passing: returns them unchanged, and each sample's weighted content error.

    .. math:: L = c \sum (F - P)^2

    Gatys et al. (CVPR 2016), eq. 1, where ``P`` are the content's features and ``c`` holds the layer's weight and
    normalizer. In the backward pass the loss's gradient ``2c (F - P)`` is added to the one that arrives from deeper layers,
    so that reading a layer costs no copy of its features.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "batch channels height width"],
        coefficient: Float[Tensor, " batch"],
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Return the features as they are, and each sample's error."""
        difference = features.to(target.dtype) - target
        loss = coefficient * difference.square().sum(dim=(1, 2, 3))
        ctx.save_for_backward(difference, coefficient)
        ctx.set_materialize_grads(False)
        ctx.features_dtype = features.dtype
        return features, loss

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None]:
        """Return the gradient from deeper layers with the loss's own added."""
        passing, upstream = gradients
        if upstream is None:
            return passing, None, None
        difference, coefficient = ctx.saved_tensors
        scale = (2 * coefficient * upstream).view(-1, 1, 1, 1)
        own = (difference * scale).to(ctx.features_dtype)
        return own if passing is None else own.add_(passing), None, None


def _like(flat: Float[Tensor, "batch channels positions"], features: Tensor) -> Tensor:
    """Return a matrix as features, lying in memory as those do."""
    layout = torch.contiguous_format if features.is_contiguous() else torch.channels_last
    return flat.view_as(features).contiguous(memory_format=layout)


class StyleLoss(torch.autograd.Function):
    r"""Reads features in passing: returns them unchanged, and each sample's weighted style error.

    .. math:: L = w \sum_{ij} (G_{ij} - A_{ij})^2 + r

    Gatys et al. (CVPR 2016), eq. 4, where ``A`` is the style's Gram matrix and ``w`` holds the layer's weight and
    normalizer. A weighted sum over several styles is again of this form: ``A`` becomes the styles' weighted mean and ``r``
    what no canvas can make up for, so any number of styles costs the same. The gradient is
    :math:`\frac{4w}{N} (G - A) F` (eq. 6, for features before or after the non-linearity alike), added to the gradient
    from deeper layers in the same matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "batch channels channels"],
        coefficient: Float[Tensor, " batch"],
        remainder: Float[Tensor, " batch"],
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Return the features as they are, and each sample's error."""
        difference = _gram_error(features, target)
        loss = coefficient * difference.square().sum(dim=(1, 2)) + remainder
        ctx.save_for_backward(features, difference, coefficient)
        ctx.set_materialize_grads(False)
        return features, loss

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None, None]:
        """Return the gradient from deeper layers with the loss's own added."""
        passing, upstream = gradients
        if upstream is None:
            return passing, None, None, None
        features, difference, coefficient = ctx.saved_tensors
        flat = _flat(features)
        scale = (4 / flat.shape[-1] * coefficient * upstream).view(-1, 1, 1)
        step = (difference * scale).to(flat.dtype)
        # In place: the chain of layers hands each gradient to one reader only.
        if passing is not None and passing.stride() == features.stride():
            _flat(passing).baddbmm_(step, flat)
            return passing, None, None, None
        own = _like(torch.bmm(step, flat), features)
        return own if passing is None else own.add_(passing), None, None, None
