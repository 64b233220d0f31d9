"""A synthetic natural picture. The network's response to it gives the lower bounds of the normalizers."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from jaxtyping import UInt8
from torch import Tensor

SIDE_PX = 128
_MEAN, _DEVIATION = 0.45, 0.22
_COLOR = 0.3
"""Amplitude of the independent noise per channel, relative to the grey noise that all channels share."""


@functools.cache
def picture() -> UInt8[Tensor, "height width 3"]:
    """Return deterministic noise with the spectrum of photographs, amplitude 1 / frequency (Field 1987)."""
    generator = torch.Generator().manual_seed(1)
    white = torch.randn(3, SIDE_PX, SIDE_PX, generator=generator, dtype=torch.float64)
    frequencies = torch.fft.fftfreq(SIDE_PX, dtype=torch.float64)
    radius = (frequencies[:, None].square() + frequencies.square()).sqrt().clamp_min(1 / SIDE_PX)
    noise = torch.fft.ifft2(torch.fft.fft2(white) / radius).real
    mixed = (noise.mean(dim=0) * 3**0.5 + _COLOR * noise) / (1 + _COLOR**2) ** 0.5
    levels = (mixed / mixed.std() * _DEVIATION + _MEAN).clamp(0, 1) * 255
    pixels: Tensor = levels.round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return pixels


def powers(features: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean square of each layer's values."""
    return {layer: float(values.square().mean()) for layer, values in features.items()}
