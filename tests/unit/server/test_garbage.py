"""Full collections visit only what is new, and a whole one frees what was frozen."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from impasto_server import garbage


class _Node:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def short() -> Iterator[garbage.ShortCollections]:
    """Keep collections short."""
    with garbage.ShortCollections() as collections:
        yield collections
    assert gc.get_freeze_count() == 0


def _is_visited(thing: object) -> bool:
    return any(each is thing for each in gc.get_objects())


def _frozen_cycle() -> weakref.ref[_Node]:
    """Return a reference to an object that was frozen, and is garbage now."""
    node = _Node()
    gc.collect()
    return weakref.ref(node)


def test_what_survived_a_full_collection_is_not_visited_by_the_next(short: garbage.ShortCollections) -> None:
    """It is frozen; what is new is visited."""
    old = [object()]
    gc.collect()
    new = [object()]
    assert not _is_visited(old)
    assert _is_visited(new)
    assert short.freezes == 1


def test_young_collections_freeze_nothing(short: garbage.ShortCollections) -> None:
    """Else garbage of calls under way would be kept."""
    before = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    gc.collect(0)
    gc.collect(1)
    assert (gc.get_freeze_count(), short.freezes) == (before, 0)
    assert _is_visited(kept)


def test_a_whole_collection_frees_frozen_cycles(short: garbage.ShortCollections) -> None:
    """A frozen cycle is not found by a full collection, but by a whole one, which freezes the survivors again."""
    gone = _frozen_cycle()
    gc.collect()
    assert gone() is not None
    assert short.collect_whole() > 0
    assert gone() is None
    assert gc.get_freeze_count() > 0
    assert short.freezes == 0


@pytest.mark.parametrize(
    ("idle", "idle_s", "busy_s", "freed"),
    [(True, 0.0, 900.0, True), (True, 900.0, 0.0, False), (False, 0.0, 900.0, False), (False, 900.0, 0.0, True)],
)
def test_the_server_collects_whole_when_idle_or_after_long_work(
    monkeypatch: pytest.MonkeyPatch, idle: bool, idle_s: float, busy_s: float, freed: bool
) -> None:
    """Each state has its own interval."""
    monkeypatch.setattr(garbage, "IDLE_S", idle_s)
    monkeypatch.setattr(garbage, "BUSY_S", busy_s)

    async def run() -> bool:
        collecting = asyncio.create_task(garbage.collect(lambda: idle, look_s=0.001))
        await asyncio.sleep(0)
        gone = _frozen_cycle()
        for _ in range(50):
            await asyncio.sleep(0.005)
        collecting.cancel()
        return gone() is None

    assert asyncio.run(run()) is freed
    assert gc.get_freeze_count() == 0


def test_without_a_full_collection_nothing_is_collected_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle server that did nothing is left alone."""
    monkeypatch.setattr(garbage, "IDLE_S", 0.0)
    whole: list[int] = []
    monkeypatch.setattr(garbage.ShortCollections, "collect_whole", lambda collections: whole.append(1))

    async def run() -> None:
        collecting = asyncio.create_task(garbage.collect(lambda: True, look_s=0.001))
        await asyncio.sleep(0.1)
        assert not whole
        gc.collect()
        await asyncio.sleep(0.1)
        collecting.cancel()

    asyncio.run(run())
    assert whole
