"""The supported networks as plain data: names, channels and strides of their layers. Does not import torch.

All networks use one naming rule. Pooling layers separate blocks, and convolutions are numbered within a block: ``conv2_1`` is
before the non-linearity, ``relu2_1`` after it, ``pool2`` at the end of the block. A fire module of SqueezeNet counts as one
convolution; only its output, after the non-linearity, can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

POOL = 0
"""Marks a pooling layer in the channel lists below."""


@dataclass(frozen=True)
class Layer:
    """One layer that can be read.

    Attributes:
        name: Follows the rule above.
        channels: Number of output channels.
        stride_px: Distance between adjacent positions in canvas pixels.
    """

    name: str
    channels: int
    stride_px: int


@dataclass(frozen=True)
class Architecture:
    """A convolutional trunk.

    Attributes:
        name: As in torchvision.
        layers: From the shallowest to the deepest.
        content_layer: Default layer of the content loss.
        min_side_px: Smallest canvas side for which the deepest layer is not empty.
        memory: Approximate memory of a pass, relative to VGG16.
        work: Approximate time of a step, relative to VGG16 (measured on a CPU).
    """

    name: str
    layers: tuple[Layer, ...]
    content_layer: str
    min_side_px: int
    memory: float
    work: float

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers, from the shallowest to the deepest."""
        return tuple(layer.name for layer in self.layers)

    @property
    def first_layers(self) -> tuple[str, ...]:
        """The first layer of each block, after its non-linearity: the default layers of the style loss."""
        return tuple(name for name in self.layer_names if name.startswith("relu") and name.endswith("_1"))

    def values_per_pixel(self, layer: str) -> float:
        """Return the number of feature values of a layer per canvas pixel."""
        found = next(item for item in self.layers if item.name == layer)
        return found.channels / found.stride_px**2


def _layers(channels: Sequence[int], *, stem_stride: int = 1, fires: bool = False) -> Iterator[Layer]:
    block, position, stride, width = 1, 0, stem_stride, 3
    for count in channels:
        if count == POOL:
            stride *= 2
            yield Layer(f"pool{block}", width, stride)
            block, position = block + 1, 0
            continue
        width, position = count, position + 1
        if not fires or block == 1:
            yield Layer(f"conv{block}_{position}", width, stride)
        yield Layer(f"relu{block}_{position}", width, stride)


_VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL)
_VGG19 = (64, 64, POOL, 128, 128, POOL, *(256,) * 4, POOL, *(512,) * 4, POOL, *(512,) * 4, POOL)
_ALEXNET = (64, POOL, 192, POOL, 384, 256, 256, POOL)
_SQUEEZENET = (64, POOL, 128, 128, POOL, 256, 256, POOL, 384, 384, 512, 512)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "vgg16": Architecture("vgg16", tuple(_layers(_VGG16)), "relu4_2", 16, 1.0, 1.0),
        "vgg19": Architecture("vgg19", tuple(_layers(_VGG19)), "relu4_2", 16, 1.15, 1.22),
        "alexnet": Architecture("alexnet", tuple(_layers(_ALEXNET, stem_stride=4)), "relu3_2", 64, 0.3, 0.12),
        "squeezenet1_1": Architecture(
            "squeezenet1_1", tuple(_layers(_SQUEEZENET, stem_stride=2, fires=True)), "relu4_1", 32, 0.5, 0.17
        ),
    }
)
"""All networks by their torchvision names."""

DEFAULT = "vgg16"
RANDOM = "random"
"""Random weights: ``random-7`` uses seed 7, ``random`` uses seed 0."""


def split(name: str) -> tuple[str, str]:
    """Split a network name, ``ARCHITECTURE[:WEIGHTS]`` or ``WEIGHTS``, into architecture and weights.

    WEIGHTS may be a path that contains colons. The part before the first colon is an architecture only if it is a known name.
    """
    before, separator, after = name.partition(":")
    if before in ARCHITECTURES:
        return before, after if separator else ""
    return DEFAULT, name


def random_seed(weights: str) -> int | None:
    """Return the seed of random weights, or None if the name does not refer to random weights."""
    if weights == RANDOM:
        return 0
    prefix, _, number = weights.partition("-")
    return int(number) if prefix == RANDOM and number.isascii() and number.isdigit() and len(number) < 10 else None
