"""Traces by OpenTelemetry, where ``impasto[otel]`` is installed and an endpoint is given: a span for each call and each job.

A caller's ``traceparent`` is gone on with, so that the server's spans stand in the caller's trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class TracingError(Exception):
    """Traces are asked for and cannot be made; the message says what to install."""


class Tracing(Protocol):
    """What spans are given to."""

    def call(self, method: str, metadata: Mapping[str, str]) -> contextlib.AbstractContextManager[Any]:
        """Return a block that lasts as long as a call; what it yields takes attributes by ``set_attribute``."""
        ...

    def stop(self) -> None:
        """Send what is left."""
        ...


class _NoSpan:
    def set_attribute(self, name: str, value: object) -> None:
        """Nobody looks."""


class NoTracing:
    """Where no traces are wanted."""

    @contextlib.contextmanager
    def call(self, method: str, metadata: Mapping[str, str]) -> Iterator[_NoSpan]:
        """See :class:`Tracing`."""
        del method, metadata
        yield _NoSpan()

    def stop(self) -> None:
        """See :class:`Tracing`."""


class OpenTelemetry:
    """Spans through OpenTelemetry.

    Args:
        exporter: Where they go; OTLP's or one in memory.
        batched: Whether they are gathered before they go.
    """

    def __init__(self, exporter: Any, *, batched: bool = True) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415

        self._provider = TracerProvider(resource=Resource.create({"service.name": "impasto"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter) if batched else SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("impasto")

    @contextlib.contextmanager
    def call(self, method: str, metadata: Mapping[str, str]) -> Iterator[Any]:
        """See :class:`Tracing`."""
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        parent = TraceContextTextMapPropagator().extract(dict(metadata))
        attributes = {"rpc.system": "grpc", "rpc.method": method}
        with self._tracer.start_as_current_span(method, parent, trace.SpanKind.SERVER, attributes) as span:
            yield span

    def stop(self) -> None:
        """See :class:`Tracing`."""
        self._provider.shutdown()


def tracing_to(endpoint: str) -> Tracing:
    """Return tracing to an OTLP endpoint, or none for an empty one.

    Raises:
        TracingError: If the libraries are not there.
    """
    if not endpoint:
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError as error:
        raise TracingError(f"traces need {error.name}: pip install 'impasto[otel]'") from None
    return OpenTelemetry(OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https")))
