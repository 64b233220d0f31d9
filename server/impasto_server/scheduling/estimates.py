"""How long jobs are going to take, from how long steps have taken. Pure."""

from __future__ import annotations

import statistics
from collections import deque

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Parameters, level_sizes, level_steps

RECENT = 50
"""Steps of a device that are remembered; their median counts, so that a step that was held up does not."""
FIXED_S = 0.004
"""What a step takes whatever its size, about: it is no part of what a pixel takes."""
LEAST_PIXELS = 96 * 96
"""Steps of smaller canvases are mostly what is fixed, and tell nothing of what a pixel takes."""
MOST_CHANGED = 4.0
"""No median moves the pace farther than this from what the worker's start measured, either way."""
FLOAT32_OVER_BFLOAT16 = 1.8
"""Of a device that computes with bfloat16 (measured on two cores of a CPU)."""


class Pace:
    """Learns how many seconds a step takes for each pixel of the canvas, in the device's own arithmetic and with VGG16."""

    def __init__(self) -> None:
        self._start: dict[str, float] = {}
        self._recent: dict[str, deque[float]] = {}

    def measured(self, device: str, seconds_per_pixel: float) -> None:
        """Take in what a worker's start measured; it stands until enough steps were seen, and bounds what they say."""
        self._start[device] = seconds_per_pixel
        self._recent.setdefault(device, deque(maxlen=RECENT))

    def learn(self, device: str, seconds: float, pixels: float) -> None:
        """Take in what a step took for so many pixels, counted as VGG16's in the device's own arithmetic."""
        if pixels >= LEAST_PIXELS:
            recent = self._recent.setdefault(device, deque(maxlen=RECENT))
            recent.append(max(0.0, seconds - FIXED_S) / pixels)

    def per_pixel(self, device: str) -> float | None:
        """Return what a step of a device takes for each pixel; None if nobody knows."""
        start, recent = self._start.get(device), self._recent.get(device, ())
        if len(recent) < 5 and start is not None:
            return start
        if not recent:
            return None
        seen = statistics.median(recent)
        return seen if start is None else min(max(seen, start / MOST_CHANGED), start * MOST_CHANGED)

    def seconds(self, width: int, height: int, parameters: Parameters, done: int = 0) -> float | None:
        """Return how long a job's steps are going to take on an average device; None before any step was seen.

        Args:
            width: Of the canvas.
            height: Of the canvas.
            parameters: How it is painted.
            done: Steps that are done.
        """
        known = [pace for device in {*self._start, *self._recent} if (pace := self.per_pixel(device)) is not None]
        if not known:
            return None
        steps = max(0, sum(level_steps(parameters)) - done)
        return sum(known) / len(known) * work(width, height, parameters, done) + FIXED_S * steps


def work(width: int, height: int, parameters: Parameters, done: int = 0) -> float:
    """Return the pixel-steps that are left of a job, counted as steps of VGG16 in the device's own arithmetic."""
    pixels = total = 0.0
    before = 0
    for size, steps in zip(level_sizes(parameters), level_steps(parameters), strict=True):
        left = max(0, before + steps - max(done, before))
        pixels = width * height * (size / parameters.size_px) ** 2
        total += pixels * left
        before += steps
    factor = ARCHITECTURES[split(parameters.network)[0]].work
    return total * factor * (FLOAT32_OVER_BFLOAT16 if parameters.precision == "float32" else 1.0)
