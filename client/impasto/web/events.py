"""Progress of a job as server-sent events.

An event's id is its sequence number, so that Last-Event-ID resumes without gap or duplicate. Its name is the contract's
(snapshot, start, step, pause, heartbeat, result), its data the ProgressResponse in JSON. The server's heartbeats keep the
connection alive; no timer of our own runs for a stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import format_sse_event
from google.protobuf import json_format

from impasto import transport
from impasto.errors import InvalidRequest, Unavailable, Violation
from impasto.v1 import style_transfer_pb2 as pb
from impasto.web.gateway import Gateway
from impasto.web.statuses import status_of

RETRY_MS = 1000
"""When a client whose connection was lost should come back."""
_MOST = (1 << 63) - 1
ENDED = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)


def last_event(text: str | None, name: str = "Last-Event-ID") -> int | None:
    """Return the sequence number in a header or query parameter of that name; None if there is none.

    Raises:
        InvalidRequest: If it is not one.
    """
    if text is None or not text.strip():
        return None
    if not text.strip().isdecimal() or not text.isascii() or int(text) > _MOST:
        wrong = f"must be a sequence number, got {text[:40]!r}"
        raise InvalidRequest(f"{name}: {wrong}", reason="INVALID_FIELD", violations=(Violation(name, wrong),))
    return int(text)


async def respond(caller: Gateway, job_id: str, after: int | None, *, previews: bool) -> Response:
    """Return the stream of a job's events; 204 tells a client that has the last one not to come back.

    Raises:
        ImpastoError: If the server does not start the stream.
    """
    request = pb.ProgressRequest(job_id=job_id, resume_after_sequence=after, include_previews=previews)
    call = caller.stream("Progress", request)
    caller.streams.add(call)
    try:
        first = await call.read()
    except grpc.aio.AioRpcError as error:
        caller.streams.discard(call)
        raise caller.error(error) from None
    except BaseException:
        caller.streams.discard(call)
        call.cancel()
        raise
    # The server sends the last event again to watchers who have it: the position before it says so.
    if after is not None and first is not grpc.aio.EOF and first.snapshot.state in ENDED and first.sequence < after:
        caller.streams.discard(call)
        call.cancel()
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(caller, call, first), media_type="text/event-stream", headers=headers)


async def _events(caller: Gateway, call: Any, first: Any) -> AsyncIterator[bytes]:
    try:
        message = first
        yield b"retry: %d\n\n" % RETRY_MS
        while message is not grpc.aio.EOF:
            yield _event(message)
            if message.HasField("result"):
                return
            message = await asyncio.wait_for(call.read(), transport.SILENCE_S)
    except grpc.aio.AioRpcError as error:
        yield _failure(caller.error(error))
    except TimeoutError:
        yield _failure(transport.silence(caller.server))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not caller.closing.is_set() or (task and task.cancelling()):
            raise
        yield _failure(Unavailable("the HTTP gateway is stopping", reason="DRAINING"))
    finally:
        caller.streams.discard(call)
        call.cancel()


def _event(message: Any) -> bytes:
    kind = message.WhichOneof("event")
    text = json.dumps(json_format.MessageToDict(message), separators=(",", ":"))
    return format_sse_event(data_str=text, event=kind, id=str(message.sequence))


def _failure(error: Any) -> bytes:
    """Return the event for a stream that the server ended: its status. Clients resume after the last event."""
    text = json.dumps(json_format.MessageToDict(status_of(error)), separators=(",", ":"))
    return format_sse_event(data_str=text, event="status")
