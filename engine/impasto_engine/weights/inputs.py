"""The input format that filters expect: channel order, value range, mean and standard deviation.

A weights file rarely states its input format. Explicit options take precedence. Otherwise the fingerprint of the first
convolution decides, since a network fine-tuned from a published VGG still resembles it there; failing that, the library's layer
names. If neither is conclusive, the file is rejected: a wrong order or range would degrade pictures without any error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch

from impasto_engine.cache import WeightsError
from impasto_engine.networks import IMAGENET_MEAN, IMAGENET_STD
from impasto_engine.weights.convolutions import Convolution

Channels = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]
CAFFE_MEAN: Triple = (123.68, 116.779, 103.939)
"""ImageNet's mean colour that VGG's authors subtract: RGB, 0 to 255."""
CAFFE_UNIT = 57.6
"""Ratio of the responses of filters for 0-255 pixels to those of filters for pixels of unit standard deviation."""
RANGES = (1, 255)

_CAFFE_BIASES = (0.7343, 0.0934, 0.0678, 0.8863, 0.2599, 0.6643, -0.0158, 0.3249)
"""First biases of conv1_1 of the authors' VGG16 (the relative distance to VGG19's is 0.14)."""
_TORCHVISION_BIASES = (0.4034, 0.3778, 0.4644, -0.3228, 0.3940, -0.3953, 0.3951, -0.5496)
"""The same for torchvision's own training of VGG16."""
_CAFFE_COLORS = {59: (1.17, 1.35, -2.09), 29: (1.53, -0.29, -1.54), 22: (-1.40, -0.15, 1.56), 1: (-1.53, 0.38, 1.37)}
"""Sums of some filters of the authors' conv1_1 over red, green and blue; they distinguish red from blue."""
_NEAR = 0.25
"""Largest relative distance between fingerprints of the same family. Other networks are at 1 or more."""
_SIMILAR = 0.6
_TORCHVISION_NAME = re.compile(r"(^|\.)features\.\d+\.weight$")
_KERAS_NAME = re.compile(r"block\d_?conv\d")


@dataclass(frozen=True)
class Expected:
    """The input format that filters expect.

    Attributes:
        channels: Channel order.
        range: Largest pixel value.
        mean: Subtracted from the pixels; RGB order, in units of the range.
        std: Divides the pixels; likewise.
        reason: How this was determined, for messages.
    """

    channels: Channels
    range: int
    mean: Triple
    std: Triple
    reason: str

    @property
    def unit(self) -> float:
        """See :class:`~impasto_engine.networks.WeightsInfo`."""
        return CAFFE_UNIT if self.range == 255 else 1.0

    def scaled(self, values: Triple) -> Triple:
        """Return values in units of the range as values for pixels in [0, 1]."""
        red, green, blue = (value / self.range for value in values)
        return red, green, blue


@dataclass(frozen=True)
class Given:
    """The input format as far as the caller specifies it. None means that the value is to be determined.

    Attributes:
        channels: Channel order.
        range: Largest pixel value: 1 or 255.
        mean: Subtracted from the pixels; three numbers in channel order, in units of the range.
        std: Divides the pixels; likewise.
    """

    channels: Channels | None = None
    range: int | None = None
    mean: Triple | None = None
    std: Triple | None = None


def determine(
    convolutions: tuple[Convolution, ...], given: Given, origin: str, preprocessing: tuple[str, ...] = ()
) -> Expected:
    """Return the input format that filters expect.

    Args:
        convolutions: The convolutions in order.
        given: The caller's specification.
        origin: Name of the file, for messages.
        preprocessing: Operations of the file's graph before the first convolution.

    Raises:
        WeightsError: If the format cannot be determined, or the specification is invalid.
    """
    _check(given)
    channels, value_range, reason = _guess(convolutions)
    if preprocessing and (given.channels is None or given.range is None or given.mean is None):
        steps = ", ".join(preprocessing)
        text = "specify the remaining preprocessing with --input, --range and --mean (and --std)"
        raise WeightsError(f"{origin}: its graph changes the picture before the first convolution ({steps}); {text}")
    if given.channels is not None or given.range is not None:
        reason = "as given" if given.channels is not None and given.range is not None else f"{reason}, the rest as given"
    channels, value_range = given.channels or channels, given.range or value_range
    if channels is None or value_range is None:
        missing = [flag for flag, value in (("--input rgb|bgr", channels), ("--range 1|255", value_range)) if value is None]
        text = "neither its first filters nor its layer names match a known network"
        raise WeightsError(f"{origin}: cannot determine the input format: {text}; give {' and '.join(missing)}")
    whole = value_range == 255
    mean = _rgb(given.mean, channels) or (CAFFE_MEAN if whole else IMAGENET_MEAN)
    std = _rgb(given.std, channels) or ((1.0, 1.0, 1.0) if whole else IMAGENET_STD)
    return Expected(channels, value_range, mean, std, reason)


def _check(given: Given) -> None:
    if given.channels not in (None, "rgb", "bgr"):
        raise WeightsError(f"--input must be rgb or bgr, got {given.channels!r}")
    if given.range not in (None, *RANGES):
        raise WeightsError(f"--range must be 1 or 255, got {given.range}")
    for flag, values, positive in (("--mean", given.mean, False), ("--std", given.std, True)):
        for value in values or ():
            if not torch.isfinite(torch.tensor(value)) or abs(value) > 1e6 or (positive and value <= 0):
                wanted = "positive numbers" if positive else "finite numbers"
                raise WeightsError(f"{flag} must be three {wanted}, in channel order and in units of --range")


def _rgb(values: Triple | None, channels: Channels) -> Triple | None:
    if values is None or channels == "rgb":
        return values
    blue, green, red = values
    return red, green, blue


def _guess(convolutions: tuple[Convolution, ...]) -> tuple[Channels | None, int | None, str]:
    first = convolutions[0]
    if _distance(first.bias, _TORCHVISION_BIASES) < _NEAR:
        return "rgb", 1, "its first filters resemble torchvision's"
    if _distance(first.bias, _CAFFE_BIASES) < _NEAR:
        order = _color_order(first)
        return order, 255, "its first filters resemble those of VGG's authors"
    names = [item.name for item in convolutions]
    if all(_TORCHVISION_NAME.search(name) for name in names):
        return "rgb", 1, "it uses torchvision's layer names"
    if all(_KERAS_NAME.search(name) for name in names):
        return "bgr", 255, "it uses Keras' layer names"
    return None, None, ""


def _distance(bias: torch.Tensor, wanted: tuple[float, ...]) -> float:
    reference = torch.tensor(wanted)
    return float((bias[: len(wanted)].float() - reference).norm() / reference.norm())


def _color_order(first: Convolution) -> Channels | None:
    reference = torch.tensor(list(_CAFFE_COLORS.values()))
    seen = first.weight[list(_CAFFE_COLORS)].float().sum(dim=(2, 3))

    def similarity(other: torch.Tensor) -> float:
        return float((reference * other).sum() / (reference.norm() * other.norm()).clamp_min(1e-12))

    if similarity(seen) > max(_SIMILAR, similarity(seen.flip(1))):
        return "rgb"
    return "bgr" if similarity(seen.flip(1)) > _SIMILAR else None
