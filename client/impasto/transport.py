"""Transport of both clients: channel arguments, and conversion of gRPC's errors."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import grpc

from impasto import errors
from impasto.connect_errors import CONNECTION_LOST
from impasto.v1 import style_transfer_pb2 as pb

SMALL_BYTES = 4 << 20
"""Every server accepts requests below this size."""
_DETAILS_KEY = "grpc-status-details-bin"

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    # The server reports its limit; see check_size.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Pings detect a frozen peer. A ping waits behind the bytes in transit, of which a socket holds megabytes: on a slow link
    # that takes most of a minute, and the link is alive.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.http2.max_pings_without_data", 0),  # a call that waits for its picture carries no data for minutes
    ("grpc.keepalive_permit_without_calls", 0),
]
SLOWEST_BYTES_PER_S = 5_000
"""Deadlines allow for sending a request's bytes at this rate."""
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")
_FORMS = ("dns:///", "dns://", "dns:", "ipv4:", "ipv6:")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


def channel_options(server: str) -> list[tuple[str, int]]:
    """Return the channel arguments; no HTTP proxy is used for a server on this machine."""
    return [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)] if _is_local(server) else CHANNEL_OPTIONS


def proxy_of(server: str) -> str:
    """Return the environment variable that makes gRPC use a proxy for a server; empty if there is none."""
    if _is_local(server) or server.startswith(("unix:", "unix-abstract:", "vsock:")):
        return ""
    host = _without_form(server).rpartition(":")[0].strip("[]")
    for name in ("no_grpc_proxy", "no_proxy"):
        entries = [entry.strip().lstrip("*.") for entry in os.environ.get(name, "").split(",")]
        if any(entry and (host == entry or host.endswith("." + entry)) for entry in entries):
            return ""
    return next((f"{name}={os.environ[name]}" for name in _PROXIES if os.environ.get(name)), "")


def _without_form(server: str) -> str:
    return next((server[len(form) :] for form in _FORMS if server.startswith(form)), server)


def _is_local(server: str) -> bool:
    return _without_form(server).startswith(_LOOPBACK)


SILENCE_S = 30.0
"""A server sends heartbeats every few seconds; after this long without a message it is considered lost."""


class Watchdog:
    """Ends a streaming call of the synchronous client when the server has been silent for too long."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._last_message = time.monotonic()
        self._done = threading.Event()
        self.silent = False
        threading.Thread(target=self._watch, daemon=True).start()

    def received(self) -> None:
        """Note that a message arrived."""
        self._last_message = time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(SILENCE_S / 10):
            if time.monotonic() - self._last_message > SILENCE_S:
                self.silent = True
                self._call.cancel()
                return


def silence(target: str) -> errors.Unavailable:
    """Return the error for a server that stopped sending."""
    return errors.Unavailable(f"{target} has been silent for {SILENCE_S:g} s", reason="SILENT")


_NO_ANSWER = "Internal error from Core"
"""What asyncio calls say, rarely, if the server ended them before they had sent their message; how it ended them is lost."""


def error_of(call: grpc.RpcError, target: str, *, secured: bool = False) -> errors.ImpastoError:
    """Return the exception for a call that failed, sync or async.

    Args:
        call: What gRPC raised.
        target: Address that was called.
        secured: Whether the client used TLS.
    """
    failed: Any = call
    # Not dict(...): the metadata of asyncio calls of older gRPC versions is a mapping whose keys are pairs.
    details = next((value for key, value in failed.trailing_metadata() or () if key == _DETAILS_KEY), None)
    raw = details if isinstance(details, bytes) else None
    if raw is None and failed.details() == _NO_ANSWER:
        return errors.Unavailable(f"the answer of {target} was lost", reason=CONNECTION_LOST)
    error = errors.from_status(failed.code(), failed.details() or "", raw, target, secured=secured)
    proxy = proxy_of(target)
    if isinstance(error, errors.Unavailable) and raw is None and proxy:
        text = f"{error}; the connection goes through the proxy of {proxy}, unless no_proxy has the server's name"
        return errors.Unavailable(text, reason=error.reason)
    return error


def check_size(spec: pb.JobSpec, limit: int) -> None:
    """Reject a request that is too large for the server, before sending it.

    Args:
        spec: The job to send.
        limit: The server's largest message in bytes.

    Raises:
        InvalidRequest: If the request is larger than that.
    """
    size = spec.ByteSize()
    if size > limit - 1024:
        text = f"the pictures have {size} bytes together; the limit of a request is {limit}. Upload them one by one"
        raise errors.InvalidRequest(
            f"content: {text}", reason="MESSAGE_TOO_LARGE", violations=(errors.Violation("content", text),)
        )
