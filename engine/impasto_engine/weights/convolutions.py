"""Finds the convolutions of a VGG in a file by their order and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto_engine.architectures import ARCHITECTURES
from impasto_engine.cache import WeightsError

FINDABLE = ("vgg19", "vgg16")
_SHOWN = 20


@dataclass(frozen=True)
class Convolution:
    """One convolution from a file.

    Attributes:
        name: Name of the kernel in the file.
        weight: Shape (output channels, input channels, height, width).
        bias: One value per output channel; empty if there is no bias.
    """

    name: str
    weight: Tensor
    bias: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return tuple(self.weight.shape)


@dataclass(frozen=True)
class Contents:
    """The contents of a file.

    Attributes:
        kind: File type, for messages.
        convolutions: In network order, as far as the file defines it.
        normalized: Channel counts of its batch normalizations, which distinguish a VGG-BN from a VGG.
        preprocessing: Operations of the file's graph on a picture before the first convolution.
    """

    kind: str
    convolutions: tuple[Convolution, ...]
    normalized: tuple[int, ...] = ()
    preprocessing: tuple[str, ...] = ()


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a natural sort key: ``conv2d_9`` before ``conv2d_10``, ``conv2d`` before ``conv2d_1``."""
    parts = re.split(r"(\d+)", name)
    # A separator sorts before an underscore, so that `conv2d/` comes before `conv2d_1/`.
    return tuple((1, int(part)) if part.isdigit() else (0, part.replace("/", " ").replace("_", "~")) for part in parts)


def expected(architecture: str) -> tuple[tuple[int, int, int, int], ...]:
    """Return the shapes of a VGG's kernels, in order."""
    shapes, width = [], 3
    for layer in ARCHITECTURES[architecture].layers:
        if layer.name.startswith("conv"):
            shapes.append((layer.channels, width, 3, 3))
            width = layer.channels
    return tuple(shapes)


def find_vgg(contents: Contents, origin: str) -> tuple[str, tuple[Convolution, ...]]:
    """Return the architecture, ``vgg16`` or ``vgg19``, and its convolutions in order.

    Args:
        contents: Contents of the file.
        origin: Name of the file, for messages.

    Raises:
        WeightsError: If the file contains no VGG, several different ones, or one with batch normalization, or if values are
            missing or not finite.
    """
    large = [item for item in contents.convolutions if item.shape[2:] == (3, 3)]
    for order in (large, sorted(large, key=lambda item: natural(item.name))):
        for architecture in FINDABLE:
            found = list(_runs(order, expected(architecture)))
            if found:
                return architecture, _checked(architecture, found, contents, origin)
    raise WeightsError(f"{origin}: {contents.kind} without a VGG16 or VGG19: {_described(contents)}")


def _runs(order: Sequence[Convolution], shapes: tuple[tuple[int, ...], ...]) -> Iterator[tuple[Convolution, ...]]:
    for start in range(len(order) - len(shapes) + 1):
        run = tuple(order[start : start + len(shapes)])
        if tuple(item.shape for item in run) == shapes:
            yield run


def _checked(
    architecture: str, found: list[tuple[Convolution, ...]], contents: Contents, origin: str
) -> tuple[Convolution, ...]:
    run = found[0]
    others = [other for other in found[1:] if not all(map(_same, run, other))]
    if others:
        names = ", ".join(repr(item[0].name) for item in (run, *others))
        raise WeightsError(
            f"{origin}: contains {architecture} {len(others) + 1} times with different values, starting at {names}"
        )
    channels = [shape[0] for shape in expected(architecture)]
    if len(contents.normalized) >= len(channels) and set(channels) <= set(contents.normalized):
        raise WeightsError(f"{origin}: {architecture} with batch normalization, which is not supported: its features differ")
    for item in run:
        if item.bias.shape != (item.shape[0],):
            got = f"one of shape {list(item.bias.shape)}" if item.bias.numel() else "none"
            raise WeightsError(f"{origin}: {item.name!r} needs a bias of shape [{item.shape[0]}], got {got}")
        for part in (item.weight, item.bias):
            if not part.is_floating_point() or not bool(torch.isfinite(part).all()):
                raise WeightsError(f"{origin}: {item.name!r} contains values that are not finite floating-point numbers")
    return run


def _same(one: Convolution, other: Convolution) -> bool:
    return torch.equal(one.weight, other.weight)


def _described(contents: Contents) -> str:
    """Describe the convolutions of a file, for messages."""
    every = contents.convolutions
    if not every:
        return "it contains no convolutions whose kernels are plain floating-point values"
    shapes = [f"{item.shape[1]}-{item.shape[0]} ({item.shape[2]} x {item.shape[3]})" for item in every]
    more = f" and {len(shapes) - _SHOWN} more" if len(shapes) > _SHOWN else ""
    return (
        f"it contains {len(every)} convolutions with these channels: {', '.join(shapes[:_SHOWN])}{more}; "
        "VGG16 has 13 consecutive 3 x 3 ones: 3-64, 64-64, 64-128, 128-128, 128-256, two 256-256, 256-512, five 512-512"
    )
