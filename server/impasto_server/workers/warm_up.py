"""A worker's first steps: they load what the libraries load late, and measure the time and the memory of a step."""

from __future__ import annotations

import time

import torch

from impasto_engine import painting
from impasto_engine.batch import RunningBatch, default_group_size
from impasto_engine.devices import PeakMemory, auto_precision, describe, free_memory, gpu_uuid
from impasto_engine.networks import Network
from impasto_engine.parameters import Arithmetic, Parameters
from impasto_engine.weights import available
from impasto_server.workers.memory import FORWARD_SHARE, Line, MemoryModel, line_through
from impasto_server.workers.messages import Ready
from impasto_server.workers.networks import described

SIDES_PX = {"cuda": (256, 512)}
"""Sizes of the canvases: on a GPU the usual ones, because the first job of a size would pay for its setup."""
OTHER_SIDES_PX = (128, 256)
STEPS = 3
"""The first step of a size includes what the libraries keep; the lowest of the others counts, because stray allocations raise
some."""
_OTHER_ARITHMETIC: dict[Arithmetic, tuple[Arithmetic, float]] = {"bfloat16": ("float32", 2.0), "float32": ("bfloat16", 0.5)}


def warm_up(network: Network) -> Ready:
    """Paint a few steps at two sizes, so that the first job does not pay for the setup, and measure them."""
    device = network.device
    arithmetic = auto_precision(device)
    sides = SIDES_PX.get(device.type, OTHER_SIDES_PX)
    passes, prepared, seconds = [], 0.0, 0.0
    for side in sides:
        preparing, passing, seconds = _measured(network, side, rounds=2 if side == sides[-1] else 1)
        passes.append((side**2, passing))
        prepared = preparing / side**2
    line = line_through(*passes)
    memory = _model(arithmetic, line, prepared / FORWARD_SHARE) if line.per_pixel else MemoryModel()
    return Ready(
        describe(device),
        described(network),
        arithmetic,
        default_group_size(device),
        memory,
        free_memory(device),
        available(),
        seconds / sides[-1] ** 2,
        gpu_uuid(device),
    )


def _measured(network: Network, side: int, rounds: int) -> tuple[int, int, float]:
    """Return the memory of the targets, the memory of a pass, and the time of a whole step, of a square canvas.

    The targets are made as often as said; the least memory counts.
    """
    device = network.device
    grey = torch.full((side, side, 3), 128, dtype=torch.uint8)
    job = painting.Job(side, side, grey, (painting.Style(grey),), Parameters(size_px=side))
    preparing = []
    for _ in range(rounds):
        with PeakMemory(device) as peak:
            (level, *_) = painting.levels(job)
            entrant = painting.entrant(network, level)
        preparing.append(peak.taken)
    batch = RunningBatch(network, level.job.key(device), lag=0)
    batch.add("warm-up", entrant)
    passing, seconds = [], []
    for _ in range(STEPS):
        peak = PeakMemory(device)
        began = time.perf_counter()
        batch.step(lambda peak=peak: peak)  # type: ignore[misc]
        seconds.append(time.perf_counter() - began)
        passing.append(peak.taken)
    return min(preparing), min(passing[1:]), min(seconds)


def _model(arithmetic: Arithmetic, line: Line, prepared: float) -> MemoryModel:
    """Return the memory by arithmetic; that of the others follows from the measured one's.

    Args:
        arithmetic: What was measured.
        line: Memory of its passes.
        prepared: Memory per pixel of a float32 pass with a gradient, according to what targets take, which need half of it.
    """
    other, factor = _OTHER_ARITHMETIC[arithmetic]
    lines: dict[Arithmetic, Line] = {arithmetic: line, other: line.times(factor)}
    full = lines["float32"]
    lines["float32"] = Line(full.fixed, max(full.per_pixel, min(prepared, 2 * full.per_pixel)))
    return MemoryModel({**lines, "tf32": lines["float32"]})
