"""Many pictures with a bounded number of jobs in flight: what both clients' ``map`` share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from impasto.errors import ImpastoError, InvalidRequest, Overloaded
from impasto.pictures import NamedFile, Picture, UploadedImage
from impasto.protobuf_fields import brief, invalid
from impasto.requests import Style, Styles
from impasto.results import Result, ServerInfo

Item = TypeVar("Item")
Value = TypeVar("Value")

RETRIES = 2
"""How often a picture is tried again after an error that another try can help."""
OVERLOADED_S = 600.0
"""How long a full queue or a reached quota is waited for while no job is accepted."""
FIRST_WAIT_S = 1.0
_AGAIN = frozenset({"WORKER_LOST", "WORKER_GONE", "DATA_LOST", "RESULT_LOST", "JOB_NOT_FOUND", "JOB_ABANDONED", "DAMAGED"})
_ROOM_COMES = frozenset({"QUEUE_FULL", "QUOTA_EXCEEDED"})
_KEPT = 256
"""Most uploaded styles whose ids are remembered."""

Errors = Literal["raise", "return"]


@dataclass(frozen=True)
class Mapped:
    """One pair of a ``map`` and what became of it.

    Attributes:
        index: Number of the pair, from 0.
        content: Its content.
        style: Its style or styles.
        error: Why the picture is missing; None if it was painted.
    """

    index: int
    content: Picture | None = field(repr=False)
    style: Styles = field(repr=False)
    error: ImpastoError | None = None
    painted: Result | None = field(default=None, repr=False)

    @property
    def result(self) -> Result:
        """The picture.

        Raises:
            ImpastoError: If there is none.
        """
        if self.painted is None:
            raise self.error or RuntimeError("neither a picture nor an error")
        return self.painted


def pairs(contents: Iterable[Picture | None], styles: Any) -> Iterator[tuple[Picture | None, Styles]]:
    """Return pairs of a content and its style.

    Args:
        contents: The contents.
        styles: One picture or :class:`Style` for all contents, or an iterable with the style of each.

    Raises:
        InvalidRequest: If contents are a single picture, or both are lists of different lengths.
    """
    if _single(contents) or not isinstance(contents, Iterable):
        raise invalid("contents", f"must be several pictures, such as a list; got {type(contents).__name__}")
    if _single(styles) or styles is None:
        return ((content, styles) for content in contents)
    if not isinstance(styles, Iterable):
        raise invalid("styles", f"must be a picture, or an iterable with the style of each content; got {brief(styles)}")
    if isinstance(contents, Sized) and isinstance(styles, Sized) and len(contents) != len(styles):
        raise invalid("styles", f"there are {len(styles)} for {len(contents)} contents; a single picture serves all contents")
    return zip(contents, styles, strict=False)


def _single(value: Any) -> bool:
    """Whether a value is one picture or style. PIL images and open files have iterators of other things."""
    kinds = (str, bytes, bytearray, memoryview, Path, Style, UploadedImage, NamedFile)
    return isinstance(value, kinds) or hasattr(value, "__fspath__") or hasattr(value, "read") or hasattr(value, "getexif")


def count_of(contents: object) -> int | None:
    """Return the number of contents, if it is known before they are read."""
    return len(contents) if isinstance(contents, Sized) else None


def checked_in_flight(in_flight: int | None) -> int | None:
    """Return the number of jobs in flight that the caller wants.

    Raises:
        InvalidRequest: If it is not a whole number from 1 to 1000.
    """
    if in_flight is not None and (isinstance(in_flight, bool) or not isinstance(in_flight, int) or not 1 <= in_flight <= 1000):
        raise invalid("in_flight", f"must be a whole number from 1 to 1000, got {in_flight!r}")
    return in_flight


def default_in_flight(info: ServerInfo) -> int:
    """Return how many jobs keep a server busy: those that it runs at once, and as many, two at least, ahead in its queue."""
    limits = info.limits
    running = limits.get("max_running_jobs") or max(1, len(info.devices))  # older servers do not say it
    wanted = running + max(2, running)
    if queued := limits.get("max_queued_jobs"):
        wanted = min(wanted, running + queued)
    return min(wanted, limits.get("max_client_jobs") or wanted)


def another_try_helps(error: ImpastoError) -> bool:
    """Whether an error is of this job alone, so that the same job can succeed next time; an expired upload is sent anew."""
    return error.reason in _AGAIN or upload_expired(error)


def upload_expired(error: ImpastoError) -> bool:
    """Whether a job was refused because an uploaded file is no longer on the server."""
    return isinstance(error, InvalidRequest) and any(item.field.endswith(".image_id") for item in error.violations)


class Room:
    """Decides how long to wait while a server has no room for another job. Shared by all jobs of a run."""

    def __init__(self) -> None:
        self._accepted_at = time.monotonic()

    def accepted(self) -> None:
        """Note that a job was accepted."""
        self._accepted_at = time.monotonic()

    def delay(self, error: ImpastoError) -> float:
        """Return the seconds after which to submit again.

        Raises:
            ImpastoError: The error itself, if waiting does not help or took too long.
        """
        no_room = isinstance(error, Overloaded) and error.reason in _ROOM_COMES
        if not no_room or time.monotonic() - self._accepted_at > OVERLOADED_S:
            raise error
        return error.retry_after_s or FIRST_WAIT_S


class UploadedOnce(Generic[Value]):
    """Ids of files that were uploaded, by path; the least recently used are forgotten.

    Args:
        upload: Sends a file; called once for each file.
    """

    def __init__(self, upload: Callable[[Path], Value]) -> None:
        self._upload = upload
        self._known: OrderedDict[tuple[str, int, int], Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> Value:
        """Return what the upload of a file returned; the file is sent again if it changed."""
        state = path.stat()
        key = (str(path), state.st_mtime_ns, state.st_size)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._upload(path)
            self._known.move_to_end(key)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
            return self._known[key]

    def forget(self) -> None:
        """Send all files again when they are needed."""
        with self._lock:
            self._known.clear()


def styles_of(style: Styles) -> list[Any]:
    """Return the parts of a style: a list of one or several."""
    if style is None:
        return []
    return list(style) if isinstance(style, list | tuple) else [style]


def path_of(part: Any) -> Path | None:
    """Return the file of a style's picture if it is a path."""
    picture = part.picture if isinstance(part, Style) else part[0] if isinstance(part, tuple) and len(part) == 2 else part
    return Path(picture) if isinstance(picture, str) or hasattr(picture, "__fspath__") else None


