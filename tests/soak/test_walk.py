"""The short form of the random walk; `make soak-attack` runs 20,000 operations."""

from __future__ import annotations

from tests.soak.walk import CALLS, walk


def test_no_order_of_operations_breaks_the_service() -> None:
    """No INTERNAL, no duplicate events, and every job ends, with a failing disk and dying workers."""
    before = sum(CALLS.values())
    walk(4, 30)
    assert sum(CALLS.values()) - before > 30
