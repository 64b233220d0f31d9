"""The part of gpu.py that races this engine against the textbook on one device."""

from __future__ import annotations

from typing import Any

from engine import make_job, race
from gpu_parts import Run


def textbook_race(run: Run) -> list[dict[str, Any]]:
    """Return both loss curves by evaluations and by seconds, at the usual size; the textbook computes in float32."""
    network, found = run.network(), []
    size, evaluations = (32, 20) if run.tiny else (512, 300)
    for init in ("content",) if run.tiny else ("content", "noise"):
        found.append(race(network, make_job(network, size, init=init), evaluations, min(200, evaluations)))
        if run.left_s < 40:
            break
    return found
