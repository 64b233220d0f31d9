"""The connection to the server: one channel for all callers, each with their own token."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, Self

from impasto import errors
from impasto._async_client import AsyncClient
from impasto._base import CALL_TIMEOUT_S
from impasto.credentials import Credentials
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc

_RECONNECT_MS = (("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 2000))
"""How soon a server that was away is noticed: the page waits for it."""


class Gateway(AsyncClient):
    """The asyncio client, for callers of the HTTP API.

    It never retries: callers learn at once that the server is unavailable, and when to retry. Its own token, if the
    environment has one, is not used: nobody acts under a name that is not theirs.

    Attributes:
        streams: Calls of progress streams that are open.
        closing: Set when the gateway stops.
        sending: Bodies whose pictures are held in memory at a time, until the server has them.
        shrinking: Pictures that are shrunk at a time.
    """

    def __init__(self, server: str | None) -> None:
        super().__init__(server, patience_s=0)
        self._channel_options = [*self._channel_options, *_RECONNECT_MS]
        self.streams: set[Any] = set()
        self.closing = asyncio.Event()
        self.sending, self.shrinking = asyncio.Semaphore(4), asyncio.Semaphore(2)

    def of(self, authorization: str) -> Self:
        """Return the client of one caller.

        Args:
            authorization: The caller's ``Authorization`` header. Schemes other than Bearer are those of proxies.

        Raises:
            Unauthenticated: If the token has characters that cannot be sent.
        """
        channel = self._connected()
        caller = copy.copy(self)
        kind, _, token = authorization.partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        if not all("!" <= character <= "~" for character in token):
            raise errors.Unauthenticated("the token has characters that tokens do not have", reason="TOKEN_UNKNOWN")
        caller._stubs = Credentials(token=token).authorized(pb_grpc.StyleTransferServiceStub(channel))
        return caller

    async def call(self, method: str, request: Any, timeout_s: float | None = CALL_TIMEOUT_S) -> Any:
        """Call a method of the contract; return its response.

        Raises:
            ImpastoError: If it fails; ``status`` has the server's own words.
        """
        return await self._call(getattr(self._stub, method), request, timeout_s)

    async def submit_spec(self, request: pb.SubmitJobRequest) -> Any:
        """Submit a job whose large pictures are uploaded first; return the response."""
        await self.prepare(request.spec)
        return await self.call("SubmitJob", request, self._time_for(request))

    async def prepare(self, spec: pb.JobSpec) -> None:
        """Upload a job's large pictures; reject a job that is still too large.

        Raises:
            ImpastoError: If that fails.
        """
        await self._prepare(spec)

    def stream(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """Start a call that streams responses, or takes a stream of requests; return it."""
        return getattr(self._stub, method)(request, timeout=timeout_s)

    def error(self, error: Any) -> errors.ImpastoError:
        """Return the exception for a call that failed."""
        return self._error(error)

    def end_streams(self) -> None:
        """End all progress streams: the gateway stops, and its watchers come back by themselves."""
        self.closing.set()
        for call in list(self.streams):
            call.cancel()
