"""A convolution and its rectifier in one pass over memory, on CPUs where oneDNN is there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Convolve = Callable[..., Tensor]


def _onednn() -> Convolve | None:
    """Return torch's operator with operations after the convolution, which torch.compile uses; None where it is missing."""
    try:
        operator: Convolve = torch.ops.mkldnn._convolution_pointwise.default
    except AttributeError:
        return None
    return operator if torch._C._has_mkldnn else None


_FUSED = _onednn()


@functools.cache
def _multiplies(dtype: torch.dtype) -> bool:
    """Whether the operator takes a type on this CPU. Without AVX-512 it refuses bfloat16, which conv2d then computes slowly."""
    if dtype is not torch.bfloat16:
        return True
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported


def convolve_rectified(features: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Return ``relu(conv2d(features, ...))``. In float32 oneDNN may choose another algorithm, which rounds differently.

    Args:
        features: Input of shape (batch, channels, height, width).
        weight: Filters.
        bias: Biases.
        stride: By dimension.
        padding: By dimension.
    """
    if _FUSED is None or features.device.type != "cpu" or not _multiplies(features.dtype):
        return F.relu(F.conv2d(features, weight, bias, stride, padding), inplace=True)
    rectified: Tensor = _Rectified.apply(features, weight, bias, list(stride), list(padding))
    return rectified


class _Rectified(torch.autograd.Function):
    """The gradient is that of the two operations, one after the other; filters get none."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, stride: list[int], padding: list[int]) -> Tensor:
        assert _FUSED is not None  # noqa: S101 - the caller has looked
        rectified = _FUSED(features, weight, bias, padding, stride, [1, 1], 1, "relu", [], "")
        ctx.save_for_backward(features, weight, rectified)
        ctx.stride, ctx.padding = stride, padding
        return rectified

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None, None]:
        features, weight, rectified = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradients[0], rectified, 0)
        own, _, _ = torch.ops.aten.convolution_backward(
            gradient, features, weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1, [True, False, False]
        )
        return own, None, None, None, None
