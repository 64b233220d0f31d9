"""The standard health service, which anybody may ask: nothing that a caller sends is kept."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's own, which keeps a condition for ever for each name that was ever watched: here only for those that there are."""

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the contract's name
        """Tell a service's status whenever it changes; of a name that is no service, once that it is unknown."""
        if request.service in self._server_status:
            await super().Watch(request, context)
            return
        del request
        await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
        await asyncio.get_running_loop().create_future()  # to the caller's end; no service comes later
