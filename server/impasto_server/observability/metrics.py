"""Metrics at /metrics: the common names for calls (``grpc_server_*``), our own for jobs (``impasto_*``).

Every name and label value that is known in advance is exported from the start as zero, so that a rate is right from the
first event. Process and GPU metrics are read at each scrape.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from impasto_server.domain.job import Job, JobState, StopReason

logger = logging.getLogger(__name__)
disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of the page, and unused

JOB_BUCKETS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
"""Seconds; vLLM's buckets for requests that last from below a second to hours."""
STEP_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
OCCUPANCY_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LOSS_BUCKETS = tuple(m * 10.0**e for e in range(-5, 7) for m in (1, 3))
LAG_PERIOD_S = 0.25
REJECTIONS = ("QUEUE_FULL", "QUOTA_EXCEEDED", "STORAGE_FULL", "STORAGE_FAILED", "DRAINING", "STARTING", "INVALID_FIELD")
"""Reasons for rejected jobs that are exported from the start."""
FAULTS = ("scheduler", "watcher", "unseen", "audit")
"""Kinds of internal faults that are exported from the start, so that the first one is an increase."""
KINDS = ("unary", "client_stream", "server_stream", "bidi_stream")


@dataclass(frozen=True)
class Method:
    """A method of the contract, with the common labels."""

    kind: str
    service: str
    name: str

    @property
    def labels(self) -> tuple[str, str, str]:
        """Values of grpc_type, grpc_service and grpc_method."""
        return self.kind, self.service, self.name