def with_upload(part: Any, uploaded: UploadedImage) -> Style:
    """Return a part of a style whose picture is an uploaded file."""
    if isinstance(part, Style):
        return Style(uploaded, part.weight, part.mask, part.region)
    return Style(uploaded, part[1]) if isinstance(part, tuple) else Style(uploaded)


def threaded(
    work: Callable[[Item], Value], items: Iterable[Item], in_flight: int, *, ordered: bool, stop: Callable[[], None]
) -> Generator[Value]:
    """Yield the values of calls that run in threads.

    Args:
        work: Called with each item, in a thread; an exception is raised here.
        items: Read as calls end.
        in_flight: Most calls at a time; as many more wait to be yielded in order.
        ordered: Whether values come in the order of the items, else as they are ready.
        stop: Makes running calls end; called when the iteration ends, whatever the cause.
    """
    source, more, turn = iter(items), True, 0
    running: dict[Future[Value], int] = {}
    ready: dict[int, Future[Value]] = {}
    started = 0
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="impasto-map")
    try:
        while True:
            while more and len(running) < in_flight and len(running) + len(ready) < 2 * in_flight:
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                    break
                running[pool.submit(work, item)] = started
                started += 1
                del item
            if not ordered and ready:
                turn = next(iter(ready))
            if turn in ready:
                yield ready.pop(turn).result()
                turn += 1
            elif running:
                for finished in wait(running, return_when=FIRST_COMPLETED).done:
                    ready[running.pop(finished)] = finished
            elif not more:
                return
    finally:
        stop()
        pool.shutdown(wait=True, cancel_futures=True)


async def concurrent(
    work: Callable[[Item], Awaitable[Value]], items: Iterable[Item], in_flight: int, *, ordered: bool
) -> AsyncGenerator[Value]:
    """Yield the values of coroutines; as :func:`threaded`. The tasks that run when the iteration ends are cancelled."""
    source, more, turn = iter(items), True, 0
    running: dict[asyncio.Future[Value], int] = {}
    ready: dict[int, asyncio.Future[Value]] = {}
    started = 0
    try:
        while True:
            while more and len(running) < in_flight and len(running) + len(ready) < 2 * in_flight:
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                    break
                running[asyncio.ensure_future(work(item))] = started
                started += 1
                del item
            if not ordered and ready:
                turn = next(iter(ready))
            if turn in ready:
                yield ready.pop(turn).result()
                turn += 1
            elif running:
                finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    ready[running.pop(task)] = task
            elif not more:
                return
    finally:
        for task in running:
            task.cancel()
        for task in [*running, *ready.values()]:
            with suppress(asyncio.CancelledError, Exception):
                await task


def outcome(index: int, content: Picture | None, style: Styles, value: Result | ImpastoError, errors: Errors) -> Mapped:
    """Return what became of a pair.

    Raises:
        ImpastoError: If it failed and errors are not wanted as values.
    """
    if isinstance(value, Result):
        return Mapped(index, content, style, painted=value)
    if errors == "raise":
        raise value
    return Mapped(index, content, style, value)


def checked_errors(errors: str) -> None:
    """Check how errors are wanted.

    Raises:
        InvalidRequest: If the word is unknown.
    """
    if errors not in ("raise", "return"):
        raise invalid("errors", f"must be 'raise' or 'return', got {errors!r}")
