"""Builds the parts that handle jobs. The server and the tests both use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from impasto_server.config import ServerConfig
from impasto_server.jobs.admission import Admission
from impasto_server.jobs.dispatcher import Dispatcher
from impasto_server.jobs.gauges import Gauges
from impasto_server.jobs.reports import WorkerReports
from impasto_server.jobs.runtime import Runtime
from impasto_server.jobs.shutdown import Shutdown
from impasto_server.jobs.supervisor import Supervisor
from impasto_server.jobs.table import JobTable
from impasto_server.observability.metrics import Metrics
from impasto_server.observability.tracing import NoTracing, Tracing
from impasto_server.scheduling.scheduler import Scheduler
from impasto_server.store.base import JobStore
from impasto_server.workers.pool import WorkerPool
from impasto_server.workers.process import WorkerHandle


@dataclass(frozen=True)
class Assembly:
    """The parts that handle jobs.

    Attributes:
        store: Where jobs are kept.
        scheduler: Decides which job runs where.
        pool: The workers.
        table: The jobs.
        admission: Decides whether there is room, and estimates the waiting work.
        dispatcher: Commands and views for callers.
        supervisor: Periodic checks.
        gauges: Sets the gauges of the metrics.
        shutdown: Drains and stops.
    """

    store: JobStore
    scheduler: Scheduler
    pool: WorkerPool
    table: JobTable
    admission: Admission
    dispatcher: Dispatcher
    supervisor: Supervisor
    gauges: Gauges
    shutdown: Shutdown


def assemble(
    config: ServerConfig,
    store: JobStore,
    workers: Sequence[WorkerHandle],
    metrics: Metrics | None = None,
    tracing: Tracing | None = None,
) -> Assembly:
    """Build the parts, and restore the jobs of an earlier process. Call it on a running event loop.

    Args:
        config: The server's settings.
        store: Where jobs are kept.
        workers: Handles of workers that are not started yet; ``pool.start()`` starts them.
        metrics: The metrics; new ones by default.
        tracing: Where spans of jobs go.
    """
    metrics, tracing = metrics or Metrics(), tracing or NoTracing()
    scheduler, pool, runtimes = Scheduler(), WorkerPool(config, workers), dict[str, Runtime]()
    admission = Admission(config, store, scheduler, pool, runtimes)
    table = JobTable(store, scheduler, pool, admission, runtimes, metrics, tracing)
    reports = WorkerReports(table, store, scheduler, pool, admission.pace, metrics)
    pool.listen(reports)
    return Assembly(
        store,
        scheduler,
        pool,
        table,
        admission,
        Dispatcher(config, table, store, scheduler, pool, admission, metrics, tracing),
        Supervisor(config, table, store, scheduler, pool, admission.pace),
        Gauges(config, metrics, table, store, scheduler, pool, admission),
        Shutdown(config, table, store, pool, reports),
    )
