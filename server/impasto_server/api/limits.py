"""Limits messages before they are parsed: their size, the number of their fields, and how many are in flight.

A message of two-byte fields takes twenty times its size once it is parsed, and lists of a million entries take seconds to
process. So each method limits the size of its messages, a walk over the fields limits their number before parsing, and one
caller may have only a few large messages in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from impasto_server.domain.errors import ServiceError, invalid

LARGE_REQUESTS = frozenset({"Stylize", "SubmitJob", "InspectFeatures", "UploadImage"})
"""Methods whose requests hold pictures."""
LARGE_ANSWERS = frozenset({"Stylize", "GetResult", "DownloadResult"})
"""Methods whose response is a picture. A single one is sent as a stream too, so that the end of sending is known."""
SMALL_BYTES = 64 << 10
"""Maximum size of a request without pictures."""
CHUNK_BYTES = 16 << 20
"""Maximum size of a chunk of an upload."""
MAX_FIELDS = 20_000
"""Maximum number of fields of a message, list entries included; the largest sensible job has a few hundred."""
AT_ONCE = 8
"""Large messages of one caller that are received or sent at a time; others wait."""
GIVE_BACK_S = 1.0
GIVE_BACK_BYTES = 32 << 20
"""Bytes that must be received before memory is returned, which takes some milliseconds."""
_HELD: ContextVar[contextlib.AsyncExitStack | None] = ContextVar("held", default=None)
"""Slots of the caller that the current call holds."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UNPACKED = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)


class Gate:
    """Limits the messages in flight.

    Args:
        max_message_bytes: Largest request with pictures.
        at_once: Large messages of one caller at a time.
    """

    def __init__(self, max_message_bytes: int, at_once: int = AT_ONCE) -> None:
        self._max_message_bytes = max_message_bytes
        self._at_once = at_once
        self._places: dict[str, tuple[asyncio.Semaphore, int]] = {}
        self._taken_in = 0

    def take_in(self, size: int) -> None:
        """Count the bytes of a received message."""
        self._taken_in += size

    async def give_back(self) -> None:
        """Return the memory of released large messages to the system, forever: the allocator would keep it."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        while trim is not None:
            await asyncio.sleep(GIVE_BACK_S)
            if self._taken_in >= GIVE_BACK_BYTES:
                self._taken_in = 0
                await asyncio.to_thread(trim, 0)

    @contextlib.asynccontextmanager
    async def holding(self) -> AsyncIterator[contextlib.AsyncExitStack]:
        """Hold a call's slots until its end, or until it no longer needs them (:func:`let_go`)."""
        async with contextlib.AsyncExitStack() as held:
            _HELD.set(held)
            yield held

    @contextlib.asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Hold one of a caller's slots for large messages during the block."""
        semaphore, users = self._places.get(caller, (asyncio.Semaphore(self._at_once), 0))
        self._places[caller] = semaphore, users + 1
        try:
            async with semaphore:
                yield
        finally:
            semaphore, users = self._places[caller]
            if users == 1:
                del self._places[caller]
            else:
                self._places[caller] = semaphore, users - 1

    def parse(self, method: str, data: bytes, decode: Callable[[bytes], Any]) -> Any:
        """Return a request from its bytes.

        Raises:
            ServiceError: If it is too large, has too many fields, or cannot be decoded.
        """
        limit = CHUNK_BYTES if method == "UploadImage" else self._max_message_bytes
        if method not in LARGE_REQUESTS:
            limit = min(SMALL_BYTES, limit)
        if len(data) > limit:
            raise invalid(("message", f"has {len(data)} bytes; {method} accepts at most {limit}"))
        descriptor: Descriptor | None = getattr(getattr(decode, "__self__", None), "DESCRIPTOR", None)
        try:
            if descriptor is not None and _walk(memoryview(data), descriptor, MAX_FIELDS) < 0:
                raise invalid(("message", f"has more than {MAX_FIELDS} fields and list entries"))
            return decode(data)
        except (DecodeError, IndexError):
            text = "the message cannot be decoded"
            raise ServiceError("MESSAGE_GARBLED", text) from None


async def let_go() -> None:
    """Release the caller's slots before the call ends: its request is accepted and no longer held."""
    held = _HELD.get()
    if held is not None:
        await held.aclose()


def _walk(data: memoryview, descriptor: Descriptor, left: int) -> int:
    """Return how many of the allowed fields are left after a message; negative if it has more. Stops there."""
    fields = descriptor.fields_by_number
    at, end = 0, len(data)
    while at < end and left >= 0:
        left -= 1
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            length, at = _varint(data, at)
            field = fields.get(tag >> 3)
            if field is not None and field.message_type is not None:
                left = _walk(data[at : at + length], field.message_type, left)
            elif field is not None and field.type not in _UNPACKED:
                left -= length  # a packed list: at most one entry per byte
            at += length
        else:
            raise DecodeError("the contract has no groups")
    return left


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise DecodeError("a number is too long")
