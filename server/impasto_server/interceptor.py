"""Around every call: who makes it, what is counted, what is logged. Streams are measured to their last message."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from impasto_server.access import ANYBODY, PRINCIPAL, Principal
from impasto_server.jobs import ServiceError
from impasto_server.metrics import CODES, Method, Metrics, code_label
from impasto_server.status import abort
from impasto_server.tracing import NoTracing, Span, Tracing

logger = logging.getLogger(__name__)

OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})
"""Answered to anybody: load balancers carry no token."""

Identify = Callable[[Any], Principal]
"""Says who calls, by the call's context, or raises a ServiceError."""


def anybody(context: Any) -> Principal:
    """Tell nobody apart."""
    del context
    return ANYBODY


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Identifies, counts and logs every call.

    Args:
        metrics: Where calls are counted.
        identify: Says who calls.
        tracing: Where spans go.
    """

    def __init__(self, metrics: Metrics, identify: Identify = anybody, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._identify = identify
        self._tracing = tracing or NoTracing()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler with ours around it."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler
        _, service, name = handler_call_details.method.split("/")
        kind = "bidi_stream" if handler.request_streaming and handler.response_streaming else "unary"
        if handler.request_streaming != handler.response_streaming:
            kind = "client_stream" if handler.request_streaming else "server_stream"
        identify = anybody if service in OPEN_SERVICES else self._identify
        call = _Call(self._metrics, Method(kind, service, name), identify, self._tracing)
        wrap = call.streaming if handler.response_streaming else call.single
        inner = {
            (False, False): handler.unary_unary,
            (False, True): handler.unary_stream,
            (True, False): handler.stream_unary,
            (True, True): handler.stream_stream,
        }[handler.request_streaming, handler.response_streaming]
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(
            wrap(inner, streams_requests=handler.request_streaming),
            request_deserializer=_careful(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


class _Call:
    """Wraps one method's handlers."""

    def __init__(self, metrics: Metrics, method: Method, identify: Identify, tracing: Tracing) -> None:
        self._tracing = tracing
        self._metrics = metrics
        self._method = method
        self._identify = identify
        labels = method.labels
        self._started, self._received = metrics.started.labels(*labels), metrics.received.labels(*labels)
        self._sent, self._handling = metrics.sent.labels(*labels), metrics.handling.labels(*labels)

    def single(self, inner: Callable[..., Awaitable[Any]], *, streams_requests: bool) -> Callable[..., Awaitable[Any]]:
        """Return a handler of one response."""

        async def handle(request: Any, context: Any) -> Any:
            begun = self._begin(context)
            ending: BaseException | None = None
            try:
                await self._admit(context)
                response = await inner(await self._requests(request, context, streams_requests), context)
            except BaseException as error:
                ending = error
                raise
            else:
                self._sent.inc()
                return response
            finally:
                self._end(context, begun, ending)

        return handle

    def streaming(self, inner: Callable[..., Any], *, streams_requests: bool) -> Callable[..., AsyncIterator[Any]]:
        """Return a handler of a stream of responses."""

        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            begun = self._begin(context)
            ending: BaseException | None = None
            try:
                await self._admit(context)
                found = inner(await self._requests(request, context, streams_requests), _Counting(context, self._sent))
                if inspect.isawaitable(found):  # it writes its messages itself, as the health service does
                    await found
                    return
                async with contextlib.aclosing(found) as responses:  # at once, not when its garbage is collected
                    async for response in responses:
                        self._sent.inc()
                        yield response
            except BaseException as error:
                ending = error
                raise
            finally:
                self._end(context, begun, ending)

        return handle

    async def _admit(self, context: Any) -> None:
        try:
            PRINCIPAL.set(self._identify(context))
        except ServiceError as error:
            about = {"method": self._method.name, "reason": error.reason, "peer": context.peer()}
            logger.info("a call of %s from %s is refused: %s", self._method.name, context.peer(), error.reason, extra=about)
            await abort(context, error)

    def _begin(self, context: Any) -> tuple[float, Span]:
        self._started.inc()
        return time.monotonic(), self._tracing.call(self._method.service, self._method.name, _metadata(context))

    async def _requests(self, request: Any, context: Any, streams: bool) -> Any:
        if streams:
            return self._counted(request, context)
        self._received.inc()
        return await _whole(request, context)

    async def _counted(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            self._received.inc()
            yield await _whole(request, context)

    def _end(self, context: Any, begun: tuple[float, Span], ending: BaseException | None) -> None:
        began, span = begun
        seconds = time.monotonic() - began
        code = code_label(context.code())
        if isinstance(ending, (asyncio.CancelledError, GeneratorExit)):
            code = "Canceled"
        elif ending is not None and code == "OK":
            code = "Unknown"
        self._metrics.handled.labels(*self._method.labels, code).inc()
        self._handling.observe(seconds)
        span.end(code, CODES[code])
        level = logging.WARNING if code in ("Internal", "Unknown", "DataLoss") else logging.DEBUG
        details = {"method": self._method.name, "code": code, "seconds": round(seconds, 4), "caller": PRINCIPAL.get().name}
        logger.log(level, "%s ended with %s", self._method.name, code, extra=details)


class _Counting:
    """A call's context that counts the messages written through it."""

    def __init__(self, context: Any, sent: Any) -> None:
        self._context = context
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Send a message."""
        await self._context.write(message)
        self._sent.inc()


class _Garbled:
    """Stands for a message that cannot be decoded; gRPC itself would answer with INTERNAL."""


def _careful(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode_or_tell(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _Garbled()

    return decode_or_tell


async def _whole(request: Any, context: Any) -> Any:
    """Return a request, unless it could not be decoded."""
    if isinstance(request, _Garbled):
        text = "the message cannot be decoded"
        await abort(context, ServiceError("INVALID_ARGUMENT", "MESSAGE_GARBLED", text))
    return request


def _metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
