"""Estimates the times of jobs from measured step times. Pure."""

from __future__ import annotations

import statistics
from collections import deque

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Arithmetic, Parameters, Precision, level_sizes, level_steps

RECENT = 50
"""Number of recent steps kept per device; their median is used, so that a delayed step does not count."""
FIXED_S = 0.004
"""Approximate time of a step that does not depend on its size; it is not part of the time per pixel."""
LEAST_PIXELS = 96 * 96
"""Steps of smaller canvases are dominated by the fixed time and are not used to learn the time per pixel."""
MOST_CHANGED = 4.0
"""The median may differ from the measurement at the worker's start by at most this factor, either way."""
FLOAT32_OVER_BFLOAT16 = 2.5
"""Slowdown of float32 on a device whose own arithmetic is bfloat16, until steps tell: 1.8 on a CPU without AMX, 3.6 with it."""
_SLOWER = {("bfloat16", "float32"): FLOAT32_OVER_BFLOAT16}


class Pace:
    """Learns the time of a step per canvas pixel with VGG16, for each device and each arithmetic that its jobs ask for."""

    def __init__(self) -> None:
        self._start: dict[str, float] = {}
        self._own: dict[str, Arithmetic] = {}
        self._recent: dict[tuple[str, Arithmetic], deque[float]] = {}
        self._known: dict[Precision, dict[str, float]] = {}
        """Time per pixel of each device that is known, computed when it was last needed."""
        self._stale: dict[Precision, set[str]] = {}
        self._mean: dict[Precision, float | None] = {}

    def measured(self, device: str, seconds_per_pixel: float, own: Arithmetic) -> None:
        """Record the measurement at a worker's start; it is used until enough steps are seen, and bounds later values.

        Args:
            device: The device.
            seconds_per_pixel: Time of a step per pixel.
            own: The device's own arithmetic, in which it was measured.
        """
        self._start[device], self._own[device] = seconds_per_pixel, own
        self._changed(device)

    def learn(self, device: str, seconds: float, pixels: float, precision: Precision = "auto") -> None:
        """Record the time of a step over this many pixels, counted as VGG16's, of a job that asks for a precision."""
        if pixels >= LEAST_PIXELS:
            recent = self._recent.setdefault((device, self._arithmetic(device, precision)), deque(maxlen=RECENT))
            recent.append(max(0.0, seconds - FIXED_S) / pixels)
            self._changed(device)

    def per_pixel(self, device: str, precision: Precision = "auto") -> float | None:
        """Return the time of a device's step per pixel; None if unknown."""
        arithmetic = self._arithmetic(device, precision)
        start, recent = self._start.get(device), self._recent.get((device, arithmetic), ())
        if start is not None:
            start *= _SLOWER.get((self._own[device], arithmetic), 1.0)
        if len(recent) < 5 and start is not None:
            return start
        if not recent:
            return None
        seen = statistics.median(recent)
        return seen if start is None else min(max(seen, start / MOST_CHANGED), start * MOST_CHANGED)

    def _arithmetic(self, device: str, precision: Precision) -> Arithmetic:
        return self._own.get(device, "float32") if precision == "auto" else precision

    def _changed(self, device: str) -> None:
        for stale in self._stale.values():
            stale.add(device)

    def seconds(self, width: int, height: int, parameters: Parameters, done: int = 0) -> float | None:
        """Return the estimated time of a job's steps on an average device; None before any step was seen.

        Args:
            width: Width of the canvas.
            height: Height of the canvas.
            parameters: Parameters of the job.
            done: Steps already done.
        """
        mean = self._average(parameters.precision)
        if mean is None:
            return None
        steps = max(0, sum(level_steps(parameters)) - done)
        return mean * work(width, height, parameters, done) + FIXED_S * steps

    def _average(self, precision: Precision) -> float | None:
        """Return the mean of the devices' times per pixel; None if none is known."""
        if precision not in self._stale:
            self._stale[precision] = {*self._start, *(device for device, _ in self._recent)}
        if stale := self._stale[precision]:
            known = self._known.setdefault(precision, {})
            for device in stale:
                if (value := self.per_pixel(device, precision)) is not None:
                    known[device] = value
            stale.clear()
            self._mean[precision] = statistics.fmean(known.values()) if known else None
        return self._mean.get(precision)


def work(width: int, height: int, parameters: Parameters, done: int = 0) -> float:
    """Return the remaining pixel-steps of a job, counted as steps of VGG16."""
    pixels = total = 0.0
    before = 0
    for size, steps in zip(level_sizes(parameters), level_steps(parameters), strict=True):
        left = max(0, before + steps - max(done, before))
        pixels = width * height * (size / parameters.size_px) ** 2
        total += pixels * left
        before += steps
    return total * ARCHITECTURES[split(parameters.network)[0]].work
