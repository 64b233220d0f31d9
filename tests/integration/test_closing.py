"""A client that is closed while its calls run: each says so, and no job is left for nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import impasto
from tests.conftest import ServerProcess, wait_until

LONG: dict[str, Any] = {"size_px": 64, "steps": 9_000, "levels": 1}


async def _all(items: Any) -> list[Any]:
    return [item async for item in items]


async def _result(client: impasto.AsyncClient, png: bytes) -> Any:
    return await (await client.submit(png, png, labels={"kept": "yes"}, **LONG)).result()


CALLS: dict[str, Callable[[impasto.Client, bytes], object]] = {
    "stylize": lambda client, png: client.stylize(png, png, **LONG),
    "on_step": lambda client, png: client.stylize(png, png, on_step=lambda _step: None, **LONG),
    "map": lambda client, png: list(client.map([png, png], png, in_flight=2, **LONG)),
    "result": lambda client, png: client.submit(png, png, labels={"kept": "yes"}, **LONG).result(),
    "progress": lambda client, png: list(client.submit(png, png, labels={"kept": "yes"}, **LONG).progress()),
}
ASYNC_CALLS: dict[str, Callable[[impasto.AsyncClient, bytes], Any]] = {
    "stylize": lambda client, png: client.stylize(png, png, **LONG),
    "on_step": lambda client, png: client.stylize(png, png, on_step=lambda _step: None, **LONG),
    "map": lambda client, png: _all(client.map([png, png], png, in_flight=2, **LONG)),
    "result": _result,
}


def running(server: ServerProcess) -> list[impasto.JobInfo]:
    with impasto.Client(server.address) as client:
        return list(client.jobs(["running", "queued"]))


def check_and_end(server: ServerProcess, *, kept: bool) -> None:
    """Jobs that were submitted go on, others are cancelled; then none is left."""
    if not kept:
        wait_until(lambda: not running(server), "jobs are left")
    left = running(server)
    assert len(left) == kept
    with impasto.Client(server.address) as client:
        for job in left:
            client.job(job.job_id).cancel()
    wait_until(lambda: not running(server), "jobs are left")


@pytest.mark.parametrize("name", CALLS)
def test_a_client_that_is_closed_during_a_call_says_so(
    real_server: ServerProcess, png: Callable[..., bytes], name: str
) -> None:
    """Closed by another thread."""
    client = impasto.Client(real_server.address)

    def close() -> None:
        wait_until(lambda: running(real_server), "no job")
        time.sleep(0.3)
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(impasto.ImpastoError) as caught:
        CALLS[name](client, png())
    closing.join()
    assert (type(caught.value), caught.value.reason) == (impasto.ImpastoError, "CLIENT_CLOSED")
    check_and_end(real_server, kept=name in ("result", "progress"))


@pytest.mark.parametrize("name", ASYNC_CALLS)
async def test_an_asyncio_client_that_is_closed_during_a_call_says_so(
    real_server: ServerProcess, png: Callable[..., bytes], name: str
) -> None:
    """Closed by another task; no task looks as if it were cancelled."""
    client = impasto.AsyncClient(real_server.address)
    call = asyncio.ensure_future(ASYNC_CALLS[name](client, png()))
    await asyncio.to_thread(wait_until, lambda: running(real_server), "no job")
    await asyncio.sleep(0.3)
    await client.close()
    with pytest.raises(impasto.ImpastoError) as caught:
        await call
    assert (type(caught.value), caught.value.reason) == (impasto.ImpastoError, "CLIENT_CLOSED")
    await asyncio.to_thread(check_and_end, real_server, kept=name == "result")


async def test_a_client_that_was_closed_before_says_so_at_once(png: Callable[..., bytes]) -> None:
    """It has nothing to cancel, and asks nobody."""
    client, asyncio_client = impasto.Client("127.0.0.1:1"), impasto.AsyncClient("127.0.0.1:1")
    client.close()
    await asyncio_client.close()
    asked: list[str] = []
    client.cancel_quietly = asyncio_client.cancel_quietly = asked.append  # type: ignore[method-assign,assignment]
    for name in ("stylize", "submit"):
        with pytest.raises(impasto.ImpastoError, match="the client is closed"):
            getattr(client, name)(png(), png())
        with pytest.raises(impasto.ImpastoError, match="the client is closed"):
            await getattr(asyncio_client, name)(png(), png())
    assert asked == []