class Metrics:
    """All metrics of one server. Tests may create several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._make_calls()
        self._make_jobs()
        self._make_server()
        self._prepare()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _make_calls(self) -> None:
        calls = ("grpc_type", "grpc_service", "grpc_method")
        self.started = self._counter("grpc_server_started", "Calls started.", *calls)
        self.handled = self._counter("grpc_server_handled", "Calls completed, by status.", *calls, "grpc_code")
        self.received = self._counter("grpc_server_msg_received", "Messages received.", *calls)
        self.sent = self._counter("grpc_server_msg_sent", "Messages sent.", *calls)
        text = "Time from the start of a call to its end."
        self.handling = self._histogram("grpc_server_handling_seconds", text, CALL_BUCKETS, *calls)

    def _make_jobs(self) -> None:
        self.queue_depth = self._gauge("impasto_queue_depth", "Waiting jobs.")
        self.queue_age = self._gauge("impasto_queue_age_seconds", "Time since the oldest waiting job was accepted.")
        self.queue_work = self._gauge("impasto_queue_work_seconds", "Estimated time of the steps of all waiting jobs.")
        self.running = self._gauge("impasto_jobs_running", "Running jobs, by device.", "device")
        self.accepted = self._counter("impasto_jobs_accepted", "Jobs accepted.")
        self.rejected = self._counter("impasto_jobs_rejected", "Jobs rejected, by reason.", "reason")
        self.ended = self._counter("impasto_jobs_ended", "Jobs ended, by state and stop reason.", "state", "stop_reason")
        self.deadlines = self._counter("impasto_deadline_misses", "Jobs ended by their time limit.", "outcome")
        self.queue_s = self._histogram("impasto_queue_seconds", "Time from acceptance to the first step.", JOB_BUCKETS)
        text = "Time from acceptance to the end of the first step."
        self.first_step_s = self._histogram("impasto_time_to_first_step_seconds", text, JOB_BUCKETS)
        text = "Time from the start of the first step to the end of the last."
        self.optimize_s = self._histogram("impasto_optimize_seconds", text, JOB_BUCKETS)
        self.encode_s = self._histogram("impasto_encode_seconds", "Time to encode a picture.", STEP_BUCKETS)
        text = "Time from acceptance to the end, of succeeded jobs."
        self.job_s = self._histogram("impasto_job_seconds", text, JOB_BUCKETS)
        self.step_s = self._histogram("impasto_step_seconds", "Time of one step of a job.", STEP_BUCKETS, "device")
        text = "Longest time that a running job has gone without a step."
        self.last_step = self._gauge("impasto_running_without_step_seconds", text)
        self.occupancy = self._histogram(
            "impasto_batch_occupancy", "Jobs on the device at a step.", OCCUPANCY_BUCKETS, "device"
        )
        self.steps = self._counter("impasto_evaluations", "Steps; each is one evaluation.", "device")
        self.losses = self._histogram("impasto_final_loss", "Final loss of a finished picture.", LOSS_BUCKETS)

    def _make_server(self) -> None:
        self.webhooks = self._counter("impasto_webhooks", "Calls of webhooks, by outcome.", "outcome")
        self.webhooks_pending = self._gauge("impasto_webhooks_pending", "Messages that their receivers have not confirmed.")
        self.webhook_age = self._gauge("impasto_webhook_oldest_seconds", "Age of the oldest of these messages.")
        self.preemptions = self._counter("impasto_preemptions", "Jobs preempted.")
        self.resumes = self._counter("impasto_resumes", "Jobs resumed after a lost worker, a pause or a restart.")
        self.cache = self._counter("impasto_style_cache", "Style lookups in a worker's cache, by result.", "result")
        self.checkpoints = self._counter("impasto_checkpoints", "Checkpoints written.")
        self.checkpoint_bytes = self._counter("impasto_checkpoint_bytes", "Bytes of checkpoints written.")
        text = "Longest time since the last checkpoint of a running job."
        self.checkpoint_age = self._gauge("impasto_checkpoint_age_seconds", text)
        self.restarts = self._counter("impasto_worker_restarts", "Workers restarted.", "device")
        self.ready = self._gauge("impasto_worker_ready", "Whether a worker is ready.", "device")
        text = "Workers on other machines whose connection was lost, by host."
        self.lost_workers = self._counter("impasto_remote_workers_lost", text, "host")
        self.fenced = self._counter(
            "impasto_remote_workers_fenced",
            "Streams of workers that were silent for too long, or were replaced by a newer one.",
        )
        text = "Time since a worker on another machine was last heard."
        self.heartbeat_age = self._gauge("impasto_worker_heartbeat_age_seconds", text, "device", "host")
        self.worker_draining = self._gauge("impasto_worker_draining", "Whether a worker gets no more jobs.", "device")
        text = "Bytes of checkpoints sent to and received from workers on other machines."
        self.stream_bytes = self._counter("impasto_checkpoint_stream_bytes", text, "direction")
        self.streams = self._gauge("impasto_progress_streams", "Open Progress streams.")
        self.storage = self._gauge("impasto_storage_bytes", "Size of the jobs' pictures on disk.")
        self.storage_limit = self._gauge("impasto_storage_limit_bytes", "Size limit of the jobs' pictures on disk.")
        self.lag = self._histogram("impasto_event_loop_lag_seconds", "Delay of the event loop.", CALL_BUCKETS[:12])
        text = "Event loop iterations that took longer than 100 ms."
        self.blocked = self._counter("impasto_event_loop_blocked", text)
        text = "Internal faults: scheduler or housekeeping failures, unhandled exceptions, inconsistent jobs."
        self.faults = self._counter("impasto_faults", text, "kind")
        text = "Whether the token file is usable; if not, the previous tokens stay valid."
        self.tokens_good = self._gauge("impasto_token_file_good", text)
        text = "When the served certificate expires, in seconds since the epoch; 0 without TLS."
        self.certificate_expiry = self._gauge("impasto_tls_certificate_expiry_timestamp_seconds", text)
        self.info = self._gauge(
            "impasto_build_info", "Always 1; the labels give the version and the network.", "version", "network"
        )
        self.tokens_good.set(1)

    def forget_worker(self, name: str, host: str) -> None:
        """Remove the gauges of a worker that has left: an old value would look like a fault."""
        for gauge, labels in (
            (self.ready, (name,)),
            (self.running, (name,)),
            (self.worker_draining, (name,)),
            (self.heartbeat_age, (name, host)),
        ):
            with contextlib.suppress(KeyError):
                gauge.remove(*labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _prepare(self) -> None:
        for reason in REJECTIONS:
            self.rejected.labels(reason)
        for kind in FAULTS:
            self.faults.labels(kind)
        for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            for stop in StopReason:
                self.ended.labels(state.value, stop.value)
        for outcome in ("failed", "best"):
            self.deadlines.labels(outcome)
        for outcome in ("delivered", "failed", "given_up"):
            self.webhooks.labels(outcome)
        for result in ("hit", "miss"):
            self.cache.labels(result)

    def expect(self, methods: Iterable[Method], devices: Iterable[str]) -> None:
        """Export the metrics of all methods, with all codes, and of all devices as zero."""
        for method in methods:
            for family in (self.started, self.received, self.sent, self.handling):
                family.labels(*method.labels)
            for code in grpc.StatusCode:
                self.handled.labels(*method.labels, _camel(code))
        for device in devices:
            for by_device in (self.running, self.step_s, self.occupancy, self.steps, self.restarts, self.ready):
                by_device.labels(device)

    def job_ended(self, job: Job) -> None:
        """Count a job that ended."""
        stop = job.stop_reason.value if job.stop_reason else ""
        self.ended.labels(job.state.value, stop).inc()
        if job.stop_reason is StopReason.DEADLINE:
            self.deadlines.labels("best" if job.state is JobState.SUCCEEDED else "failed").inc()
        if job.started is not None:
            self.optimize_s.observe(job.optimize_s)
        if job.state is JobState.SUCCEEDED:
            self.encode_s.observe(job.encode_s)
            self.job_s.observe(max(0.0, (job.ended or 0.0) - job.created))
            if job.losses is not None and math.isfinite(job.losses.total):
                self.losses.observe(job.losses.total)


def _camel(code: grpc.StatusCode) -> str:
    """Return a status code in Go's spelling, which common dashboards use."""
    special = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return special.get(code) or "".join(part.title() for part in code.name.split("_"))


