from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

import impasto
from impasto import _client, retry
from impasto.errors import InvalidRequest, Unavailable
from impasto.retry import Deadline, Reachability, Retry

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
    patience = Retry(60.0, answered=True, deadline=Deadline(0.25))
    assert 0 < (patience.left_s or 0) <= 0.25
    assert patience.delay(AWAY) < 0.25
    with pytest.raises(Unavailable):
        [patience.delay(AWAY) for _ in range(3)]
    assert Retry(60.0, answered=True).left_s is None


def test_no_attempt_starts_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end at once, and the error would tell of a timeout instead of the absent server."""
    now, ends = [0.0], set()
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    for _ in range(200):
        now[0] = 0.0
        patience = Retry(60.0, answered=True, deadline=Deadline(30.0))
        with contextlib.suppress(Unavailable):
            while now[0] <= 30.0:
                now[0] += patience.delay(AWAY)
        assert now[0] <= 30.0
        ends.add(now[0])
    assert len(ends) > 100


def test_each_attempt_has_its_own_bound() -> None:
    """A call without a timeout lasts as long as an absence is borne; one with a timeout never longer than that."""
    assert Retry(60.0, answered=True, attempt_s=30.0).left_s == 30.0
    assert Retry(60.0, answered=True, attempt_s=30.0, deadline=Deadline(1e9)).left_s == 30.0
    assert 4.0 < (Retry(60.0, answered=True, attempt_s=30.0, deadline=Deadline(5.0)).left_s or 0) <= 5.0
    assert 29.0 < (Retry(60.0, answered=True, deadline=Deadline(30.0)).left_s or 0) <= 30.0


class Away:
    """A method of a server that is away for some seconds of a simulated clock."""

    def __init__(self, away_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.away_s = 0.0, away_s
        self.allowed: list[float | None] = []
        monkeypatch.setattr(retry.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(_client.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def future(self, request: object, timeout: float | None) -> Away:
        self.allowed.append(timeout)
        return self

    def result(self) -> str:
        if self.now < self.away_s:
            raise grpc.RpcError
        return "answer"


def test_a_call_without_a_timeout_outlives_a_restart_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of an attempt is none of the whole call, which may wait for ``patience_s``; a given timeout is."""
    method = Away(45.0, monkeypatch)
    with impasto.Client("127.0.0.1:1", patience_s=60) as client:
        client._answered = True
        monkeypatch.setattr(client, "_error", lambda error: AWAY)
        assert client._call(method, object(), 30.0) == "answer"
        assert set(method.allowed) == {30.0}
        method.now = 0.0
        with pytest.raises(Unavailable):
            client._call(method, object(), 30.0, Deadline(30.0))
        assert 20.0 < method.now <= 30.0


def test_a_very_long_timeout_is_none() -> None:
    """gRPC would take it for one that is over."""
    for timeout_s in (float("inf"), 1e10):
        assert Deadline(timeout_s).left_s is None
    with pytest.raises(InvalidRequest, match="timeout_s: must be a number"):
        Deadline(float("nan"))


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


class Refusal(grpc.RpcError):
    """What gRPC raises when a call's time is over."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return "Deadline Exceeded"

    def trailing_metadata(self) -> None:
        return None


@pytest.mark.parametrize("call", ["stylize", "submit"])
def test_the_timeout_of_a_call_bounds_the_uploads_of_its_pictures(call: str, png: Callable[..., bytes]) -> None:
    """Large ones are sent before the job; without a timeout each has ten minutes."""
    allowed: list[float | None] = []

    def upload(requests: object, timeout: float | None) -> None:
        allowed.append(timeout)
        raise Refusal

    large = png() + bytes(9 << 20)
    with impasto.Client("127.0.0.1:1") as client:
        client._stubs = SimpleNamespace(UploadImage=upload, CancelJob=lambda *_, **__: None)
        for timeout_s in (7.0, None):
            with pytest.raises(impasto.WaitTimeout):
                getattr(client, call)(large, png(), timeout_s=timeout_s)
    assert 6.0 < (allowed[0] or 0) <= 7.0
    assert (allowed[1] or 0) > 600.0


@pytest.mark.parametrize("moves", [True, False])
def test_a_slow_download_goes_on_as_long_as_it_moves(moves: bool) -> None:
    """Each attempt has ten minutes, which a large picture on a slow link may need several times."""
    picture, asked = bytes(range(250)), []

    def download(request: Any, timeout: float) -> Iterator[Any]:
        asked.append(request.offset_bytes)
        if moves:
            yield SimpleNamespace(chunk=picture[request.offset_bytes :][:100])
        if len(asked) < 3:
            raise Refusal

    with impasto.Client("127.0.0.1:1") as client:
        client._stubs = SimpleNamespace(DownloadImage=download)
        if moves:
            assert client.download("a") == picture
        else:
            with pytest.raises(impasto.WaitTimeout):
                client.download("a")
    assert asked == ([0, 100, 200] if moves else [0])
