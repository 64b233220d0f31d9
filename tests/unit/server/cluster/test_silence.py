"""A peer that sends nothing is lost; one whose messages could not be read, since this process slept, is not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from impasto_server.cluster import silence as module


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fake clocks alone say how much time has passed."""
    real = asyncio.sleep
    monkeypatch.setattr(module.asyncio, "sleep", lambda _: real(0))


def _times_until_silent(peer: SimpleNamespace, times: list[float]) -> int:
    """Return at which reading of the clock the peer is given up."""
    read = 0

    def clock() -> float:
        nonlocal read
        read += 1
        return times[read - 1]

    words = asyncio.run(module.silence(peer, clock))
    assert words == "was silent for 3 s"
    return read


def test_a_peer_is_lost_after_three_seconds() -> None:
    """Not before, since a check is made ten times in that time."""
    assert _times_until_silent(SimpleNamespace(heard=0.0), [0.0, 0.3, 2.9 - 1.3, 2.9, 3.1]) == 5


def test_a_process_that_slept_gives_its_peer_the_time_anew() -> None:
    """A check that is a minute late says nothing about the peer."""
    peer = SimpleNamespace(heard=0.0)
    assert _times_until_silent(peer, [0.0, 0.3, 60.0, 61.0, 62.0, 62.9, 63.1]) == 7
    assert peer.heard == 60.0
