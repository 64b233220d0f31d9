"""Waiting for a peer to fall silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from impasto_server.cluster.wire import ASLEEP_S, SILENCE_S


class Peer(Protocol):
    """The other end of a stream.

    Attributes:
        heard: When it sent something last, by a monotonic clock.
    """

    heard: float


async def silence(peer: Peer, clock: Callable[[], float] = time.monotonic) -> str:
    """Return when a peer was silent for too long, with words that say so.

    A check that comes late means that this process was suspended, and says nothing about the peer, which gets its time anew.
    """
    step, checked = SILENCE_S / 10, clock()
    while True:
        await asyncio.sleep(step)
        now = clock()
        if now - checked > ASLEEP_S + step:
            peer.heard = now
        checked = now
        if now - peer.heard > SILENCE_S:
            return f"was silent for {SILENCE_S:g} s"
