"""OpenTelemetry traces, if ``impasto[otel]`` is installed and an endpoint is set: a span for each call and each job.

The server continues a caller's ``traceparent``, so that its spans are part of the caller's trace. A job's spans (the job, with
queue, optimize and encode in it) are created when it ends, under the call that submitted it: a job may outlive that call and
the server process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from impasto.installing import needs
from impasto_server.domain.job import Job, JobState

FAULTS = frozenset({"Unknown", "DeadlineExceeded", "Unimplemented", "Internal", "Unavailable", "DataLoss"})
"""A server span with one of these codes counts as failed; other errors are the caller's fault (OpenTelemetry's conventions)."""
EXPORT_S = 3
"""Timeout for sending spans; a stopping server waits this long for an unreachable collector."""
_NANO = 1e9


class TracingError(Exception):
    """Tracing is configured but unavailable; the message says what to install."""


class Span(Protocol):
    """The span of a call."""

    def end(self, code: str, number: int) -> None:
        """End the span with a status code's name and number."""
        ...


class Tracing(Protocol):
    """Receives spans."""

    def call(self, service: str, method: str, metadata: Mapping[str, str]) -> Span:
        """Start a call's span; it is the current span of this task from now on."""
        ...

    def current(self) -> str:
        """Return the current span as a ``traceparent``, or an empty string."""
        ...

    def job(self, job: Job) -> None:
        """Record a job that has ended."""
        ...

    def stop(self) -> None:
        """Send the remaining spans."""
        ...


class NoTracing:
    """Tracing that does nothing."""

    def call(self, service: str, method: str, metadata: Mapping[str, str]) -> Span:
        """See :class:`Tracing`."""
        del service, method, metadata
        return _NO_SPAN

    def current(self) -> str:
        """See :class:`Tracing`."""
        return ""

    def job(self, job: Job) -> None:
        """See :class:`Tracing`."""

    def stop(self) -> None:
        """See :class:`Tracing`."""


class _NoSpan:
    def end(self, code: str, number: int) -> None:
        """Do nothing."""


_NO_SPAN = _NoSpan()


class OpenTelemetry:
    """Spans through OpenTelemetry.

    Args:
        exporter: Where spans go: OTLP, or memory.
        batched: Whether spans are sent in batches.
    """

    def __init__(self, exporter: Any, *, batched: bool = True) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = TracerProvider(resource=Resource.create({"service.name": "impasto"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter) if batched else SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("impasto")
        self._propagator = TraceContextTextMapPropagator()

    def call(self, service: str, method: str, metadata: Mapping[str, str]) -> Span:
        """See :class:`Tracing`."""
        from opentelemetry import context, trace  # noqa: PLC0415

        parent = self._propagator.extract(dict(metadata))
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        span = self._tracer.start_span(f"{service}/{method}", parent, trace.SpanKind.SERVER, attributes)
        # Never detached: each call is a task with a context of its own, which ends with it.
        context.attach(trace.set_span_in_context(span))
        return _CallSpan(span)

    def current(self) -> str:
        """See :class:`Tracing`."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent", "")

    def job(self, job: Job) -> None:
        """See :class:`Tracing`."""
        from opentelemetry import trace  # noqa: PLC0415

        begin, end = job.created, job.ended or job.created
        start = job.started if job.started is not None else end
        encoding = max(start, end - job.encode_s)
        whole = self._tracer.start_span(
            "job", self._propagator.extract({"traceparent": job.trace}), attributes=_facts(job), start_time=round(begin * _NANO)
        )
        if job.state is JobState.FAILED:
            whole.set_status(trace.StatusCode.ERROR, job.error.message if job.error else "")
        within = trace.set_span_in_context(whole)
        parts = [("queue", begin, start), ("optimize", start, encoding), ("encode", encoding, end)]
        for name, since, until in parts[: 1 if job.started is None else 3 if job.encode_s else 2]:
            self._tracer.start_span(name, within, start_time=round(since * _NANO)).end(round(until * _NANO))
        whole.end(round(end * _NANO))

    def stop(self) -> None:
        """See :class:`Tracing`."""
        self._provider.shutdown()


class _CallSpan:
    def __init__(self, span: Any) -> None:
        self._span = span

    def end(self, code: str, number: int) -> None:
        """See :class:`Span`."""
        from opentelemetry import trace  # noqa: PLC0415

        self._span.set_attribute("rpc.grpc.status_code", number)
        if code in FAULTS:
            self._span.set_status(trace.StatusCode.ERROR, code)
        self._span.end()


def _facts(job: Job) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "impasto.job_id": job.job_id,
        "impasto.request_id": job.request_id,
        "impasto.owner": job.owner,
        "impasto.width_px": job.spec.width,
        "impasto.height_px": job.spec.height,
        "impasto.steps": job.step,
        "impasto.device": job.device,
        "impasto.attempts": job.attempts,
        "impasto.preemptions": job.preemptions,
        "impasto.optimize_s": job.optimize_s,
        "impasto.state": job.state.value,
    }
    if job.stop_reason is not None:
        facts["impasto.stop_reason"] = job.stop_reason.value
    return facts


def tracing_to(endpoint: str) -> Tracing:
    """Return tracing to an OTLP endpoint, or none for an empty one.

    Raises:
        TracingError: If the libraries are not installed.
    """
    if not endpoint:
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError as error:
        raise TracingError(needs("--otlp-endpoint", error.name or "opentelemetry", "otel")) from None
    insecure = not endpoint.startswith("https")
    return OpenTelemetry(OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=EXPORT_S))
