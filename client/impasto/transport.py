"""How both clients reach a server: channel arguments, and gRPC's errors as ours."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc

from impasto import errors
from impasto.v1 import style_transfer_pb2 as pb

SMALL_BYTES = 4 << 20
"""Requests below this are taken by every server."""
_DETAILS_KEY = "grpc-status-details-bin"

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    # The server says what it takes; see check_size.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A frozen peer is noticed by pings; the timeout of keepalive alone is bounded by TCP's, a minute or more.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 0),
]
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")


def channel_options(server: str) -> list[tuple[str, int]]:
    """Return the channel arguments; a server on this machine is not sought behind an HTTP proxy."""
    local = server.startswith(_LOOPBACK)
    return [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)] if local else CHANNEL_OPTIONS


SILENCE_S = 30.0
"""A server sends heartbeats every few seconds; one that says nothing for so long is taken for lost."""


class Watchdog:
    """Ends a streaming call of the synchronous client when the server has been silent for too long."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._heard = time.monotonic()
        self._done = threading.Event()
        self.silent = False
        threading.Thread(target=self._watch, daemon=True).start()

    def heard(self) -> None:
        """Note that a message came."""
        self._heard = time.monotonic()

    def stop(self) -> None:
        """Watch no more."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(SILENCE_S / 10):
            if time.monotonic() - self._heard > SILENCE_S:
                self.silent = True
                self._call.cancel()
                return


def silence(target: str) -> errors.Unavailable:
    """Return the error for a server that says nothing any more."""
    return errors.Unavailable(f"{target} has been silent for {SILENCE_S:g} s", reason="SILENT")


def error_of(call: grpc.RpcError, target: str, *, secured: bool = False) -> errors.ImpastoError:
    """Return the exception for a call that failed, sync or async.

    Args:
        call: What gRPC raised.
        target: Address that was called.
        secured: Whether by TLS.
    """
    failed: Any = call
    details = dict(failed.trailing_metadata() or ()).get(_DETAILS_KEY)
    raw = details if isinstance(details, bytes) else None
    return errors.from_status(failed.code(), failed.details() or "", raw, target, secured=secured)


def check_size(spec: pb.JobSpec, limit: int) -> None:
    """Refuse a request that the server does not take, before it travels.

    Args:
        spec: What is to be sent.
        limit: The server's largest message in bytes.

    Raises:
        InvalidRequest: If it is larger than a message may be.
    """
    size = spec.ByteSize()
    if size > limit - 1024:
        text = f"the pictures take {size} bytes together; a request may have {limit}. Upload them, one by one"
        raise errors.InvalidRequest(
            f"content: {text}", reason="MESSAGE_TOO_LARGE", violations=(errors.Violation("content", text),)
        )
