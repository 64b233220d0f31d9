"""How much of a device's memory a job takes: what is known is computed, what is not is measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Arithmetic
from impasto_server.domain.job import JobSpec
from impasto_server.scheduling.scheduler import Demand

FLOAT, CHANNELS = 4, 3
CANVASES = {"lbfgs": 6, "adam": 6}
"""Canvas-sized tensors of an optimizer besides its history: canvas, trial, gradients, directions and what an update needs."""
FORWARD_SHARE = 0.5
"""What a pass without a gradient takes over one with it, about."""
NETWORK_BYTES = 120 << 20
"""What a network takes that is loaded for a job: VGG19's filters in both arithmetics."""
OVERHEAD_BYTES = 24 << 20
"""What the libraries set up for a canvas size besides, measured on a CPU from 128 to 768 px."""
FIXED_BYTES = 64 << 20
"""What any pass may take whatever its size: working space of the convolutions, blocks that the allocator keeps."""
LEAST_LEARNED_PIXELS = 128 * 128
"""Smaller passes are mostly what is fixed: nothing is learned from them of what a pixel takes."""
MOST_RAISED = 1.6
"""No pass raises what a pixel takes above so many times what the worker's start measured; more is not the pass's."""
FORGOTTEN = 0.95
"""A pass that took less lets what was learned come down by this part of the way, but not below what the start measured."""


@dataclass(frozen=True)
class MemoryModel:
    """What a pass through the network takes: something fixed, and something for each pixel of the canvas.

    Attributes:
        bytes_per_pixel: By arithmetic, as learned so far: features, their gradients and the convolutions' working space.
        measured: The same as the worker's start measured it; empty for the defaults.
    """

    bytes_per_pixel: Mapping[Arithmetic, float] = field(
        default_factory=lambda: {"float32": 3000.0, "tf32": 3000.0, "bfloat16": 1800.0}
    )
    measured: Mapping[Arithmetic, float] = field(default_factory=dict)

    def pass_bytes(self, arithmetic: Arithmetic, pixels: int) -> float:
        """Return what a pass of so many pixels takes with a gradient."""
        return self.bytes_per_pixel[arithmetic] * pixels

    def demand(self, spec: JobSpec, arithmetic: Arithmetic) -> Demand:
        """Return what a job is going to take."""
        pixels = spec.width * spec.height
        parameters = spec.parameters
        canvases = CANVASES[parameters.optimizer] + (2 * parameters.history if parameters.optimizer == "lbfgs" else 0)
        pictures = CHANNELS * pixels + sum(CHANNELS * s.picture.width * s.picture.height for s in spec.styles)
        architecture = ARCHITECTURES[split(parameters.network)[0]]
        values = sum(architecture.values_per_pixel(layer) for layer in parameters.content_layers) if spec.content else 0
        held = canvases * CHANNELS * FLOAT * pixels + round(FLOAT * values * pixels) + pictures + OVERHEAD_BYTES
        passing = self.pass_bytes(arithmetic, pixels)
        # Styles go through the network in float32 and without a gradient, at their own size.
        style_pixels = max((style.picture.width * style.picture.height for style in spec.styles), default=0)
        preparing = FORWARD_SHARE * self.pass_bytes("float32", style_pixels)
        return Demand(held, round(max(passing, preparing) * architecture.memory))

    def learn(self, arithmetic: Arithmetic, pixels: int, taken: int, share: float = 1.0) -> MemoryModel:
        """Return the model after a pass was seen.

        What is fixed is taken off first, small passes tell nothing, and no pass raises the figure far above what the worker's
        start measured: a stray allocation must not make every later job look too large. Passes that take less let it come down.

        Args:
            arithmetic: Of the pass.
            pixels: Of all canvases in it.
            taken: Bytes.
            share: What the pass's network takes over what VGG16's takes.
        """
        if pixels < LEAST_LEARNED_PIXELS:
            return self
        before = self.bytes_per_pixel[arithmetic]
        start = self.measured.get(arithmetic, before)
        seen = max(0.0, taken - FIXED_BYTES) / pixels / share
        learned = min(seen, start * MOST_RAISED) if seen > before else max(start, FORGOTTEN * before + (1 - FORGOTTEN) * seen)
        return replace(
            self,
            bytes_per_pixel={**self.bytes_per_pixel, arithmetic: learned},
            measured={**self.measured, arithmetic: start},
        )
