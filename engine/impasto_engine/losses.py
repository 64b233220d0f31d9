"""The losses of neural style transfer for a batch of independent canvases. No term mixes samples.

``F`` denotes a layer's features with ``C`` channels at ``N`` positions, as in Gatys, Ecker & Bethge, "Image Style Transfer
Using Convolutional Neural Networks" (CVPR 2016).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from impasto_engine.products import product

SYMMETRIC_FROM_CHANNELS = 128


def gram(features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels channels"]:
    r"""Return the Gram matrix: the correlations between all pairs of channels.

    .. math:: G_{ij} = \frac{1}{N} \sum_k F_{ik} F_{jk}

    Gatys et al. (CVPR 2016), eq. 3, divided by the number of positions. The paper divides in the loss (eq. 4), which makes the
    style weight depend on the image size. Computed in float32 whatever the features' precision (float64 is kept):
    half-precision sums lose the small differences that matter when a canvas is nearly finished.
    """
    flat = _flat(features)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    return _self_product(flat) / flat.shape[-1]


def _flat(features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels positions"]:
    """Return the features as a matrix without copying them, for either memory layout."""
    return features.flatten(2) if features.is_contiguous() else _rows(features).transpose(1, 2)


def _rows(features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch positions channels"]:
    """Return channels-last features as a matrix with a row for each position, without copying them."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def _self_product(
    flat: Float[Tensor, "batch channels positions"],
) -> Float[Tensor, "batch channels channels"]:
    """Return ``F F^T``. On a CPU without a gradient, the lower left quarter of a large product is mirrored, not computed."""
    channels = flat.shape[1]
    if channels < SYMMETRIC_FROM_CHANNELS or flat.device.type != "cpu" or flat.requires_grad:
        return product(flat, flat)
    half = channels // 2
    upper = torch.bmm(flat[:, :half], flat.transpose(1, 2))
    lower = torch.bmm(flat[:, half:], flat[:, half:].transpose(1, 2))
    return torch.cat([upper, torch.cat([upper[:, :, half:].transpose(1, 2), lower], dim=2)], dim=1)


def total_variation(
    canvas: Float[Tensor, "batch 3 height width"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch 3 height width"]]:
    r"""Return the total variation (mean squared difference of neighbouring pixels) and its gradient.

    .. math:: V = \frac{1}{3HW} \sum (x_{i+1,j} - x_{ij})^2 + (x_{i,j+1} - x_{ij})^2

    Mahendran & Vedaldi (CVPR 2015), eq. 5 with beta = 2, divided by the number of values. The gradient is computed explicitly,
    which is cheaper than automatic differentiation.
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

    On a GPU, the product of bfloat16 features is a float32 matrix. On a CPU the subtraction is fused into the product, which
    accumulates in float32: only the small difference is rounded, not the large Gram matrix. The part of the target that
    bfloat16 cannot represent is subtracted afterwards.
    """
    if features.dtype != torch.bfloat16:
        return gram(features).sub_(target)
    flat = _flat(features)
    if flat.device.type == "cuda":
        return product(flat, flat).div_(flat.shape[-1]).sub_(target)
    coarse = target.to(torch.bfloat16)
    error = torch.baddbmm(coarse, flat, flat.transpose(1, 2), beta=-1, alpha=1 / flat.shape[-1])
    return error.to(target.dtype).sub_(target - coarse.to(target.dtype))


class ContentLoss(torch.autograd.Function):
    r"""Returns the features unchanged, together with each sample's weighted content error.

    .. math:: L = c \sum (F - P)^2

    Gatys et al. (CVPR 2016), eq. 1, where ``P`` denotes the content's features and ``c`` combines the layer's weight and
    normalizer. The backward pass adds the gradient of the loss, ``2c (F - P)``, to the gradient from deeper layers, so that
    reading a layer needs no copy of its features.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "batch channels height width"],
        coefficient: Float[Tensor, " batch"],
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Return the features unchanged, and each sample's error."""
        difference = features.to(target.dtype) - target
        loss = coefficient * difference.square().sum(dim=(1, 2, 3))
        ctx.save_for_backward(difference, coefficient)
        ctx.set_materialize_grads(False)
        ctx.features_dtype = features.dtype
        return features, loss

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None]:
        """Return the sum of the gradient from deeper layers and the gradient of the loss."""
        passing, upstream = gradients
        if upstream is None:
            return passing, None, None
        difference, coefficient = ctx.saved_tensors
        scale = (2 * coefficient * upstream).view(-1, 1, 1, 1)
        own = (difference * scale).to(ctx.features_dtype)
        return own if passing is None else own.add_(passing), None, None


def _mix(
    matrix: Float[Tensor, "batch channels channels"],
    features: Float[Tensor, "batch channels height width"],
    into: Tensor | None,
) -> Float[Tensor, "batch channels height width"]:
    """Return ``matrix @ features`` at each position, in the features' layout, or add it in place to a tensor.

    The product is written so that its result is contiguous: a CPU's libraries are slow with transposed results.
    """
    if features.is_contiguous():
        flat = features.flatten(2)
        return torch.bmm(matrix, flat).view_as(features) if into is None else _added(into, into.flatten(2), matrix, flat)
    rows, turned = _rows(features), matrix.transpose(1, 2)
    if into is None:
        batch, channels, height, width = features.shape
        return torch.bmm(rows, turned).view(batch, height, width, channels).permute(0, 3, 1, 2)
    return _added(into, _rows(into), rows, turned)


def _added(into: Tensor, view: Tensor, left: Tensor, right: Tensor) -> Tensor:
    view.baddbmm_(left, right)
    return into


class StyleLoss(torch.autograd.Function):
    r"""Returns the features unchanged, together with each sample's weighted style error.

    .. math:: L = w \sum_{ij} (G_{ij} - A_{ij})^2 + r

    Gatys et al. (CVPR 2016), eq. 4, where ``A`` is the style's Gram matrix and ``w`` combines the layer's weight and
    normalizer. A weighted sum over several styles has the same form: ``A`` becomes their weighted mean and ``r`` the constant
    that no canvas can remove. Any number of styles therefore costs the same. The gradient is :math:`\frac{4w}{N} (G - A) F`
    (eq. 6, for features before or after the non-linearity alike). It is added to the gradient from deeper layers in the same
    matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "batch channels channels"],
        coefficient: Float[Tensor, " batch"],
        remainder: Float[Tensor, " batch"],
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Return the features unchanged, and each sample's error."""
        difference = _gram_error(features, target)
        loss = coefficient * difference.square().sum(dim=(1, 2)) + remainder
        ctx.save_for_backward(features, difference, coefficient)
        ctx.set_materialize_grads(False)
        return features, loss

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None, None]:
        """Return the sum of the gradient from deeper layers and the gradient of the loss."""
        passing, upstream = gradients
        if upstream is None:
            return passing, None, None, None
        features, difference, coefficient = ctx.saved_tensors
        scale = (4 / features[0, 0].numel() * coefficient * upstream).view(-1, 1, 1)
        step = (difference * scale).to(features.dtype)
        # In place: each gradient in the chain of layers has only one consumer.
        if passing is not None and passing.stride() == features.stride():
            return _mix(step, features, passing), None, None, None
        own = _mix(step, features, None)
        return own if passing is None else own.add_(passing), None, None, None
