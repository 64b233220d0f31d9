"""The scheduler through a million events of a random fleet; see simulation.py for what is checked at each of them."""

from __future__ import annotations

import pytest

from impasto_server.scheduling.scheduler import Capacity
from tests.unit.server.scheduling.simulation import Simulation

FLEETS = {
    "one CPU": {"cpu": Capacity(1, memory=600)},
    "two GPUs": {"cuda:0": Capacity(16, memory=1200, group=8), "cuda:1": Capacity(16, memory=1200, group=8)},
    "unlike ones": {
        "big": Capacity(8, memory=2000, group=4),
        "small": Capacity(2, memory=500, group=1),
        "odd": Capacity(3, memory=480),
    },
    "no limits": {"a": Capacity(4), "b": Capacity(2, group=64)},
}


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.7, 1.4], ids=["calm", "overloaded"])
@pytest.mark.parametrize("fleet", FLEETS)
def test_a_fleet_loses_no_job(fleet: str, load: float) -> None:
    """125,000 events each: every accepted job ends once, none runs twice at once, budgets hold, the first in line is next."""
    simulation = Simulation(seed=len(fleet), workers=FLEETS[fleet], load=load)
    simulation.run(125_000)
    counts = simulation.counts
    assert min(counts[name] for name in ("done", "cancelled", "failed", "lost workers", "preempted")) > 20, counts
    assert counts["refused"] > 0 or load < 1


def test_nobody_starves() -> None:
    """However many of higher priority come: a job waits no longer than its age can make up for, plus the work before it."""
    simulation = Simulation(seed=7, workers={"cpu": Capacity(1, memory=600)}, load=1.2, max_queued=32)
    simulation.run(100_000)
    assert simulation.counts["refused"] > 100
    assert simulation.longest_wait_s < 600
