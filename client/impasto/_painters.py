"""What ``map`` does for each pair, in a thread or a task: upload styles once, submit, wait, and try again where that helps."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from impasto._base import CLOSED, new_request_id
from impasto._mapping import RETRIES, Room, UploadedOnce, another_try_helps, path_of, styles_of, upload_expired, with_upload
from impasto.errors import ImpastoError, JobCancelled
from impasto.pictures import Picture, UploadedImage
from impasto.requests import Styles
from impasto.results import Result

if TYPE_CHECKING:
    from impasto._async_client import AsyncClient
    from impasto._client import Client, Job

Pair: TypeAlias = "tuple[int, tuple[Picture | None, Styles]]"
Painted: TypeAlias = "tuple[int, Picture | None, Styles, Result | ImpastoError]"


class Painter:
    """Paints pairs in threads.

    Args:
        client: The client.
        options: Options of every job.
    """

    def __init__(self, client: Client, options: Mapping[str, Any]) -> None:
        self._client, self._options = client, options
        self._room, self._uploads = Room(), UploadedOnce(client.upload)
        self._stopping = threading.Event()
        self._requests: set[str] = set()

    def __call__(self, pair: Pair) -> Painted:
        """Paint a pair; an error of impasto is a value."""
        index, (content, style) = pair
        for attempt in range(RETRIES + 1):
            try:
                return index, content, style, self._paint(content, style)
            except ImpastoError as error:
                if attempt == RETRIES or self._stopping.is_set() or not another_try_helps(error):
                    return index, content, style, error
                if upload_expired(error):
                    self._uploads.forget()
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Cancel the jobs in flight."""
        self._stopping.set()
        for request_id in list(self._requests):
            self._client.cancel_quietly(request_id)

    def _paint(self, content: Picture | None, style: Styles) -> Result:
        styles, request_id = [self._uploaded(part) for part in styles_of(style)] or style, new_request_id()
        self._requests.add(request_id)
        try:
            job = self._submit(content, styles, request_id)
            if self._stopping.is_set():
                self._client.cancel_quietly(request_id)
            return job.result()
        except ImpastoError as error:
            if error.reason == CLOSED:
                self._client.cancel_quietly(request_id)
            raise
        finally:
            self._requests.discard(request_id)

    def _uploaded(self, part: Any) -> Any:
        path = path_of(part)
        with contextlib.suppress(OSError):  # the error about the file comes from the job
            return part if path is None else with_upload(part, self._uploads.get(path))
        return part

    def _submit(self, content: Picture | None, style: Styles, request_id: str) -> Job:
        while True:
            try:
                job = self._client.submit(content, style, request_id=request_id, **self._options)
            except ImpastoError as error:
                if self._stopping.wait(self._room.delay(error)):
                    raise JobCancelled("the iteration over the results has ended", reason="JOB_CANCELLED") from None
            else:
                self._room.accepted()
                return job


class AsyncPainter:
    """Paints pairs in tasks; see :class:`Painter`. Cancelling a task cancels its job."""

    def __init__(self, client: AsyncClient, options: Mapping[str, Any]) -> None:
        self._client, self._options = client, options
        self._room = Room()
        self._uploads: UploadedOnce[asyncio.Task[UploadedImage]] = UploadedOnce(
            lambda path: asyncio.ensure_future(client.upload(path))
        )

    async def __call__(self, pair: Pair) -> Painted:
        """Paint a pair; an error of impasto is a value."""
        index, (content, style) = pair
        for attempt in range(RETRIES + 1):
            try:
                return index, content, style, await self._paint(content, style)
            except ImpastoError as error:
                if attempt == RETRIES or not another_try_helps(error):
                    return index, content, style, error
                if upload_expired(error):
                    self._uploads.forget()
        raise AssertionError("unreachable")

    async def _paint(self, content: Picture | None, style: Styles) -> Result:
        parts, request_id = [await self._uploaded(part) for part in styles_of(style)], new_request_id()
        try:
            while True:
                try:
                    job = await self._client.submit(content, parts or style, request_id=request_id, **self._options)
                except ImpastoError as error:
                    await asyncio.sleep(self._room.delay(error))
                else:
                    break
            self._room.accepted()
            return await job.result()
        except (asyncio.CancelledError, ImpastoError) as error:
            if not isinstance(error, ImpastoError) or error.reason == CLOSED:
                await asyncio.shield(self._client.cancel_quietly(request_id))
            raise

    async def _uploaded(self, part: Any) -> Any:
        path = path_of(part)
        if path is None or not await asyncio.to_thread(_readable, path):
            return part  # the error about the file comes from the job
        try:
            return with_upload(part, await asyncio.shield(self._uploads.get(path)))
        except ImpastoError:
            self._uploads.forget()
            raise


def _readable(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
