from __future__ import annotations

import itertools

import pytest

from impasto.errors import InvalidRequest, Unavailable
from impasto.retry import Retry

AWAY = Unavailable("away", reason="UNAVAILABLE")


def test_the_waits_grow_and_shrink_again_with_an_answer() -> None:
    """From a tenth of a second, about doubling, five seconds at most."""
    patience = Retry(1e9, answered=True)
    waits = [patience.delay(AWAY) for _ in range(10)]
    assert waits[0] == pytest.approx(0.1, rel=0.21)
    assert all(after > before or after > 4 for before, after in itertools.pairwise(waits))
    assert max(waits) <= 5 * 1.2
    patience.reset()
    assert patience.delay(AWAY) == pytest.approx(0.1, rel=0.21)


def test_only_absence_is_borne_and_only_so_long() -> None:
    """Other errors pass at once; so does the absence of a server that was never there."""
    with pytest.raises(InvalidRequest):
        Retry(60.0, answered=True).delay(InvalidRequest("wrong", reason="INVALID_FIELD"))
    with pytest.raises(Unavailable):
        Retry(60.0, answered=False).delay(AWAY)
    with pytest.raises(Unavailable):
        Retry(0.0, answered=True).delay(AWAY)
    patience = Retry(60.0, answered=False)
    patience.reset()
    assert patience.delay(AWAY) > 0


def test_a_timeout_bounds_all_tries_and_the_last_error_is_told() -> None:
    """Not that time ran out, but why."""
    patience = Retry(60.0, answered=True, timeout_s=0.25)
    assert 0 < (patience.left_s or 0) <= 0.25
    assert patience.delay(AWAY) < 0.25
    with pytest.raises(Unavailable):
        [patience.delay(AWAY) for _ in range(3)]
    assert Retry(60.0, answered=True).left_s is None
