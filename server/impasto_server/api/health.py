"""The standard health service, open to all callers: nothing that a caller sends is kept."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's health service keeps a condition forever for each name that was watched; this one only for known services."""

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the contract's name
        """Send a service's status whenever it changes; for an unknown name, send once that it is unknown."""
        if request.service in self._server_status:
            await super().Watch(request, context)
            return
        del request
        await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
        await asyncio.get_running_loop().create_future()  # until the caller leaves; no service is added later
