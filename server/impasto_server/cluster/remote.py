"""A worker on another machine, as the pool sees it: commands go out and reports come in over one stream."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

from impasto.worker.v1 import worker_pb2 as pb
from impasto_server.cluster import wire
from impasto_server.cluster.inbox import Inbox
from impasto_server.cluster.outbox import Outbox, pieces
from impasto_server.domain.pictures import PictureLost, Raster, content_of
from impasto_server.files import sync_folder
from impasto_server.store import codec
from impasto_server.workers import checkpoint_format
from impasto_server.workers.messages import (
    Cancel,
    Checkpointed,
    Command,
    Inspect,
    JobFailed,
    JobPainted,
    JobParked,
    JobStepped,
    Report,
    Start,
    Together,
)

logger = logging.getLogger(__name__)

CACHED_BYTES = 1 << 30
"""Pictures that a worker keeps for further jobs."""
Commands = Outbox[pb.JoinResponse]


class RemoteWorker:
    """The server's end of a worker's stream. All methods run on the event loop.

    Args:
        hello: The worker's greeting.
        folder: Folder for files that arrive; it belongs to this stream.
        count_bytes: Called with the direction (``to_worker``, ``to_server``) and size of what checkpoints took.
    """

    def __init__(self, hello: pb.Hello, folder: Path, count_bytes: Callable[[str, int], None]) -> None:
        self.name, self.host, self.device = hello.name, hello.host, hello.device
        self.incarnation = hello.incarnation
        self.heard = time.monotonic()
        self.refused = ""
        self.leaving = False
        self.outbox: Commands = Outbox(lambda: pb.JoinResponse(heartbeat=pb.Heartbeat()))
        self._count_bytes = count_bytes
        self._folder, self._inbox = folder, Inbox(folder)
        self._on_report: Callable[[Report], None] | None = None
        self._on_exit: Callable[[str], None] | None = None
        self._checkpoints: dict[str, Path] = {}
        self._saving: dict[str, asyncio.Task[None]] = {}
        self._results: dict[str, bytes] = {}
        self._cache: OrderedDict[str, int] = OrderedDict()
        self._used: dict[str, set[str]] = {}

    # What the pool calls.

    def start(self, on_report: Callable[[Report], None], on_exit: Callable[[str], None]) -> None:
        """See :class:`~impasto_server.workers.process.WorkerHandle`."""
        self._on_report, self._on_exit = on_report, on_exit
        self.outbox.put(pb.JoinResponse(start_process=pb.StartProcess()))

    def send(self, command: Command) -> None:
        """See :class:`~impasto_server.workers.process.WorkerHandle`."""
        if isinstance(command, Start):
            self._checkpoints[command.job_id] = Path(command.checkpoint)
            self._used[command.job_id] = codec.names(command.spec)
            self.outbox.put_slowly(command.job_id, partial(self._start, command))
        elif isinstance(command, Inspect):
            self.outbox.put_slowly("", partial(self._inspect, command))
        else:
            if isinstance(command, Cancel):
                self._forget(command.job_id)
            self.outbox.put(pb.JoinResponse(command=wire.encode(command)), command.job_id)

    def kill(self) -> None:
        """See :class:`~impasto_server.workers.process.WorkerHandle`."""
        self.outbox.put(pb.JoinResponse(kill_process=pb.KillProcess()))

    async def stop(self) -> None:
        """See :class:`~impasto_server.workers.process.WorkerHandle`: the stream ends, and the worker ends itself."""
        self.fence()

    def refuse(self, message: str) -> None:
        """See :class:`~impasto_server.workers.process.JoinedHandle`."""
        logger.error("worker %s on host %s cannot be used: %s", self.name, self.host, message, extra={"device": self.name})
        self.refused = message
        self.fence()

    # What the stream calls.

    def fence(self) -> None:
        """End the stream; nothing that arrives from now on is passed on."""
        self._on_report = self._on_exit = None
        self.outbox.close()

    async def take(self, request: pb.JoinRequest) -> None:
        """Handle a message of the worker.

        Raises:
            WireError: If it is invalid.
        """
        self.heard = time.monotonic()
        part = request.WhichOneof("part")
        if part == "reports":
            self._reports([wire.decode(message) for message in request.reports.reports])
        elif part == "piece":
            await self._take_piece(request.piece)
        elif part == "process_ended":
            self._used.clear()
            if self._on_exit:
                self._on_exit(request.process_ended.cause)

    def close(self) -> None:
        """Close unfinished files."""
        self._inbox.close()

    def _pass_on(self, report: Report) -> None:
        if self._on_report:
            self._on_report(report)

    def _reports(self, reports: Sequence[object]) -> None:
        """Pass on reports, runs of steps together."""
        for steps, group in itertools.groupby(reports, lambda report: isinstance(report, JobStepped)):
            if steps:
                self._pass_on(Together(tuple(group)))  # type: ignore[arg-type]  # they are steps
                continue
            for report in group:
                self._report(report)

    def _report(self, report: object) -> None:
        if isinstance(report, wire.JobFinished):
            encoded = self._results.pop(report.job_id, b"")
            picture = Raster(0, 0, b"")
            self._pass_on(JobPainted(report.job_id, report.stop_reason, picture, report.warnings, encoded, report.encode_s))
        elif isinstance(report, wire.EncodingFailed):
            self._pass_on(JobFailed(report.job_id, "ENCODE_ERROR", report.message))
        elif isinstance(report, JobParked) and report.job_id in self._saving:
            self._saving[report.job_id].add_done_callback(lambda _: self._parked(report))
            return
        else:
            self._pass_on(report)  # type: ignore[arg-type]  # the decoder knows reports only
        if isinstance(report, (wire.JobFinished, wire.EncodingFailed, JobFailed, JobParked)):
            self._forget(report.job_id)

    def _parked(self, report: JobParked) -> None:
        """Pass on that a job is parked, now that its state is kept."""
        self._forget(report.job_id)
        self._pass_on(report)

    async def _take_piece(self, piece: pb.Piece) -> None:
        job_id = piece.name
        if piece.kind == pb.FILE_KIND_RESULT:
            self._results[job_id] = (self._results.get(job_id, b"") if piece.offset_bytes else b"") + piece.data
            return
        if piece.kind != pb.FILE_KIND_CHECKPOINT:
            raise wire.WireError("a worker sends checkpoints and results only")
        try:
            received = await self._inbox.take(piece)
        except OSError as error:
            logger.warning("cannot write the checkpoint of job %s: %s", job_id, error)
            return
        self._count_bytes("to_server", len(piece.data))
        if received is not None and job_id in self._checkpoints:
            before = self._saving.get(job_id)
            task = asyncio.create_task(self._save(job_id, self._checkpoints[job_id], received, piece.size_bytes, before))
            self._saving[job_id] = task
            task.add_done_callback(lambda done: self._saved(job_id, done))

    async def _save(self, job_id: str, path: Path, received: Path, size: int, before: asyncio.Task[None] | None) -> None:
        """Keep a received checkpoint, unless it is damaged."""
        if before is not None:
            await asyncio.wait([before])
        if job_id not in self._checkpoints:
            await asyncio.to_thread(received.unlink)  # it has ended meanwhile
            return

        def save() -> None:
            if not checkpoint_format.is_whole(received):
                raise OSError("it arrived damaged")
            with received.open("rb") as file:
                os.fsync(file.fileno())
            checkpoint_format.keep(path, received)
            sync_folder(path.parent)

        try:
            await asyncio.to_thread(save)
        except OSError as error:
            logger.warning("cannot keep the checkpoint of job %s: %s", job_id, error)
            await asyncio.to_thread(received.unlink, missing_ok=True)
        else:
            self._pass_on(Checkpointed(job_id, size))

    def _saved(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._saving.get(job_id) is task:
            del self._saving[job_id]

    def _forget(self, job_id: str) -> None:
        self._checkpoints.pop(job_id, None)
        self._used.pop(job_id, None)
        self._results.pop(job_id, None)

    # Sources of what is sent piece by piece.

    async def _start(self, command: Start) -> AsyncIterator[pb.JoinResponse]:
        """Yield a job's pictures that the worker does not have, its checkpoint, and the command."""
        job_id, spec = command.job_id, command.spec
        try:
            async for message in self._pictures(codec.contents(spec)):
                yield message
        except PictureLost as error:
            self._pass_on(JobFailed(job_id, "DATA_LOST", str(error)))
            return
        found, joined = None, self._folder / f"{job_id}.joined"
        if command.checkpoint:
            found = await asyncio.to_thread(_newest_as_one_file, Path(command.checkpoint), joined)
        if found is not None:
            try:
                async for piece in pieces(pb.FILE_KIND_CHECKPOINT, job_id, found):
                    self._count_bytes("to_worker", len(piece.data))
                    yield pb.JoinResponse(piece=piece)
            except OSError as error:  # the job has just ended, or the disk fails
                logger.warning("cannot send the checkpoint of job %s: %s", job_id, error)
                found = None
            finally:
                await asyncio.to_thread(joined.unlink, missing_ok=True)
        yield pb.JoinResponse(command=wire.encode(wire.start_job(command, resumes=found is not None)))

    async def _inspect(self, command: Inspect) -> AsyncIterator[pb.JoinResponse]:
        picture = command.picture
        name = codec.name_of(picture.rgb)
        async for message in self._pictures({name: (picture.rgb, picture.size)}):
            yield message
        yield pb.JoinResponse(command=wire.encode(wire.inspect_picture(command, name)))

    async def _pictures(self, wanted: dict[str, tuple[bytes | Path, int]]) -> AsyncIterator[pb.JoinResponse]:
        """Yield the pictures that the worker does not have, and make room for them there."""
        for name, (values, size) in wanted.items():
            if name in self._cache:
                self._cache.move_to_end(name)
                continue
            data = await asyncio.to_thread(content_of, values, size)
            async for piece in pieces(pb.FILE_KIND_PICTURE, name, data):
                yield pb.JoinResponse(piece=piece)
            self._cache[name] = size
        if gone := self._evicted(set(wanted)):
            yield pb.JoinResponse(forget=pb.Forget(pictures=gone))

    def _evicted(self, wanted: set[str]) -> list[str]:
        """Remove the pictures from the cache that were not used for longest, until the rest fits; return them."""
        kept = wanted.union(*self._used.values())
        over, gone = sum(self._cache.values()) - CACHED_BYTES, []
        for name, size in self._cache.items():
            if over <= 0:
                break
            if name not in kept:
                over -= size
                gone.append(name)
        for name in gone:
            del self._cache[name]
        return gone


def _newest_as_one_file(path: Path, target: Path) -> Path | None:
    """Return a job's newest complete checkpoint as one file, which may be the target; None if there is none."""
    found = checkpoint_format.newest_whole(path)
    try:
        return None if found is None else checkpoint_format.as_one_file(found, target)
    except OSError as error:
        logger.warning("cannot prepare the checkpoint %s to be sent: %s", path.name, error)
        target.unlink(missing_ok=True)
        return None
