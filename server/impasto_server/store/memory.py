"""Stores jobs in memory, for the life of the process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from impasto_server.domain.errors import ServiceError
from impasto_server.domain.events import Event, Stepped
from impasto_server.domain.filters import JobFilter
from impasto_server.domain.job import Job
from impasto_server.domain.webhooks import Webhook, webhook_of
from impasto_server.files import written_whole
from impasto_server.store import codec as records
from impasto_server.store.base import EVERY_JOB, Restored
from impasto_server.store.outbox import Outbox


class MemoryStore:
    """Stores jobs in memory, for the life of the process.

    Args:
        retention_s: How long an ended job is kept.
        max_ended: Maximum number of ended jobs; the oldest are removed first.
        checkpoints: Folder of the checkpoints of running jobs.
        pictures: Folder of the pictures of jobs that have not ended; None to hold them in memory.
    """

    durable = False

    def __init__(self, retention_s: float, max_ended: int, checkpoints: Path = Path(), pictures: Path | None = None) -> None:
        self._checkpoints = checkpoints
        self._pictures = pictures
        self._uses: Counter[str] = Counter()
        self._packed_events: dict[str, bytes] = {}
        """Compressed events of ended jobs."""
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._retention_s = retention_s
        self._max_ended = max_ended
        self._jobs: dict[str, Job] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._results: dict[str, bytes] = {}
        self._outbox = Outbox()
        self._sizes: dict[str, int] = {}
        """Bytes of the results."""

    @property
    def checkpoints(self) -> Path:
        """See :class:`JobStore`."""
        return self._checkpoints

    @property
    def bytes_kept(self) -> int:
        """See :class:`JobStore`. Always 0."""
        return 0

    def bytes_of(self, owner: str) -> int:
        """See :class:`JobStore`."""
        own = (job for job in self._jobs.values() if job.owner == owner)
        return sum(self._sizes.get(job.job_id, 0) if job.state.ended else records.size(job.spec) for job in own)

    @property
    def trouble(self) -> str:
        """See :class:`JobStore`. Always empty."""
        return ""

    def check(self) -> None:
        """See :class:`JobStore`. There is always room."""

    async def committed(self, job_id: str) -> None:
        """See :class:`JobStore`. Returns when its pictures are written."""
        if (writing := self._writing.get(job_id)) is not None:
            await asyncio.shield(writing)

    async def _write_pictures(self, job: Job, folder: Path) -> None:
        """Write a job's pictures to files, and release them from memory."""
        pictures = records.pictures(job.spec)
        self._uses.update(pictures.keys())
        try:
            await asyncio.to_thread(_write_all, folder, pictures)
            current = self._jobs.get(job.job_id)
            if current is not None and not current.state.ended:
                self._jobs[job.job_id] = replace(current, spec=records.laid_down(job.spec, folder))
                return
            self._drop(pictures)
        except OSError as error:
            self._drop(pictures)
            self.forget([job.job_id])
            text = f"the server could not store the job's pictures: {error.strerror or error}"
            raise ServiceError("STORAGE_FAILED", text, retry_s=30.0) from None
        finally:
            del self._writing[job.job_id]

    def _drop(self, names: Iterable[str]) -> None:
        """Delete the files of pictures that no job uses any more."""
        for name in names:
            self._uses[name] -= 1
            if self._uses[name] <= 0:
                del self._uses[name]
                if self._pictures is not None:
                    (self._pictures / name).unlink(missing_ok=True)

    def append(self, job_id: str, sequence: int, event: Event, visible: Callable[[], None]) -> None:
        """See :class:`JobStore`. Visible at once."""
        del job_id, sequence, event
        visible()

    def append_run(self, job_id: str, last: int, steps: Sequence[Stepped], visible: Callable[[], None]) -> None:
        """See :class:`JobStore`. Visible at once."""
        del job_id, last, steps
        visible()

    async def seal(self, job_id: str, events: list[Event]) -> None:
        """See :class:`JobStore`. The events are compressed."""
        packed = await asyncio.to_thread(records.pack_events, events)
        if job_id in self._jobs:
            self._packed_events[job_id] = packed

    async def events(self, job_id: str) -> list[Event]:
        """See :class:`JobStore`."""
        packed = self._packed_events.get(job_id)
        return await asyncio.to_thread(records.unpack_events, packed) if packed is not None else []

    def restore(self) -> list[Restored]:
        """See :class:`JobStore`. Always empty."""
        return []

    async def close(self) -> None:
        """See :class:`JobStore`."""

    def add(self, job: Job) -> None:
        """See :class:`JobStore`."""
        self._jobs[job.job_id] = job
        if self._pictures is not None:
            self._pictures.mkdir(exist_ok=True)
            self._writing[job.job_id] = asyncio.get_running_loop().create_task(self._write_pictures(job, self._pictures))
        if job.request_id:
            self._requests[job.owner, job.request_id] = job.job_id

    def put(self, job: Job) -> None:
        """See :class:`JobStore`. The pictures of an ended job are released: only its result is still needed."""
        if job.state.ended:
            if (hook := self._message(job)) is not None and not self.durable:
                self._outbox.add(hook)
            if self._pictures is not None and job.job_id not in self._writing:
                self._drop(records.files(job.spec))
            job = replace(job, spec=replace(job.spec, content=None, styles=(), mask=None, init_image=None))
        self._jobs[job.job_id] = job

    def _message(self, job: Job) -> Webhook | None:
        """Return the message about a job that ends with this record, if it named a receiver."""
        before = self._jobs.get(job.job_id)
        return webhook_of(job) if before is not None and not before.state.ended else None

    def webhooks(self) -> list[Webhook]:
        """See :class:`JobStore`."""
        return self._outbox.all()

    def put_off_webhook(self, message_id: str, attempts: int, due: float) -> None:
        """See :class:`JobStore`."""
        self._outbox.put_off(message_id, attempts, due)

    def drop_webhook(self, message_id: str) -> None:
        """See :class:`JobStore`."""
        self._outbox.drop(message_id)

    async def settled(self) -> None:
        """See :class:`JobStore`. Returns at once."""

    def get(self, job_id: str) -> Job | None:
        """See :class:`JobStore`."""
        return self._jobs.get(job_id)

    def seen(self, job_id: str) -> Job | None:
        """See :class:`JobStore`. Every record is visible at once."""
        return self._jobs.get(job_id)

    def by_request(self, owner: str, request_id: str) -> Job | None:
        """See :class:`JobStore`."""
        return self._jobs.get(self._requests.get((owner, request_id), ""))

    def page(self, before: int | None, limit: int, wanted: JobFilter = EVERY_JOB) -> list[Job]:
        """See :class:`JobStore`."""
        found: list[Job] = []
        for job in self._newest_first():
            if len(found) == limit:
                break
            number = job.number if wanted.owner is None else job.own_number
            if wanted.admits(job) and (before is None or number < before):
                found.append(job)
        return found

    def put_result(self, job_id: str, picture: bytes) -> None:
        """See :class:`JobStore`."""
        self._results[job_id] = picture
        if picture:
            self._sizes[job_id] = len(picture)

    def result(self, job_id: str) -> bytes | None:
        """See :class:`JobStore`."""
        return self._results.get(job_id)

    def expire(self, now: float) -> list[str]:
        """See :class:`JobStore`."""
        ended = sorted((job for job in self._jobs.values() if job.ended is not None), key=lambda job: job.ended or 0.0)
        surplus = max(0, len(ended) - self._max_ended)
        gone = [
            job.job_id
            for index, job in enumerate(ended)
            if index < surplus or (job.ended or 0.0) + min(job.spec.ttl_s or self._retention_s, self._retention_s) < now
        ]
        self.forget(gone)
        return gone

    def forget(self, job_ids: Iterable[str]) -> None:
        """See :class:`JobStore`."""
        for job_id in job_ids:
            job = self._jobs.pop(job_id, None)
            self._results.pop(job_id, None)
            self._sizes.pop(job_id, None)
            self._packed_events.pop(job_id, None)
            if job is not None and self._pictures is not None and job_id not in self._writing:
                self._drop(records.files(job.spec))
            if job is not None and self._requests.get((job.owner, job.request_id)) == job_id:
                del self._requests[job.owner, job.request_id]

    def _newest_first(self) -> Iterator[Job]:
        return (job for job_id in reversed(self._jobs) if (job := self.seen(job_id)) is not None)


def _write_all(folder: Path, pictures: Mapping[str, bytes]) -> None:
    for name, data in pictures.items():
        path = folder / name
        if not path.exists():
            with written_whole(path, sync=False) as file:
                file.write(data)
