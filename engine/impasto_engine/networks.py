"""Frozen networks as a sequence of named layers, evaluated only up to the deepest layer that a job reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.devices import computing
from impasto_engine.fused import convolve_rectified
from impasto_engine.parameters import Arithmetic, Pooling
from impasto_engine.trunks import empty_trunk, is_fire

Tap = Callable[[Tensor], Tensor]
"""Reads a layer's features and returns them, possibly wrapped for the gradient."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightsInfo:
    """Describes the filters of a network.

    Attributes:
        name: Short name shown to users: ``builtin``, ``imagenet``, ``imagenet-features`` or a file name.
        sha256: Hash of the loaded file, in hex.
        mean: Subtracted from RGB values in [0, 1] before the first convolution.
        std: Divides the RGB values, per channel.
        unit: Features are divided by this. Filters trained on 0-255 pixels (Caffe) respond 57.6 times as strongly as filters
            trained on pixels of unit standard deviation. After the division, one set of loss weights serves both.
    """

    name: str
    sha256: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    unit: float = 1.0


def random_trunk(architecture: str, seed: int) -> nn.Sequential:
    """Return a trunk with random filters from a normal distribution that preserves feature magnitudes (He et al. 2015)."""
    features = empty_trunk(architecture)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, empty in features.state_dict().items():
        if key.endswith(".bias"):
            state[key] = torch.zeros(empty.shape)
        else:
            deviation = (2 / empty[0].numel()) ** 0.5
            state[key] = torch.randn(empty.shape, generator=generator) * deviation
    features.load_state_dict(state, assign=True)
    return features.requires_grad_(False)


