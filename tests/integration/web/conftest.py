"""The gateway before a service with a fake worker, both in this process, on free ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from impasto.web.app import Server, listening
from impasto.web.settings import WebSettings
from tests.integration.contract.conftest import Service, _service
from tests.unit.server.fakes import FakeWorker


@dataclass
class Web:
    """A running gateway, a client that talks to it, and the service behind it."""

    http: httpx.AsyncClient
    url: str
    service: Service
    server: Server
    files: Callable[..., list[tuple[str, tuple[str, bytes]]]]

    async def submit(self, **fields: Any) -> str:
        """Submit a job; return its id."""
        answer = await self.http.post("/v1/jobs", files=self.files(), data={"size_px": "48", "steps": "3", **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job"]["jobId"])

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Return a job once it has ended."""
        async with self.http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            found = [event async for event in events(stream)]
        return dict(found[-1][2]["result"]["job"])


async def events(stream: httpx.Response) -> AsyncIterator[tuple[str, str, Any]]:
    """Yield the name, id and data of each event."""
    name, number, data = "", "", ""
    async for line in stream.aiter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "id":
            number = value
        elif key == "data":
            data += value
        elif not line and data:
            yield name, number, json.loads(data)
            name, number, data = "", "", ""


@asynccontextmanager
async def gateway(target: str, **settings: Any) -> AsyncIterator[tuple[Server, str]]:
    """Run a gateway before the server at an address."""
    chosen = WebSettings(target, **{"listen": "127.0.0.1:0", "grace_s": 3, **settings})
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = Server(chosen, ready.set_result)
    task = asyncio.create_task(server.serve([listening(chosen)]))
    try:
        yield server, await ready
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def web(png: Callable[..., bytes]) -> Callable[..., AbstractAsyncContextManager[Web]]:
    """Return a context manager that runs a gateway and its service."""

    def files(*styles: int) -> list[tuple[str, tuple[str, bytes]]]:
        named = [("style", (f"style-{seed}.png", png(seed=seed))) for seed in styles or (1,)]
        return [("content", ("photo.png", png())), *named]

    @asynccontextmanager
    async def run(worker: FakeWorker | None = None, web: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Web]:
        async with (
            _service(worker, **settings) as service,
            gateway(service.running.address, **(web or {})) as (server, url),
            httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http,
        ):
            yield Web(http, url, service, server, files)

    return run
