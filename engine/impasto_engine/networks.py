"""VGG networks seen as a row of named layers, frozen, cut after the deepest layer that a job reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg as torchvision_vgg

from impasto_engine.parameters import Arithmetic, Pooling

Tap = Callable[[Tensor], Tensor]
"""Reads a layer's features and returns them (possibly wrapped for the gradient)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightsInfo:
    """Which filters a network carries.

    Attributes:
        name: Short name shown to users: ``builtin``, ``imagenet``, ``imagenet-features`` or a file name.
        sha256: Hash of the file that was loaded, in hex.
        mean: Subtracted from the picture's RGB values in [0, 1] before the first filter.
        std: The picture is divided by it, per channel.
        unit: Features are reported in multiples of this. Filters made for 0-255 pixels (Caffe) answer 57.6 times as
            strongly as filters made for pixels of unit deviation; dividing by it lets one set of loss weights serve both.
    """

    name: str
    sha256: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    unit: float = 1.0


def layer_names(features: nn.Sequential) -> tuple[str, ...]:
    """Return the name of every module of a VGG feature stack: ``conv1_1, relu1_1, ..., pool1, conv2_1, ...``."""
    names = []
    block, position = 1, 0
    for module in features:
        if isinstance(module, nn.Conv2d):
            position += 1
            names.append(f"conv{block}_{position}")
        elif isinstance(module, nn.ReLU):
            names.append(f"relu{block}_{position}")
        else:
            names.append(f"pool{block}")
            block, position = block + 1, 0
    return tuple(names)


def empty_vgg16() -> nn.Sequential:
    """Return torchvision's VGG16 feature stack (configuration D) without its classifier."""
    features: nn.Sequential = torchvision_vgg.make_layers(torchvision_vgg.cfgs["D"], batch_norm=False)
    return features


class Network:
    """A frozen convolutional trunk, resident on one device, shared by all jobs there.

    The input's mean is subtracted and its deviation folded into the first filters, so that one subtraction is the whole
    preprocessing; the zero padding then stands for the mean colour, as in the original.

    Args:
        features: torchvision's modules with their filters.
        weights: Which filters they are.
        device: Where they shall be.
        name: Of the architecture.
        channels_last: Whether a position's channels lie side by side, as tensor cores want them; by default on a GPU. It
            gains nothing on a CPU (measured).
    """

    def __init__(
        self,
        features: nn.Sequential,
        weights: WeightsInfo,
        device: torch.device,
        name: str = "vgg16",
        *,
        channels_last: bool | None = None,
    ) -> None:
        self.name = name
        last = device.type == "cuda" if channels_last is None else channels_last
        self._layout = torch.channels_last if last else torch.contiguous_format
        self.weights = weights
        self.device = device
        self.layers = layer_names(features)
        self._kinds = [type(module) for module in features]
        first = features[0]
        assert isinstance(first, nn.Conv2d)  # noqa: S101 - narrows the type; every VGG starts with a convolution
        self._mean = torch.tensor(weights.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(weights.std).view(1, 3, 1, 1)
        self._filters: dict[Arithmetic, dict[int, tuple[Tensor, Tensor]]] = {"float32": {}}
        for index, module in enumerate(features):
            if isinstance(module, nn.Conv2d):
                weight = module.weight.detach()
                if index == 0:
                    weight = weight / (std * weights.unit)
                bias = module.bias
                if bias is None:
                    raise ValueError(f"layer {self.layers[index]} has no bias; VGG16's convolutions all have one")
                self._filters["float32"][index] = (
                    weight.to(device, torch.float32).contiguous(memory_format=self._layout),
                    (bias.detach() / weights.unit).to(device, torch.float32),
                )

    def depth(self, layer: str) -> int:
        """Return the position of a layer.

        Raises:
            ValueError: If the network has no layer of that name.
        """
        try:
            return self.layers.index(layer)
        except ValueError:
            raise ValueError(f"{self.name} has no layer {layer!r}; it has {', '.join(self.layers)}") from None

    def forward(
        self,
        canvas: Float[Tensor, "batch 3 height width"],
        taps: Mapping[str, Tap],
        pooling: Pooling = "max",
        precision: Arithmetic = "float32",
    ) -> None:
        """Carry a batch of RGB canvases (values nominally in [0, 1]) to the deepest tapped layer, calling each tap there."""
        filters = self._resident(precision)
        positions = {self.depth(layer): tap for layer, tap in taps.items()}
        features = canvas - self._mean
        if precision == "bfloat16":
            features = features.to(torch.bfloat16)
        features = features.contiguous(memory_format=self._layout)
        for index in range(max(positions, default=-1) + 1):
            kind = self._kinds[index]
            if kind is nn.Conv2d:
                features = F.conv2d(features, *filters[index], padding=1)
            elif kind is nn.ReLU:
                # In place, unless the features before it were read: the tap keeps them for its gradient.
                features = F.relu(features, inplace=index - 1 not in positions)
            elif pooling == "max":
                features = F.max_pool2d(features, 2)
            else:
                features = F.avg_pool2d(features, 2)
            if index in positions:
                features = positions[index](features)

    def features(
        self,
        canvas: Float[Tensor, "batch 3 height width"],
        layers: tuple[str, ...],
        pooling: Pooling = "max",
        precision: Arithmetic = "float32",
    ) -> dict[str, Float[Tensor, "batch _ _ _"]]:
        """Return the float32 features of a batch at the named layers, without a gradient."""
        seen: dict[str, Tensor] = {}

        def keep(layer: str) -> Tap:
            def tap(features: Tensor) -> Tensor:
                seen[layer] = features.float()
                return features

            return tap

        with torch.no_grad():
            self.forward(canvas, {layer: keep(layer) for layer in layers}, pooling, precision)
        return seen

    def _resident(self, precision: Arithmetic) -> dict[int, tuple[Tensor, Tensor]]:
        if precision not in self._filters:
            self._filters[precision] = {
                index: (weight.to(torch.bfloat16), bias.to(torch.bfloat16))
                for index, (weight, bias) in self._filters["float32"].items()
            }
        return self._filters[precision]
