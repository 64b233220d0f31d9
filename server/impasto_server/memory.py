"""How much of a device's memory a job takes: what is known is computed, what is not is measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Arithmetic
from impasto_server.jobs import JobSpec
from impasto_server.scheduler import Demand

FLOAT, CHANNELS = 4, 3
CANVASES = {"lbfgs": 6, "adam": 6}
"""Canvas-sized tensors of an optimizer besides its history: canvas, trial, gradients, directions and what an update needs."""
FORWARD_SHARE = 0.5
"""What a pass without a gradient takes over one with it, about."""
NETWORK_BYTES = 120 << 20
"""What a network takes that is loaded for a job: VGG19's filters in both arithmetics."""
OVERHEAD_BYTES = 24 << 20
"""What the libraries set up for a canvas size besides, measured on a CPU from 128 to 768 px."""


@dataclass(frozen=True)
class MemoryModel:
    """What a pass through the network takes for each pixel of the canvas, as measured on the device.

    Attributes:
        bytes_per_pixel: By arithmetic: features, their gradients and the convolutions' working space.
    """

    bytes_per_pixel: Mapping[Arithmetic, float] = field(
        default_factory=lambda: {"float32": 3000.0, "tf32": 3000.0, "bfloat16": 1800.0}
    )

    def demand(self, spec: JobSpec, arithmetic: Arithmetic) -> Demand:
        """Return what a job is going to take."""
        pixels = spec.width * spec.height
        parameters = spec.parameters
        canvases = CANVASES[parameters.optimizer] + (2 * parameters.history if parameters.optimizer == "lbfgs" else 0)
        pictures = CHANNELS * pixels + sum(CHANNELS * s.picture.width * s.picture.height for s in spec.styles)
        architecture = ARCHITECTURES[split(parameters.network)[0]]
        values = sum(architecture.values_per_pixel(layer) for layer in parameters.content_layers) if spec.content else 0
        held = canvases * CHANNELS * FLOAT * pixels + round(FLOAT * values * pixels) + pictures + OVERHEAD_BYTES
        passing = self.bytes_per_pixel[arithmetic] * pixels
        # Styles go through the network in float32 and without a gradient, at their own size.
        style_pixels = max((style.picture.width * style.picture.height for style in spec.styles), default=0)
        preparing = FORWARD_SHARE * self.bytes_per_pixel["float32"] * style_pixels
        return Demand(held, round(max(passing, preparing) * architecture.memory))

    def learn(self, arithmetic: Arithmetic, pixels: int, taken: int) -> MemoryModel:
        """Return the model raised to what a pass was seen to take; a smaller figure may have missed something."""
        seen = taken / pixels
        if seen <= self.bytes_per_pixel[arithmetic]:
            return self
        return replace(self, bytes_per_pixel={**self.bytes_per_pixel, arithmetic: seen})
