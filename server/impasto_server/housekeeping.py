"""What looks after the server as long as it serves: readiness, gauges, expiry, changed files, the watchdog."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2

from impasto_server.api.health import HealthServicer
from impasto_server.api.limits import Gate
from impasto_server.auth.tls import ServerTls
from impasto_server.auth.tokens import Tokens
from impasto_server.jobs.assembly import Assembly
from impasto_server.observability.http import Pulse
from impasto_server.observability.metrics import Metrics, watch_lag
from impasto_server.observability.watchdog import Watchdog
from impasto_server.store.uploads import Uploads

logger = logging.getLogger(__name__)

MEASURE_S = 0.5
"""How often jobs and workers are looked after, and gauges are set."""
FILES_S = 2.0
"""How often files of tokens and TLS are checked for changes, at least."""
EXPIRE_S = 30.0
"""How often uploaded files that were not used for long are removed."""
READINESS_S = 0.1
"""How often readiness is told to the health service."""


@dataclass(frozen=True)
class Housekeeping:
    """Starts the tasks that look after the server.

    Attributes:
        jobs: Looked after, and measured.
        services: Names in the health service.
        health: Told whether jobs are accepted.
        pulse: Likewise, for probes over HTTP.
        metrics: Where figures go.
        version: Of the server.
        uploads: Expire.
        gate: Gives memory back.
        tls: Renewed when its files change; None without TLS.
        tokens: Likewise.
    """

    jobs: Assembly
    services: tuple[str, ...]
    health: HealthServicer
    pulse: Pulse
    metrics: Metrics
    version: str
    uploads: Uploads
    gate: Gate
    tls: ServerTls | None
    tokens: Tokens | None

    def start(self) -> list[asyncio.Task[None]]:
        """Start the tasks; cancel them to stop."""
        work: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self._follow_readiness,
            lambda: watch_lag(self.metrics),
            lambda: Watchdog(self.metrics).beat(),
            self._look_after_jobs,
            self._watch_files,
            self._expire_uploads,
            self.gate.give_back,
        )
        return [asyncio.create_task(self._restarted(each)) for each in work]

    async def _restarted(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something, and run it again when it fails, which is counted as a fault."""
        while True:
            try:
                await work()
            except Exception:
                self.metrics.faults.labels("watcher").inc()
                logger.exception("housekeeping failed; it is started again")
            else:
                return
            await asyncio.sleep(MEASURE_S)

    async def _follow_readiness(self) -> None:
        was_ready = False
        while True:
            ready = self.pulse.serving = self.jobs.dispatcher.accepting
            if ready != was_ready:
                was_ready = ready
                await self.set_health(serving=ready)
            await asyncio.sleep(READINESS_S)

    async def set_health(self, *, serving: bool) -> None:
        """Tell the health service whether jobs are accepted."""
        statuses = health_pb2.HealthCheckResponse
        for name in ("", *self.services):
            await self.health.set(name, statuses.SERVING if serving else statuses.NOT_SERVING)

    async def beat(self) -> None:
        """Say that the event loop turns, until the server has stopped."""
        while True:
            self.pulse.beat()
            await asyncio.sleep(MEASURE_S)

    async def _look_after_jobs(self) -> None:
        supervisor = self.jobs.supervisor
        while True:
            supervisor.look()
            supervisor.expire()
            self.jobs.table.dispatch()
            self.jobs.gauges.measure()
            for text in supervisor.audit():
                self.metrics.faults.labels("audit").inc()
                logger.error("the books of jobs are wrong: %s", text)
            if (network := self.jobs.pool.network) is not None:
                self.metrics.info.labels(self.version, network.id).set(1)
            await asyncio.sleep(MEASURE_S)

    async def _watch_files(self) -> None:
        """Notice changed files though nobody calls, and say whether they can be used."""
        while True:
            if self.tokens is not None:
                self.metrics.tokens_good.set(self.tokens.look())
            if self.tls is not None:
                await asyncio.to_thread(self.tls.look)
                self.metrics.certificate_expiry.set(self.tls.expires)
            await asyncio.sleep(FILES_S)

    async def _expire_uploads(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_S)
            await asyncio.to_thread(self.uploads.expire)
