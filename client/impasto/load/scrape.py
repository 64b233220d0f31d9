"""The server's own figures during a run, from its /metrics."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable

WANTED = {
    "impasto_queue_depth": "waiting",
    "impasto_jobs_running": "running",
    "impasto_evaluations_total": "evaluations",
    "impasto_batch_occupancy_sum": "occupancy_sum",
    "impasto_batch_occupancy_count": "occupancy_count",
    "impasto_gpu_utilization_ratio": "gpu",
    "impasto_event_loop_lag_seconds_sum": "lag_sum",
    "impasto_event_loop_lag_seconds_count": "lag_count",
}
"""Metrics that are kept, summed over their labels, and what a report calls them."""
_LINE = re.compile(r"(\w+)(?:\{[^}]*\})? ([-+.\deEinfaN]+)")


def parse(text: str) -> dict[str, float]:
    """Return the wanted figures of a page of metrics."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match[1] in WANTED:
            found[WANTED[match[1]]] = found.get(WANTED[match[1]], 0.0) + float(match[2])
    return found


async def sample(url: str, now: Callable[[], float], into: list[dict[str, float]], period_s: float = 1.0) -> None:
    """Read a page of metrics for ever and keep what is wanted of it; a page that cannot be read is left out."""
    while True:
        try:
            text = await asyncio.to_thread(_read, url)
            into.append({"at": now(), **parse(text)})
        except OSError:
            pass
        await asyncio.sleep(period_s)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the user's own address
        return str(answer.read().decode())
