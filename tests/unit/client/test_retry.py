from __future__ import annotations

import itertools
import threading

import pytest
from google.rpc import status_pb2

import impasto
from impasto import retry
from impasto.errors import InvalidRequest, Unavailable
from impasto.retry import Reachability, Retry

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


def test_an_answer_that_the_server_is_away_is_borne_from_the_first_call_on() -> None:
    """Such as DRAINING: the address is right."""
    draining = Unavailable("the server is shutting down", reason="DRAINING")
    draining.status = status_pb2.Status()
    assert Retry(60.0, answered=False).delay(draining) > 0


def test_a_timeout_bounds_all_tries_and_the_last_error_is_told() -> None:
    """Not that time ran out, but why."""
    patience = Retry(60.0, answered=True, timeout_s=0.25)
    assert 0 < (patience.left_s or 0) <= 0.25
    assert patience.delay(AWAY) < 0.25
    with pytest.raises(Unavailable):
        [patience.delay(AWAY) for _ in range(3)]
    assert Retry(60.0, answered=True).left_s is None


def test_a_very_long_timeout_is_none() -> None:
    """gRPC would take it for one that is over."""
    for timeout_s in (float("inf"), 1e10):
        assert Retry(60.0, answered=True, timeout_s=timeout_s).left_s is None
    with pytest.raises(InvalidRequest, match="timeout_s: must be a number"):
        Retry(60.0, answered=True, timeout_s=float("nan"))


def test_an_outage_is_told_once_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all calls of a client together, and only if it lasts; any answer ends it, also one that refuses."""
    now, told = [0.0], []
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    watch = Reachability(lambda error: told.append(str(error)), lambda: told.append("back"))
    calls = [Retry(60.0, answered=True, reachability=watch) for _ in range(3)]
    calls[0].delay(AWAY)
    calls[0].reset()
    assert told == []
    for _ in range(2):
        for call in calls:
            call.delay(AWAY)
            now[0] += 0.6
    assert told == ["away"]
    calls[1].reset()
    calls[2].reset()
    assert told == ["away", "back"]
    for _ in range(4):
        calls[0].delay(AWAY)
        now[0] += 0.6
    with pytest.raises(InvalidRequest):
        calls[1].delay(InvalidRequest("wrong"))
    assert told == ["away", "back"] * 2


def test_a_client_that_is_closed_while_it_retries_says_so() -> None:
    """By another thread; gRPC raises a ValueError."""
    with impasto.Client("127.0.0.1:1", patience_s=30) as client:
        client._answered = True
        closing = threading.Timer(0.5, client.close)
        closing.start()
        with pytest.raises(impasto.ImpastoError) as caught:
            client.server_info()
        closing.join()
    assert caught.value.reason == "CLIENT_CLOSED"
