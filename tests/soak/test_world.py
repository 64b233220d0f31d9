"""The short form of the soak of odd files, names and links; `make soak-world` runs 5,000 jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.world import World, growth


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_the_world_sends_leaves_nothing_behind(tmp_path: Path) -> None:
    """Odd files and names, slow, silent and cut links, callers who leave."""
    world = World(tmp_path, seed=1, retention_s=2)
    with world.serving():
        world.run(45, samples=5)
    assert not world.seen.wrong
    assert world.seen.done["refused"] >= 5
    assert world.seen.done["connections cut"] >= 3
    assert growth(world.samples)["descriptors"] <= 10
