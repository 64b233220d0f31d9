"""Wraps every call: identifies the caller, limits what is read, and counts and logs the call to the end of its streams.

gRPC would receive and parse a request before a handler sees the call. So every method is served as one that streams its
requests: a caller without a token is rejected by the metadata alone, and other callers' messages are read through the gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2

from impasto_server.api.limits import LARGE_ANSWERS, LARGE_REQUESTS, SMALL_BYTES, Gate
from impasto_server.api.status import abort
from impasto_server.auth.tokens import ANYBODY, PRINCIPAL, Principal
from impasto_server.domain.errors import ServiceError
from impasto_server.observability.metrics import CODES, Method, Metrics, code_label
from impasto_server.observability.tracing import NoTracing, Span, Tracing

logger = logging.getLogger(__name__)

OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})
"""Services without authentication: load balancers have no token."""
UNKNOWN_SERVICE = health_pb2.HealthCheckRequest(service="?").SerializeToString()
DRAINING_RETRY_S = 5.0
LARGE_BYTES = 1 << 20
"""Requests of at least this size are parsed on a thread."""

Identify = Callable[[Any], Principal]
"""Returns the caller from the call's context, or raises a ServiceError."""


def anybody(context: Any) -> Principal:
    """Return the anonymous caller."""
    del context
    return ANYBODY


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Identifies, limits, counts and logs every call.

    Args:
        metrics: The metrics.
        identify: Returns the caller.
        tracing: Where spans go.
        gate: Limits what is received.
    """

    def __init__(
        self,
        metrics: Metrics,
        identify: Identify = anybody,
        tracing: Tracing | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._metrics = metrics
        self._identify = identify
        self._tracing = tracing or NoTracing()
        self._gate = gate or Gate(64 << 20)
        self._open = _Open()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, wrapped."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return grpc.stream_unary_rpc_method_handler(_unknown(handler_call_details.method))
        _, service, name = handler_call_details.method.split("/")
        kind = "bidi_stream" if handler.request_streaming and handler.response_streaming else "unary"
        if handler.request_streaming != handler.response_streaming:
            kind = "client_stream" if handler.request_streaming else "server_stream"
        identify = anybody if service in OPEN_SERVICES else self._identify
        call = _Call(self._metrics, Method(kind, service, name), identify, self._tracing, self._gate, self._open, handler)
        if handler.response_streaming or name in LARGE_ANSWERS:
            return grpc.stream_stream_rpc_method_handler(call.stream, response_serializer=handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(call.single, response_serializer=handler.response_serializer)

    async def end_calls(self, limit_s: float) -> None:
        """End all calls in progress with DRAINING; calls that come later end so too."""
        self._open.draining = True
        for task in list(self._open.tasks):
            task.cancel()
        if self._open.tasks:
            await asyncio.wait(list(self._open.tasks), timeout=limit_s)


@dataclass
class _Open:
    """The calls in progress.

    Attributes:
        tasks: Their tasks.
        draining: Whether they are being ended because the server stops.
    """

    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    draining: bool = False


class _Call:
    """Serves one method."""

    def __init__(
        self,
        metrics: Metrics,
        method: Method,
        identify: Identify,
        tracing: Tracing,
        gate: Gate,
        opened: _Open,
        handler: Any,
    ) -> None:
        self._opened = opened
        self._tracing = tracing
        self._metrics = metrics
        self._method = method
        self._identify = identify
        self._gate = gate
        self._decode = handler.request_deserializer
        self._streams_requests = handler.request_streaming
        self._inner = next(
            found
            for found in (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
            if found is not None
        )
        self._streams_responses = handler.response_streaming
        labels = method.labels
        self._started, self._received = metrics.started.labels(*labels), metrics.received.labels(*labels)
        self._sent, self._handling = metrics.sent.labels(*labels), metrics.handling.labels(*labels)

    async def single(self, messages: AsyncIterator[bytes], context: Any) -> Any:
        """Answer with one response."""
        del messages
        async with self._around(context):
            caller = self._admit(context)
            async with self._gate.holding() as held:
                response = await self._inner(await self._requests(context, caller, held), context)
            self._sent.inc()
            return response

    async def stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """Answer with any number of responses, or with one large response."""
        del messages
        async with self._around(context):
            caller = self._admit(context)
            async with self._gate.holding() as held:
                if not self._streams_responses:
                    # The request has no name here: only the handler holds it, and releases it when it is accepted.
                    response = await self._inner(await self._requests(context, caller, held), context)
                    async with self._gate.place(f"answers to {caller}"):
                        self._sent.inc()
                        yield response
                    return
                request = await self._requests(context, caller, held)
                found = self._inner(request, _Counting(context, self._sent))
                if inspect.isawaitable(found):  # it writes its messages itself, as the health service does
                    await found
                    return
                if self._method.name in LARGE_ANSWERS:
                    await held.enter_async_context(self._gate.place(f"answers to {caller}"))
                async with contextlib.aclosing(found) as responses:  # close it now, not at garbage collection
                    async for response in responses:
                        self._sent.inc()
                        yield response

    def _admit(self, context: Any) -> str:
        """Identify the caller; return the key of its slots."""
        try:
            principal = self._identify(context)
        except ServiceError as error:
            about = {"method": self._method.name, "reason": error.reason, "peer": context.peer()}
            logger.info("a call of %s from %s was rejected: %s", self._method.name, context.peer(), error.reason, extra=about)
            raise
        PRINCIPAL.set(principal)
        return principal.name or str(context.peer()).rpartition(":")[0]

    @contextlib.asynccontextmanager
    async def _around(self, context: Any) -> AsyncIterator[None]:
        """Count and log the call however it ends, and turn exceptions into statuses: the only place that does."""
        self._started.inc()
        began = time.monotonic()
        span = self._tracing.call(self._method.service, self._method.name, _metadata(context))
        ending: BaseException | None = None
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._opened.tasks.add(task)
        try:
            if self._opened.draining:
                raise asyncio.CancelledError
            yield
        except asyncio.CancelledError as error:
            if not self._opened.draining or context.cancelled():
                ending = error
                raise
            ending = ServiceError(
                "DRAINING", "the server is shutting down; retry, or use another server", retry_s=DRAINING_RETRY_S
            )
            await abort(context, ending)
        except grpc.aio.InternalError:  # raised by gRPC when it cannot send any more: the caller has left
            ending = asyncio.CancelledError()
            raise ending from None
        except NotImplementedError:  # a newer method of a service that is not ours, such as health's List
            ending = _no_method(self._method.name)
            await abort(context, ending)
        except Exception as error:
            ending = error
            await abort(context, error)
        except BaseException as error:
            ending = error
            raise
        finally:
            self._opened.tasks.discard(task)
            self._end(context, began, span, ending)

    async def _requests(self, context: Any, caller: str, held: contextlib.AsyncExitStack) -> Any:
        """Return the request, or the stream of requests; a large one uses a slot of its caller."""
        if self._streams_requests:
            if self._method.name in LARGE_REQUESTS:
                await held.enter_async_context(self._gate.place(f"requests of {caller}"))
            return self._each(context)
        if self._method.name in LARGE_REQUESTS:
            await held.enter_async_context(self._gate.place(f"requests of {caller}"))
        return await self._next(context)

    async def _each(self, context: Any) -> AsyncIterator[Any]:
        while True:
            request = await self._next(context)
            if request is None:
                return
            yield request
            del request

    async def _next(self, context: Any) -> Any:
        # Read from the context: gRPC's iterator would hold the newest message until the call ends.
        data = await context.read()
        if data is grpc.aio.EOF:
            if self._streams_requests:
                return None
            raise ServiceError("MESSAGE_GARBLED", "the call has no message")
        self._received.inc()
        self._gate.take_in(len(data))
        name = self._method.name
        if self._method.service in OPEN_SERVICES and len(data) > SMALL_BYTES:
            data = UNKNOWN_SERVICE  # no service has such a long name: answered as an unknown one
        if len(data) < LARGE_BYTES:
            return self._gate.parse(name, data, self._decode)
        return await asyncio.to_thread(self._gate.parse, name, data, self._decode)

    def _end(self, context: Any, began: float, span: Span, ending: BaseException | None) -> None:
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


def _unknown(method: str) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]:
    """Return a handler that says that the server has no such method: gRPC's own answer has no details.

    No message is received for that: nobody's token was checked.
    """

    async def handler(messages: AsyncIterator[bytes], context: Any) -> bytes:
        del messages
        await abort(context, _no_method(method))

    return handler


def _no_method(name: str) -> ServiceError:
    return ServiceError("METHOD_UNKNOWN", f"this server has no method {name}")


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


def _metadata(context: Any) -> Mapping[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
