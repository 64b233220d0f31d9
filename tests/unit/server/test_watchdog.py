"""The watchdog tells a loop that is blocked from one that gets no processor."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

import pytest

from impasto_server.observability import watchdog
from impasto_server.observability.metrics import Metrics
from impasto_server.observability.watchdog import Watchdog


async def watched(dog: Watchdog) -> None:
    """Block the loop for 0.4 s while it is watched."""
    beating = asyncio.create_task(dog.beat())
    await asyncio.sleep(0.2)
    time.sleep(0.4)  # noqa: ASYNC251 - the fault that is looked for
    await asyncio.sleep(0.3)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_a_blocked_loop_is_told_with_its_place(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when it ends, with its whole time; a busy machine may block the loop elsewhere too."""
    monkeypatch.setattr(Watchdog, "_waited_s", lambda self: 0.0)
    monkeypatch.setattr(watchdog, "TELL_AGAIN_S", 0.0)
    metrics = Metrics()
    with caplog.at_level(logging.INFO, "impasto_server"):
        await watched(Watchdog(metrics))
    (told,) = [text for record in caplog.records if "it was in watched (test_watchdog.py:" in (text := record.getMessage())]
    assert int(told.split("blocked for ")[1].split(" ms")[0]) >= 400
    assert (metrics.registry.get_sample_value("impasto_event_loop_blocked_total") or 0) >= 1


async def test_a_loop_without_a_processor_is_counted_and_not_blamed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread waits in the system's queue, as on a machine whose processors all paint."""
    clock = itertools.count()
    monkeypatch.setattr(Watchdog, "_waited_s", lambda self: float(next(clock)))
    metrics = Metrics()
    with caplog.at_level(logging.INFO, "impasto_server"):
        await watched(Watchdog(metrics))
    assert not caplog.records
    assert (metrics.registry.get_sample_value("impasto_event_loop_blocked_total") or 0) >= 1


async def test_a_block_that_lasts_is_told_before_it_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs for good would otherwise say nothing."""
    monkeypatch.setattr(Watchdog, "_waited_s", lambda self: 0.0)
    beating = asyncio.create_task(Watchdog(Metrics()).beat())
    await asyncio.sleep(0.2)
    until = time.monotonic() + 20
    while not caplog.records and time.monotonic() < until:
        time.sleep(0.05)  # noqa: ASYNC251 - the fault that is looked for
    assert caplog.records
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_the_time_in_the_queue_is_read() -> None:
    """From Linux; it never falls."""
    dog = Watchdog(Metrics())
    before = dog._waited_s()
    assert 0 <= before <= dog._waited_s()
