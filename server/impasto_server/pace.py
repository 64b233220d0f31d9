"""How long jobs are going to take, from how long steps have taken. Pure."""

from __future__ import annotations

from impasto_engine.architectures import ARCHITECTURES, split
from impasto_engine.parameters import Parameters, level_sizes, level_steps

MEMORY = 0.9
"""How much of what is known a newer step leaves."""
FLOAT32_OVER_BFLOAT16 = 1.8
"""Of a device that computes with bfloat16 (measured on two cores of a CPU)."""


class Pace:
    """Learns how many seconds a step takes for each pixel of the canvas, in the device's own arithmetic and with VGG16."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def learn(self, device: str, seconds_per_pixel: float) -> None:
        """Take in what a step took."""
        known = self._seconds.get(device)
        self._seconds[device] = seconds_per_pixel if known is None else MEMORY * known + (1 - MEMORY) * seconds_per_pixel

    def seconds(self, width: int, height: int, parameters: Parameters, done: int = 0) -> float | None:
        """Return how long a job's steps are going to take on an average device; None before any step was seen.

        Args:
            width: Of the canvas.
            height: Of the canvas.
            parameters: How it is painted.
            done: Steps that are done.
        """
        if not self._seconds:
            return None
        per_pixel = sum(self._seconds.values()) / len(self._seconds)
        return per_pixel * work(width, height, parameters, done)


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
