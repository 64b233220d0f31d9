"""The port for workers on other machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import grpc

from impasto.worker.v1 import worker_pb2_grpc as pb_grpc
from impasto_server.cluster.hub import WorkerHub
from impasto_server.cluster.manager import ClusterManager
from impasto_server.cluster.wire import CHANNEL_OPTIONS


@dataclass(frozen=True)
class WorkerPort:
    """A gRPC server for the workers alone. Without a hub no worker can join.

    Attributes:
        address: HOST:PORT that it listens on; empty without a hub.
        hub: Serves the streams.
        server: Not started yet.
        manager: Starts workers; None if they come by themselves.
    """

    address: str = ""
    hub: WorkerHub | None = None
    server: grpc.aio.Server | None = None
    manager: ClusterManager | None = None

    async def open(self) -> None:
        """Accept workers, and start them.

        Raises:
            LauncherError: If workers can never be started.
        """
        if self.server is not None:
            await self.server.start()
        if self.manager is not None:
            await self.manager.start()

    async def close(self) -> None:
        """End all workers and streams."""
        if self.manager is not None:
            await self.manager.stop()
        if self.hub is not None:
            await self.hub.close()
        if self.server is not None:
            await self.server.stop(0)


def worker_server(hub: WorkerHub) -> grpc.aio.Server:
    """Return a gRPC server that serves a hub; give it a port and start it."""
    server = grpc.aio.server(options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
    pb_grpc.add_WorkerServiceServicer_to_server(cast("Any", hub), server)  # it reads and writes through the context
    return server
