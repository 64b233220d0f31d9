"""The server's own figures before, during and after a run, from its /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families

LEVELS: Mapping[str, str] = {
    "impasto_queue_depth": "jobs waiting",
    "impasto_queue_age_seconds": "longest wait, s",
    "impasto_jobs_running": "jobs running",
    "impasto_progress_streams": "progress streams",
    "impasto_gpu_utilization_ratio": "GPUs in use",
    "impasto_gpu_memory_used_bytes": "GPU memory, bytes",
    "impasto_worker_resident_bytes": "workers' memory, bytes",
    "process_resident_memory_bytes": "server's memory, bytes",
}
"""What goes up and down, and what a report calls it."""
COUNTS: Mapping[str, str] = {
    "impasto_jobs_accepted_total": "jobs accepted",
    "impasto_jobs_rejected_total": "jobs rejected",
    "impasto_jobs_ended_total": "jobs ended",
    "impasto_evaluations_total": "evaluations",
    "impasto_preemptions_total": "jobs that made room",
    "impasto_resumes_total": "jobs gone on with",
    "impasto_worker_restarts_total": "worker restarts",
}
"""What only grows."""
MEANS: Mapping[str, tuple[str, str]] = {
    "jobs at a step": ("impasto_batch_occupancy_sum", "impasto_batch_occupancy_count"),
    "event loop late, s": ("impasto_event_loop_lag_seconds_sum", "impasto_event_loop_lag_seconds_count"),
    "workers' processors in use": ("impasto_worker_cpu_seconds_total", "at"),
    "server's processors in use": ("process_cpu_seconds_total", "at"),
}
"""How much one figure grew while another did."""
_WANTED = {*LEVELS, *COUNTS, *itertools.chain.from_iterable(MEANS.values())}
Sample = Mapping[str, float]
"""Figures by name, summed over their labels, and when they were read (``at``)."""
PERIOD_S = 1.0


class ScrapeError(Exception):
    """The address gives no metrics of impasto."""


@dataclass(frozen=True)
class Level:
    """A figure that goes up and down: before the run, in the mean over time, at its highest, after it."""

    name: str
    before: float
    mean: float
    highest: float
    after: float


def parse(text: str) -> dict[str, float]:
    """Return the wanted figures of a page of metrics.

    Raises:
        ValueError: If it is none.
    """
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for item in family.samples:
            if item.name in _WANTED:
                found[item.name] = found.get(item.name, 0.0) + item.value
    return found


@contextlib.asynccontextmanager
async def sampling(url: str, now: Callable[[], float], period_s: float = PERIOD_S) -> AsyncIterator[list[Sample]]:
    """Read a page of metrics before the block, again and again while it lasts, and after it.

    A page that cannot be read in between is left out.

    Raises:
        ScrapeError: If it cannot be read before.
    """
    try:
        samples: list[Sample] = [await _read(url, now)]
    except (OSError, ValueError, HTTPException) as error:
        raise ScrapeError(f"{url} gives no metrics: {error}") from None
    if "impasto_queue_depth" not in samples[0]:
        raise ScrapeError(f"{url} gives no metrics of impasto; is it the address of `impasto serve --metrics`, with /metrics?")

    async def again() -> None:
        with contextlib.suppress(OSError, ValueError, HTTPException):
            samples.append(await _read(url, now))

    async def keep_on() -> None:
        while True:
            await asyncio.sleep(period_s)
            await again()

    reading = asyncio.create_task(keep_on())
    try:
        yield samples
        # The server sets its levels twice a second: let those of after the run be of after the run.
        await asyncio.sleep(period_s)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await again()


async def _read(url: str, now: Callable[[], float]) -> Sample:
    text = await asyncio.to_thread(_fetch, url)
    return {"at": now(), **parse(text)}


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the user's own address
        return str(answer.read().decode())


def levels(samples: Sequence[Sample]) -> list[Level]:
    """Return what went up and down during a run."""
    found = []
    for metric, name in LEVELS.items():
        points = [(sample["at"], sample[metric]) for sample in samples if metric in sample]
        if points:
            values = [value for _, value in points]
            found.append(Level(name, values[0], _over_time(points), max(values), values[-1]))
    return found


def _over_time(points: Sequence[tuple[float, float]]) -> float:
    """Return the mean of what lay between the points on straight lines: a server that hangs is not read as often."""
    took = points[-1][0] - points[0][0]
    if not took:
        return points[-1][1]
    return sum((a + b) / 2 * (until - since) for (since, a), (until, b) in itertools.pairwise(points)) / took


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Return by how much counts grew during a run, at least.

    A server that began again in between counts from zero; what it counted between the last look and its end is lost.
    """
    return {name: _grown(samples, metric) for metric, name in COUNTS.items() if any(metric in sample for sample in samples)}


def means(samples: Sequence[Sample]) -> dict[str, float]:
    """Return means over a run, of those that anything is known of."""
    found = {}
    for name, (upper, lower) in MEANS.items():
        below = _grown(samples, lower)
        if below > 0 and any(upper in sample for sample in samples):
            found[name] = _grown(samples, upper) / below
    return found


def series(samples: Sequence[Sample], name: str) -> list[tuple[float, float]]:
    """Return how one of :data:`MEANS` went, as points of time and value."""
    pairs = ((after["at"], means((before, after)).get(name)) for before, after in itertools.pairwise(samples))
    return [(at, value) for at, value in pairs if value is not None]


def _grown(samples: Sequence[Sample], metric: str) -> float:
    values = [sample[metric] for sample in samples if metric in sample]
    return sum(after - before if after >= before else after for before, after in itertools.pairwise(values))
