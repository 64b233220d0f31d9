"""The server's metrics before, during and after a run, from its /metrics."""

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
"""Metrics that go up and down (gauges), and their names in a report."""
COUNTS: Mapping[str, str] = {
    "impasto_jobs_accepted_total": "jobs accepted",
    "impasto_jobs_rejected_total": "jobs rejected",
    "impasto_jobs_ended_total": "jobs ended",
    "impasto_evaluations_total": "evaluations",
    "impasto_preemptions_total": "preemptions",
    "impasto_resumes_total": "jobs resumed",
    "impasto_worker_restarts_total": "worker restarts",
}
"""Metrics that only grow (counters)."""
MEANS: Mapping[str, tuple[str, str]] = {
    "jobs per step": ("impasto_batch_occupancy_sum", "impasto_batch_occupancy_count"),
    "event loop lag, s": ("impasto_event_loop_lag_seconds_sum", "impasto_event_loop_lag_seconds_count"),
    "workers' processors in use": ("impasto_worker_cpu_seconds_total", "at"),
    "server's processors in use": ("process_cpu_seconds_total", "at"),
}
"""Ratios of the growth of two metrics."""
_WANTED = {*LEVELS, *COUNTS, *itertools.chain.from_iterable(MEANS.values())}
Sample = Mapping[str, float]
"""Values by metric, summed over their labels, and the time of reading (``at``)."""
PERIOD_S = 1.0


class ScrapeError(Exception):
    """The address does not serve metrics of impasto."""


@dataclass(frozen=True)
class Level:
    """A gauge: before the run, mean over time, maximum, and after the run."""

    name: str
    before: float
    mean: float
    highest: float
    after: float


def parse(text: str) -> dict[str, float]:
    """Return the relevant values from a page of metrics.

    Raises:
        ValueError: If it is not a page of metrics.
    """
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for item in family.samples:
            if item.name in _WANTED:
                found[item.name] = found.get(item.name, 0.0) + item.value
    return found


@contextlib.asynccontextmanager
async def sampling(url: str, now: Callable[[], float], period_s: float = PERIOD_S) -> AsyncIterator[list[Sample]]:
    """Read a page of metrics before the block, periodically during it, and after it.

    Failed reads during and after the block are skipped.

    Raises:
        ScrapeError: If the first read fails.
    """
    try:
        samples: list[Sample] = [await _read(url, now)]
    except (OSError, ValueError, HTTPException) as error:
        raise ScrapeError(f"{url} serves no metrics: {error}") from None
    if "impasto_queue_depth" not in samples[0]:
        raise ScrapeError(f"{url} serves no metrics of impasto; is it the address of `impasto serve --metrics`, with /metrics?")

    async def again() -> None:
        with contextlib.suppress(OSError, ValueError, HTTPException):
            samples.append(await _read(url, now))

    async def repeat() -> None:
        while True:
            await asyncio.sleep(period_s)
            await again()

    reading = asyncio.create_task(repeat())
    try:
        yield samples
        # The server updates its gauges twice a second: wait, so that the last sample is from after the run.
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
    """Return the gauges over a run."""
    found = []
    for metric, name in LEVELS.items():
        points = [(sample["at"], sample[metric]) for sample in samples if metric in sample]
        if points:
            values = [value for _, value in points]
            found.append(Level(name, values[0], _over_time(points), max(values), values[-1]))
    return found


def _over_time(points: Sequence[tuple[float, float]]) -> float:
    """Return the mean over time by linear interpolation: samples are unevenly spaced if the server hangs."""
    took = points[-1][0] - points[0][0]
    if not took:
        return points[-1][1]
    return sum((a + b) / 2 * (until - since) for (since, a), (until, b) in itertools.pairwise(points)) / took


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the growth of the counters during a run, as a lower bound.

    A server that restarted during the run counts from zero; its counts between the last sample and its end are lost.
    """
    return {name: _grown(samples, metric) for metric, name in COUNTS.items() if any(metric in sample for sample in samples)}


def means(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the means over a run that are known."""
    found = {}
    for name, (upper, lower) in MEANS.items():
        below = _grown(samples, lower)
        if below > 0 and any(upper in sample for sample in samples):
            found[name] = _grown(samples, upper) / below
    return found


def series(samples: Sequence[Sample], name: str) -> list[tuple[float, float]]:
    """Return one of :data:`MEANS` over time, as points of time and value."""
    pairs = ((after["at"], means((before, after)).get(name)) for before, after in itertools.pairwise(samples))
    return [(at, value) for at, value in pairs if value is not None]


def _grown(samples: Sequence[Sample], metric: str) -> float:
    values = [sample[metric] for sample in samples if metric in sample]
    return sum(after - before if after >= before else after for before, after in itertools.pairwise(values))
