"""Estimates how much device memory a job needs: known parts are computed, the others are measured. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Arithmetic
from impasto_server.domain.job import JobSpec
from impasto_server.scheduling.scheduler import Demand

FLOAT, CHANNELS = 4, 3
FULL: Arithmetic = "float32"
CANVASES = {"lbfgs": 6, "adam": 6}
"""Canvas-sized tensors of an optimizer besides its history: canvas, trial, gradients, directions and temporaries."""
BANDS_BYTES = 16
"""Memory per pixel of the octave bands that L-BFGS needs for a canvas size."""
TARGET_COPIES = 2
"""A job's own content targets, and the stack of the targets in its batch."""
FORWARD_SHARE = 0.5
"""Approximate memory of a pass without a gradient, relative to one with a gradient."""
NETWORK_BYTES = 120 << 20
"""Memory of a network that is loaded for a job: VGG19's filters in both arithmetics."""
OVERHEAD_BYTES = 24 << 20
"""Additional memory that the libraries allocate for a canvas size, measured on a CPU from 128 to 768 px."""
LEAST_LEARNED_PIXELS = 128 * 128
"""Smaller passes are dominated by the fixed memory and teach nothing about larger ones."""
MOST_CHANGED = 1.6
"""Passes change the estimate from the start's measurement at most by this factor, up or down; more has other causes."""
REMEMBERED, NEAREST, TRUSTED = 32, 7, 2
"""Passes that are remembered of an arithmetic; those of them, nearest in size, whose median counts; how many passes the
measurement at the start counts for."""
LEAST_SLOPE = 0.5
"""Smallest memory per pixel between two measurements, relative to the larger one's mean: less is an error of measurement."""


@dataclass(frozen=True)
class Line:
    """Memory of a pass by the pixels of its canvases: a fixed part in bytes, and bytes per pixel."""

    fixed: float
    per_pixel: float

    def at(self, pixels: float) -> float:
        """Return the bytes of a pass over this many pixels."""
        return self.fixed + self.per_pixel * pixels

    def times(self, factor: float) -> Line:
        """Return a line that is this many times as high."""
        return Line(self.fixed * factor, self.per_pixel * factor)


def line_through(small: tuple[int, float], large: tuple[int, float]) -> Line:
    """Return the line through the measurements of two passes, each given by its pixels and its bytes."""
    slope = (large[1] - small[1]) / (large[0] - small[0])
    mean = large[1] / large[0]
    per_pixel = min(max(slope, LEAST_SLOPE * mean), mean)
    return Line(large[1] - per_pixel * large[0], per_pixel)


DEFAULTS: Mapping[Arithmetic, Line] = MappingProxyType(
    {"float32": Line(64 << 20, 3000.0), "tf32": Line(64 << 20, 3000.0), "bfloat16": Line(64 << 20, 1800.0)}
)


@dataclass(frozen=True)
class MemoryModel:
    """Memory of a pass through the network: a fixed part, and a part per pixel of the canvas.

    The line is measured at the worker's start, at two sizes. Later passes correct it by a factor: the median of how much the
    passes of about the same size took, relative to the line. A stray measurement therefore changes nothing, and an estimate
    that was raised comes down again.

    Attributes:
        lines: By arithmetic, as measured at the start.
        seen: Later passes by arithmetic, oldest first: their pixels, and their memory relative to the line.
    """

    lines: Mapping[Arithmetic, Line] = field(default_factory=lambda: dict(DEFAULTS))
    seen: Mapping[Arithmetic, Sequence[tuple[int, float]]] = field(default_factory=dict)

    def pass_bytes(self, arithmetic: Arithmetic, pixels: int, share: float = 1.0) -> float:
        """Return the memory of a pass with a gradient.

        Args:
            arithmetic: Arithmetic of the pass.
            pixels: Pixels of all its canvases.
            share: Memory of the pass's network relative to VGG16's.
        """
        line = self.lines[arithmetic]
        return self._factor(arithmetic, pixels) * line.at(pixels * share) if pixels else 0.0

    def demand(self, spec: JobSpec, arithmetic: Arithmetic) -> Demand:
        """Return the memory that a job will need."""
        return Demand(held_bytes(spec), self.passing_bytes(spec, arithmetic))

    def passing_bytes(self, spec: JobSpec, arithmetic: Arithmetic) -> int:
        """Return the memory that a job's passes will need."""
        share = ARCHITECTURES[split(spec.parameters.network)[0]].memory
        passing = self.pass_bytes(arithmetic, spec.width * spec.height, share)
        # Styles go through the network in float32 and without a gradient, at their own size.
        style_pixels = max((style.picture.width * style.picture.height for style in spec.styles), default=0)
        return round(max(passing, FORWARD_SHARE * self.pass_bytes("float32", style_pixels, share)))

    def kind(self, arithmetic: Arithmetic) -> Hashable:
        """Return what the memory of an arithmetic's passes, and of targets, depends on: equal for devices that are alike."""
        return tuple((self.lines[each], tuple(map(tuple, self.seen.get(each, ())))) for each in (arithmetic, FULL))

    def learn(self, arithmetic: Arithmetic, pixels: int, taken: int, share: float = 1.0) -> MemoryModel:
        """Return the model with one more measured pass; small passes are ignored.

        Args:
            arithmetic: Arithmetic of the pass.
            pixels: Pixels of all its canvases.
            taken: Bytes that it took.
            share: Memory of the pass's network relative to VGG16's.
        """
        if pixels < LEAST_LEARNED_PIXELS:
            return self
        ratio = taken / self.lines[arithmetic].at(pixels * share)
        passes = (*self.seen.get(arithmetic, ()), (pixels, ratio))[-REMEMBERED:]
        return replace(self, seen={**self.seen, arithmetic: passes})

    def _factor(self, arithmetic: Arithmetic, pixels: int) -> float:
        def distance(seen: tuple[int, float]) -> float:
            return abs(math.log(seen[0] / pixels))

        newest_first = reversed(self.seen.get(arithmetic, ()))
        nearest = sorted(newest_first, key=distance)[:NEAREST]
        median = statistics.median([*(ratio for _, ratio in nearest), *[1.0] * TRUSTED])
        return min(max(median, 1 / MOST_CHANGED), MOST_CHANGED)


def held_bytes(spec: JobSpec) -> int:
    """Return the memory that a job will hold while it runs, on any device."""
    pixels = spec.width * spec.height
    parameters = spec.parameters
    lbfgs = parameters.optimizer == "lbfgs"
    canvases = CANVASES[parameters.optimizer] + (2 * parameters.history if lbfgs else 0)
    pictures = CHANNELS * pixels + sum(CHANNELS * s.picture.width * s.picture.height for s in spec.styles)
    architecture = ARCHITECTURES[split(parameters.network)[0]]
    values = sum(architecture.values_per_pixel(layer) for layer in parameters.content_layers) if spec.content else 0
    bands = BANDS_BYTES * pixels if lbfgs else 0
    held = canvases * CHANNELS * FLOAT * pixels + round(TARGET_COPIES * FLOAT * values * pixels) + pictures
    return held + bands + OVERHEAD_BYTES
