"""Periodic tasks of a running server: readiness, gauges, expiry, changed files, the watchdog."""

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
from impasto_server.webhooks.sender import Sender

logger = logging.getLogger(__name__)

MEASURE_S = 0.5
"""How often jobs and workers are checked, and gauges are set."""
FILES_S = 2.0
"""Maximum time between checks of the token and TLS files."""
EXPIRE_S = 30.0
"""How often unused uploaded files are removed."""
READINESS_S = 0.1
"""How often the health service is updated."""


@dataclass(frozen=True)
class Housekeeping:
    """Starts the periodic tasks.

    Attributes:
        jobs: Checked, and measured.
        services: Names in the health service.
        health: Reports whether jobs are accepted.
        pulse: The same, for probes over HTTP.
        metrics: The metrics.
        version: Version of the server.
        uploads: Removed when unused.
        gate: Returns memory to the system.
        tls: Reloaded when its files change; None without TLS.
        tokens: Reloaded when the file changes; None without tokens.
        senders: Send webhooks; none if there are no webhooks.
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
    senders: tuple[Sender, ...] = ()

    def start(self) -> list[asyncio.Task[None]]:
        """Start the tasks; cancel them to stop."""
        work: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self._follow_readiness,
            lambda: watch_lag(self.metrics),
            lambda: Watchdog(self.metrics).beat(),
            self._check_jobs,
            self._watch_files,
            self._expire_uploads,
            self.gate.give_back,
            *(sender.run for sender in self.senders),
        )
        return [asyncio.create_task(self._restarted(each)) for each in work]

    async def _restarted(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task, and restart it when it fails, which is counted as a fault."""
        while True:
            try:
                await work()
            except Exception:
                self.metrics.faults.labels("watcher").inc()
                logger.exception("housekeeping failed; it is restarted")
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
        """Set in the health service whether jobs are accepted."""
        statuses = health_pb2.HealthCheckResponse
        for name in ("", *self.services):
            await self.health.set(name, statuses.SERVING if serving else statuses.NOT_SERVING)

    async def beat(self) -> None:
        """Record that the event loop runs, until the server has stopped."""
        while True:
            self.pulse.beat()
            await asyncio.sleep(MEASURE_S)

    async def _check_jobs(self) -> None:
        supervisor = self.jobs.supervisor
        while True:
            # With many jobs each takes milliseconds: other work goes between them.
            for work in (supervisor.look, supervisor.expire, self.jobs.table.dispatch, self.jobs.gauges.measure):
                work()
                await asyncio.sleep(0)
            for text in supervisor.audit():
                self.metrics.faults.labels("audit").inc()
                logger.error("the jobs are inconsistent: %s", text)
            if (network := self.jobs.pool.network) is not None:
                self.metrics.info.labels(self.version, network.id).set(1)
            await asyncio.sleep(MEASURE_S)

    async def _watch_files(self) -> None:
        """Check files for changes even without calls, and record whether they can be used."""
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
