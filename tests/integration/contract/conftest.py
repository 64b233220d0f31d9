"""The whole service in this process with a fake worker, on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_server.app import RunningServer, serving
from impasto_server.config import ServerConfig
from tests.unit.server.fakes import FakeWorker


@dataclass
class Service:
    """A running service and a stub that talks to it."""

    running: RunningServer
    channel: grpc.aio.Channel
    stub: Any
    worker: FakeWorker


@asynccontextmanager
async def _service(worker: FakeWorker | None = None, **settings: Any) -> AsyncIterator[Service]:
    worker = worker or FakeWorker()
    config = ServerConfig(**{"listen": "127.0.0.1:0", "heartbeat_s": 0.2, "grace_s": 0.2, "data_dir": ":memory:", **settings})
    async with serving(config, [worker]) as running:
        if worker.ready:
            await running.jobs.pool.ready.wait()
        async with grpc.aio.insecure_channel(running.address) as channel:
            yield Service(running, channel, pb_grpc.StyleTransferServiceStub(channel), worker)


@pytest.fixture
def service() -> Callable[..., AbstractAsyncContextManager[Service]]:
    """Return a context manager that runs the service."""
    return _service


@pytest.fixture
def spec(png: Callable[..., bytes]) -> Callable[..., pb.JobSpec]:
    """Return a function that makes a valid job."""

    def make(steps: int = 3, **parameters: Any) -> pb.JobSpec:
        return pb.JobSpec(
            content=pb.Image(data=png()),
            styles=[pb.Style(image=pb.Image(data=png(seed=1)))],
            parameters=pb.Parameters(size_px=48, steps=steps, **parameters),
        )

    return make