class Network:
    """A frozen convolutional trunk, resident on one device and shared by all jobs there.

    The standard deviation of the input is folded into the first filters, so that preprocessing is a single subtraction of the
    mean. Zero padding then corresponds to the mean colour, as in the original network.

    Args:
        features: torchvision's modules with their filters.
        weights: Description of the filters.
        device: Where to place the filters.
        name: Name of the architecture.
        channels_last: Whether to use the channels-last memory layout, which tensor cores and AMX prefer. By default all devices
            but Apple's use it (measured on CPUs: docs/lab/performance.md).
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
        last = device.type != "mps" if channels_last is None else channels_last
        self.layout = torch.channels_last if last else torch.contiguous_format
        self.weights = weights
        self.device = device
        self.layers = ARCHITECTURES[name].layer_names
        self._modules = [module for module in features if not isinstance(module, nn.Dropout)]
        if len(self._modules) != len(self.layers):
            raise ValueError(f"{name} has {len(self.layers)} layers, got {len(self._modules)} modules")
        self._mean = torch.tensor(weights.mean, device=device).view(1, 3, 1, 1)
        self._filters: dict[Arithmetic, dict[int, tuple[Tensor, ...]]] = {"float32": {}}
        for index, module in enumerate(self._modules):
            convolutions = [item for item in module.modules() if isinstance(item, nn.Conv2d)]
            if convolutions:
                tensors = (part for item in convolutions for part in self._prepared(item, first=index == 0))
                self._filters["float32"][index] = tuple(tensors)

    def _prepared(self, module: nn.Conv2d, *, first: bool) -> tuple[Tensor, Tensor]:
        """Return a convolution's filters and biases, rescaled and on the device."""
        weight, unit = module.weight.detach(), self.weights.unit
        if first:
            weight = weight / (torch.tensor(self.weights.std).view(1, 3, 1, 1) * unit)
        if module.bias is None:
            raise ValueError(f"a convolution of {self.name} has no bias; all convolutions need one, as in torchvision")
        return (
            weight.to(self.device, torch.float32).contiguous(memory_format=self.layout),
            (module.bias.detach() / unit).to(self.device, torch.float32),
        )

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors that it holds on the device."""
        yield self._mean
        for filters in list(self._filters.values()):
            for parts in filters.values():
                yield from parts

    def depth(self, layer: str) -> int:
        """Return the index of a layer.

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
        """Run a batch of RGB canvases (values nominally in [0, 1]) up to the deepest tapped layer, calling each tap."""
        filters = self._resident(precision)
        positions = {self.depth(layer): tap for layer, tap in taps.items()}
        features = canvas - self._mean
        if precision == "bfloat16":
            features = features.to(torch.bfloat16)
        features = features.contiguous(memory_format=self.layout)
        for index, rectified, layer in self._plan(positions, pooling):
            module = self._modules[index]
            if isinstance(module, nn.Conv2d):
                weight, bias = filters[index]
                convolve = convolve_rectified if rectified else F.conv2d
                features = convolve(features, weight, bias, module.stride, cast("tuple[int, int]", module.padding))
            elif isinstance(module, nn.ReLU):
                # In place, unless the preceding layer was tapped: the tap keeps its features for the gradient.
                features = F.relu(features, inplace=index - 1 not in positions)
            elif is_fire(module):
                features = _fire(features, filters[index])
            elif isinstance(module, nn.MaxPool2d):
                features = _pool(features, module, pooling)
            if layer in positions:
                features = positions[layer](features)

    def _plan(self, tapped: Collection[int], pooling: Pooling) -> Iterator[tuple[int, bool, int | None]]:
        """Yield each module to run, whether it is a convolution that rectifies too, and the layer that is complete then.

        A rectifier that nobody reads between a convolution and a max pooling runs after the pooling: the maximum of rectified
        values is the rectified maximum, and it has a quarter of the work, in the backward pass too.
        """
        deepest = max(tapped, default=-1)
        index = 0
        while index <= deepest:
            kinds = [type(module) for module in self._modules[index : min(index + 2, deepest) + 1]]
            rectified = kinds[:2] == [nn.Conv2d, nn.ReLU] and index not in tapped
            if rectified and kinds[2:] == [nn.MaxPool2d] and pooling == "max" and index + 1 not in tapped:
                yield from ((index, False, index), (index + 2, False, None), (index + 1, False, index + 2))
                index += 3
            elif rectified:
                yield index, True, index + 1
                index += 2
            else:
                yield index, False, index
                index += 1

    def features(
        self,
        canvas: Float[Tensor, "batch 3 height width"],
        layers: tuple[str, ...],
        pooling: Pooling = "max",
        precision: Arithmetic = "float32",
    ) -> dict[str, Float[Tensor, "batch _ _ _"]]:
        """Return the float32 features of a batch at the given layers, without gradients."""
        seen: dict[str, Tensor] = {}

        def keep(layer: str) -> Tap:
            def tap(features: Tensor) -> Tensor:
                seen[layer] = features.float()
                return features

            return tap

        with torch.no_grad(), computing(precision, self.device):
            self.forward(canvas, {layer: keep(layer) for layer in layers}, pooling, precision)
        return seen

    def _resident(self, precision: Arithmetic) -> dict[int, tuple[Tensor, ...]]:
        if precision == "tf32":
            precision = "float32"
        if precision not in self._filters:
            self._filters[precision] = {
                index: tuple(part.to(torch.bfloat16) for part in tensors) for index, tensors in self._filters["float32"].items()
            }
        return self._filters[precision]


def _fire(features: Tensor, filters: tuple[Tensor, ...]) -> Tensor:
    """Apply a fire module: squeeze, then 1x1 and 3x3 expansions, concatenated (Iandola et al. 2016)."""
    squeeze, bias, expand1, bias1, expand3, bias3 = filters
    squeezed = F.relu(F.conv2d(features, squeeze, bias), inplace=True)
    expanded = torch.cat([F.conv2d(squeezed, expand1, bias1), F.conv2d(squeezed, expand3, bias3, padding=1)], dim=1)
    return F.relu(expanded, inplace=True)


def _pool(features: Tensor, module: nn.MaxPool2d, pooling: Pooling) -> Tensor:
    size, stride = module.kernel_size, module.stride
    # An input smaller than the window still gives one output position.
    window = size if isinstance(size, int) else max(size)
    ceil = module.ceil_mode or min(features.shape[2:]) < window
    if pooling == "max":
        return F.max_pool2d(features, size, stride, ceil_mode=ceil)
    return F.avg_pool2d(features, size, stride, ceil_mode=ceil)