def code_label(code: Any) -> str:
    """Return the label of a context's status code: a number, a code, or None for OK."""
    if code in (None, 0):
        return "OK"
    if isinstance(code, int):
        code = next((item for item in grpc.StatusCode if item.value[0] == code), grpc.StatusCode.UNKNOWN)
    return _camel(code)


CODES = {_camel(code): int(code.value[0]) for code in grpc.StatusCode}
"""Numbers of the status codes by label."""


async def watch_lag(metrics: Metrics, period_s: float = LAG_PERIOD_S) -> None:
    """Measure forever how late the event loop wakes a sleeping task."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(period_s)
        metrics.lag.observe(max(0.0, time.monotonic() - before - period_s))


class Machine(Collector):
    """Reads the workers' processes and the GPUs at each scrape.

    Args:
        workers: Returns the device and process id of each running worker.
        gpus: Returns the worker on each GPU, by UUID. NVML and CUDA may number the GPUs differently.
    """

    def __init__(
        self, workers: Callable[[], Iterable[tuple[str, int]]], gpus: Callable[[], Mapping[str, str]] = dict[str, str]
    ) -> None:
        self._workers = workers
        self._on_gpus = gpus
        self._nvml = _nvml()

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        yield from self._processes()
        up = GaugeMetricFamily("impasto_gpu_metrics_up", "Whether the GPUs can be read.")
        if self._nvml is None:
            up.add_metric([], 0)
            yield up
            return
        try:
            families = list(_gpus(self._nvml, self._on_gpus()))
            up.add_metric([], 1)
        except self._nvml.NVMLError as error:
            logger.warning("the GPUs cannot be read: %s", error)
            families = []
            up.add_metric([], 0)
        yield up
        yield from families

    def _processes(self) -> Iterator[Metric]:
        cpu = CounterMetricFamily("impasto_worker_cpu_seconds", "CPU time of a worker's process.", labels=["device"])
        memory = GaugeMetricFamily("impasto_worker_resident_bytes", "Resident memory of a worker's process.", labels=["device"])
        for device, pid in self._workers():
            try:
                process = psutil.Process(pid)
                times = process.cpu_times()
                cpu.add_metric([device], times.user + times.system)
                memory.add_metric([device], process.memory_info().rss)
            except psutil.Error:  # it exited in the meantime
                continue
        yield cpu
        yield memory


def _nvml() -> Any:
    """Return NVIDIA's library, or None without a driver."""
    try:
        import pynvml  # noqa: PLC0415

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml


def _throttled(nvml: Any, handle: Any) -> float:
    reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return float(reasons & ~nvml.nvmlClocksThrottleReasonGpuIdle)


def _ecc(nvml: Any, handle: Any) -> float:
    kind, counter = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return float(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter))


_GPU_FIGURES: tuple[tuple[str, str, Callable[[Any, Any], float]], ...] = (
    (
        "utilization_ratio",
        "Share of the last sample period in which a kernel ran.",
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    ("memory_used_bytes", "Memory in use.", lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used),
    ("memory_total_bytes", "Total memory.", lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total),
    ("power_watts", "Power drawn.", lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    ("temperature_celsius", "Temperature.", lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
    (
        "sm_clock_hertz",
        "Clock of the multiprocessors.",
        lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6,
    ),
    ("throttled", "NVML's bits of clock throttle reasons, except idle.", _throttled),
    ("ecc_errors", "Uncorrected memory errors since the driver started.", _ecc),
)


def _gpus(nvml: Any, workers: Mapping[str, str]) -> Iterator[Metric]:
    handles = [(str(index), nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]
    about = GaugeMetricFamily("impasto_gpu_info", "1; which GPU a worker's device is.", labels=["gpu", "uuid", "device"])
    for index, handle in handles:
        found = nvml.nvmlDeviceGetUUID(handle)
        uuid = found.decode() if isinstance(found, bytes) else str(found)
        about.add_metric([index, uuid, workers.get(uuid, "")], 1)
    yield about
    for name, text, read in _GPU_FIGURES:
        family = GaugeMetricFamily(f"impasto_gpu_{name}", text, labels=["gpu"])
        for index, handle in handles:
            try:
                family.add_metric([index], float(read(nvml, handle)))
            except nvml.NVMLError:  # this model does not have the value
                continue
        yield family
