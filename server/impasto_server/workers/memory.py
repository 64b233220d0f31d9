"""Estimates how much device memory a job needs: known parts are computed, the others are measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Arithmetic
from impasto_server.domain.job import JobSpec
from impasto_server.scheduling.scheduler import Demand

FLOAT, CHANNELS = 4, 3
CANVASES = {"lbfgs": 6, "adam": 6}
"""Canvas-sized tensors of an optimizer besides its history: canvas, trial, gradients, directions and temporaries."""
FORWARD_SHARE = 0.5
"""Approximate memory of a pass without a gradient, relative to one with a gradient."""
NETWORK_BYTES = 120 << 20
"""Memory of a network that is loaded for a job: VGG19's filters in both arithmetics."""
OVERHEAD_BYTES = 24 << 20
"""Additional memory that the libraries allocate for a canvas size, measured on a CPU from 128 to 768 px."""
FIXED_BYTES = 64 << 20
"""Memory that any pass may need whatever its size: workspace of the convolutions, blocks that the allocator keeps."""
LEAST_LEARNED_PIXELS = 128 * 128
"""Smaller passes are dominated by the fixed memory and are not used to learn the memory per pixel."""
MOST_RAISED = 1.6
"""A pass raises the memory per pixel at most to this multiple of the start's measurement; more has other causes."""
FORGOTTEN = 0.95
"""Weight of the learned value after a pass that took less; it does not fall below the start's measurement."""


@dataclass(frozen=True)
class MemoryModel:
    """Memory of a pass through the network: a fixed part, and a part per pixel of the canvas.

    Attributes:
        bytes_per_pixel: By arithmetic, as learned so far: features, their gradients and the convolutions' workspace.
        measured: The same, as measured at the worker's start; empty for the defaults.
    """

    bytes_per_pixel: Mapping[Arithmetic, float] = field(
        default_factory=lambda: {"float32": 3000.0, "tf32": 3000.0, "bfloat16": 1800.0}
    )
    measured: Mapping[Arithmetic, float] = field(default_factory=dict)

    def pass_bytes(self, arithmetic: Arithmetic, pixels: int) -> float:
        """Return the memory of a pass over this many pixels with a gradient."""
        return self.bytes_per_pixel[arithmetic] * pixels

    def demand(self, spec: JobSpec, arithmetic: Arithmetic) -> Demand:
        """Return the memory that a job will need."""
        return Demand(held_bytes(spec), self.passing_bytes(spec, arithmetic))

    def passing_bytes(self, spec: JobSpec, arithmetic: Arithmetic) -> int:
        """Return the memory that a job's passes will need."""
        passing = self.pass_bytes(arithmetic, spec.width * spec.height)
        # Styles go through the network in float32 and without a gradient, at their own size.
        style_pixels = max((style.picture.width * style.picture.height for style in spec.styles), default=0)
        preparing = FORWARD_SHARE * self.pass_bytes("float32", style_pixels)
        return round(max(passing, preparing) * ARCHITECTURES[split(spec.parameters.network)[0]].memory)

    def learn(self, arithmetic: Arithmetic, pixels: int, taken: int, share: float = 1.0) -> MemoryModel:
        """Return the model updated by a measured pass.

        The fixed part is subtracted first, small passes are ignored, and no pass raises the value far above the measurement at
        the worker's start: a stray allocation must not make every later job look too large. Passes that take less lower it.

        Args:
            arithmetic: Arithmetic of the pass.
            pixels: Pixels of all its canvases.
            taken: Bytes that it took.
            share: Memory of the pass's network relative to VGG16's.
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


def held_bytes(spec: JobSpec) -> int:
    """Return the memory that a job will hold while it runs, on any device."""
    pixels = spec.width * spec.height
    parameters = spec.parameters
    canvases = CANVASES[parameters.optimizer] + (2 * parameters.history if parameters.optimizer == "lbfgs" else 0)
    pictures = CHANNELS * pixels + sum(CHANNELS * s.picture.width * s.picture.height for s in spec.styles)
    architecture = ARCHITECTURES[split(parameters.network)[0]]
    values = sum(architecture.values_per_pixel(layer) for layer in parameters.content_layers) if spec.content else 0
    return canvases * CHANNELS * FLOAT * pixels + round(FLOAT * values * pixels) + pictures + OVERHEAD_BYTES
