"""Estimates the times of jobs from measured step times. Pure."""

from __future__ import annotations

import statistics
from collections import deque

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Parameters, level_sizes, level_steps

RECENT = 50
"""Number of recent steps kept per device; their median is used, so that a delayed step does not count."""
FIXED_S = 0.004
"""Approximate time of a step that does not depend on its size; it is not part of the time per pixel."""
LEAST_PIXELS = 96 * 96
"""Steps of smaller canvases are dominated by the fixed time and are not used to learn the time per pixel."""
MOST_CHANGED = 4.0
"""The median may differ from the measurement at the worker's start by at most this factor, either way."""
FLOAT32_OVER_BFLOAT16 = 1.8
"""Slowdown of float32 on a device that computes with bfloat16 (measured on two cores of a CPU)."""


class Pace:
    """Learns the time of a step per canvas pixel, in the device's own arithmetic and with VGG16."""

    def __init__(self) -> None:
        self._start: dict[str, float] = {}
        self._recent: dict[str, deque[float]] = {}
        self._known: dict[str, float] = {}
        """Time per pixel of each device that is known, computed when it was last needed."""
        self._stale: set[str] = set()
        self._mean: float | None = None

    def measured(self, device: str, seconds_per_pixel: float) -> None:
        """Record the measurement at a worker's start; it is used until enough steps are seen, and bounds later values."""
        self._start[device] = seconds_per_pixel
        self._recent.setdefault(device, deque(maxlen=RECENT))
        self._stale.add(device)

    def learn(self, device: str, seconds: float, pixels: float) -> None:
        """Record the time of a step over this many pixels, counted as VGG16's in the device's own arithmetic."""
        if pixels >= LEAST_PIXELS:
            recent = self._recent.setdefault(device, deque(maxlen=RECENT))
            recent.append(max(0.0, seconds - FIXED_S) / pixels)
            self._stale.add(device)

    def per_pixel(self, device: str) -> float | None:
        """Return the time of a device's step per pixel; None if unknown."""
        start, recent = self._start.get(device), self._recent.get(device, ())
        if len(recent) < 5 and start is not None:
            return start
        if not recent:
            return None
        seen = statistics.median(recent)
        return seen if start is None else min(max(seen, start / MOST_CHANGED), start * MOST_CHANGED)

    def seconds(self, width: int, height: int, parameters: Parameters, done: int = 0) -> float | None:
        """Return the estimated time of a job's steps on an average device; None before any step was seen.

        Args:
            width: Width of the canvas.
            height: Height of the canvas.
            parameters: Parameters of the job.
            done: Steps already done.
        """
        mean = self._average()
        if mean is None:
            return None
        steps = max(0, sum(level_steps(parameters)) - done)
        return mean * work(width, height, parameters, done) + FIXED_S * steps

    def _average(self) -> float | None:
        """Return the mean of the devices' times per pixel; None if none is known."""
        if self._stale:
            for device in self._stale:
                if (value := self.per_pixel(device)) is not None:
                    self._known[device] = value
            self._stale.clear()
            self._mean = statistics.fmean(self._known.values()) if self._known else None
        return self._mean


def work(width: int, height: int, parameters: Parameters, done: int = 0) -> float:
    """Return the remaining pixel-steps of a job, counted as steps of VGG16 in the device's own arithmetic."""
    pixels = total = 0.0
    before = 0
    for size, steps in zip(level_sizes(parameters), level_steps(parameters), strict=True):
        left = max(0, before + steps - max(done, before))
        pixels = width * height * (size / parameters.size_px) ** 2
        total += pixels * left
        before += steps
    factor = ARCHITECTURES[split(parameters.network)[0]].work
    return total * factor * (FLOAT32_OVER_BFLOAT16 if parameters.precision == "float32" else 1.0)
