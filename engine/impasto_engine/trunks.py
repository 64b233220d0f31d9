"""Modules of the trunks: torchvision's where it is installed, else ours, with the same keys and the same arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn

from impasto_engine.architectures import ARCHITECTURES

_VGG = ("vgg16", "vgg19")


def empty_trunk(architecture: str) -> nn.Sequential:
    """Return the feature stack of a network, without the classifier. Its parameters are on the meta device."""
    models = torchvision_models()
    with torch.device("meta"):
        return own_trunk(architecture) if models is None else getattr(models, architecture)(weights=None).features


def torchvision_models() -> ModuleType | None:
    """Return torchvision's models; None if it is not installed, or was built for another torch."""
    try:
        from torchvision import models  # noqa: PLC0415 - not installed everywhere
    except (ImportError, RuntimeError):  # "operator torchvision::nms does not exist"
        return None
    return cast("ModuleType", models)


def own_trunk(architecture: str) -> nn.Sequential:
    """Return the same stack as torchvision's, without it.

    Sources: Simonyan and Zisserman 2015 (VGG), Krizhevsky 2014 (AlexNet), Iandola et al. 2016 (SqueezeNet 1.1).
    """
    if architecture in _VGG:
        return nn.Sequential(*_vgg(architecture))
    return nn.Sequential(*(_alexnet() if architecture == "alexnet" else _squeezenet()))


def _vgg(architecture: str) -> Iterator[nn.Module]:
    width = 3
    for layer in ARCHITECTURES[architecture].layers:
        if layer.name.startswith("conv"):
            yield nn.Conv2d(width, layer.channels, 3, padding=1)
            width = layer.channels
        else:
            yield nn.ReLU(inplace=True) if layer.name.startswith("relu") else nn.MaxPool2d(2, 2)


def _alexnet() -> Iterator[nn.Module]:
    sizes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
    for index, (before, after, kernel, stride, padding) in enumerate(sizes):
        yield nn.Conv2d(before, after, kernel, stride, padding)
        yield nn.ReLU(inplace=True)
        if index in (0, 1, 4):
            yield nn.MaxPool2d(3, 2)


def _squeezenet() -> Iterator[nn.Module]:
    yield nn.Conv2d(3, 64, 3, stride=2)
    yield nn.ReLU(inplace=True)
    width = 64
    for group in (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256))):
        yield nn.MaxPool2d(3, 2, ceil_mode=True)
        for squeezed, expanded in group:
            yield Fire(width, squeezed, expanded)
            width = 2 * expanded


class Fire(nn.Module):
    """SqueezeNet's fire module: a 1 x 1 convolution, then a 1 x 1 and a 3 x 3 convolution side by side.

    Args:
        before: Number of input channels.
        squeezed: Channels after the first convolution.
        expanded: Channels of each of the two others.
    """

    def __init__(self, before: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features after the non-linearity, shape (N, 2 * expanded, H, W)."""
        squeezed = self.squeeze_activation(self.squeeze(features))
        sides = self.expand1x1_activation(self.expand1x1(squeezed)), self.expand3x3_activation(self.expand3x3(squeezed))
        return torch.cat(sides, 1)


def is_fire(module: nn.Module) -> bool:
    """Whether a module is a fire module, torchvision's or ours."""
    return type(module).__name__ == "Fire"
