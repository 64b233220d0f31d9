"""The agent's work between the stream and the worker's process: files in and out, results encoded, reports collected."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from impasto.worker.v1 import worker_pb2 as pb
from impasto_engine.parameters import Arithmetic
from impasto_server.cluster import wire
from impasto_server.cluster.inbox import Inbox
from impasto_server.cluster.outbox import Outbox, pieces
from impasto_server.domain.job import JobSpec, NetworkDescription
from impasto_server.pictures import images
from impasto_server.pictures.provenance import Painting, provenance
from impasto_server.workers import checkpoint_format
from impasto_server.workers.messages import (
    Alive,
    Cancel,
    Checkpointed,
    JobFailed,
    JobPainted,
    JobParked,
    JobStarted,
    JobStepped,
    Report,
)
from impasto_server.workers.process import WorkerHandle

logger = logging.getLogger(__name__)

UPLOAD_SHARE = 4
"""Minimum pause between uploads of a job's checkpoints, as a multiple of the time that one takes."""


class _Job:
    """What is known about a job here."""

    def __init__(self, spec: JobSpec, checkpoint: Path) -> None:
        self.spec, self.checkpoint = spec, checkpoint
        self.network: NetworkDescription | None = None
        self.arithmetic: Arithmetic | None = None
        self.threads = self.step = 0
        self.uploading = False
        self.next_upload = 0.0

    @property
    def painting(self) -> Painting:
        return Painting(self.spec, self.network, self.arithmetic, self.step, self.threads)


class Desk:
    """Serves one stream. All methods run on the event loop.

    Args:
        worker: The worker's process.
        folder: For pictures and checkpoints; it belongs to this stream.
        encoding: Runs what would block the loop.
    """

    COLLECT_S = 0.5
    """Steps are reported together this often."""

    def __init__(self, worker: WorkerHandle, folder: Path, encoding: Executor) -> None:
        self._worker, self._encoding = worker, encoding
        self._pictures, self._states, arriving = (folder / name for name in ("pictures", "states", "arriving"))
        for each in (self._pictures, self._states, arriving):
            each.mkdir()
        self._inbox = Inbox(arriving)
        self.outbox: Outbox[pb.JoinRequest] = Outbox(lambda: pb.JoinRequest(heartbeat=pb.Heartbeat()))
        self.jobs: dict[str, _Job] = {}
        self.heard = time.monotonic()
        self.sending = 0
        self._steps: list[Report] = []
        self._flushed = 0.0
        self._flushing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """Kill the worker's process."""
        self._closed = True
        self.outbox.close()
        if self._flushing:
            self._flushing.cancel()
        for task in list(self._tasks):
            task.cancel()
        await self._worker.stop()
        self._inbox.close()

    # From the server.

    async def take(self, response: pb.JoinResponse) -> None:
        """Handle a message of the server.

        Raises:
            WireError: If it is invalid.
        """
        part = response.WhichOneof("part")
        if part == "command":
            self._command(wire.decode(response.command))
        elif part == "piece":
            await self._take_piece(response.piece)
        elif part == "forget":
            for name in response.forget.pictures:
                (self._pictures / Path(name).name).unlink(missing_ok=True)
        elif part == "start_process":
            self.jobs.clear()
            self._worker.start(self._report, self._process_ended)
        elif part == "kill_process":
            self._worker.kill()

    def _command(self, command: object) -> None:
        if isinstance(command, wire.StartJob):
            path = self._states / command.job_id
            if not command.resumes:
                checkpoint_format.remove(path)
            start = wire.start(command, self._pictures, path)
            self.jobs[command.job_id] = _Job(start.spec, path)
            self._worker.send(start)
        elif isinstance(command, wire.InspectPicture):
            self._worker.send(wire.inspect(command, self._pictures))
        else:
            self._worker.send(command)  # type: ignore[arg-type]  # the decoder knows commands only
            if isinstance(command, Cancel):
                self._drop(command.job_id)

    async def _take_piece(self, piece: pb.Piece) -> None:
        try:
            received = await self._inbox.take(piece)
            if received is not None and piece.kind == pb.FILE_KIND_PICTURE:
                received.replace(self._pictures / piece.name)
            elif received is not None:
                checkpoint_format.remove(self._states / piece.name)
                received.replace(self._states / piece.name)
        except OSError as error:  # the job will say that its picture is missing, or start anew
            logger.warning("cannot write a file from the server: %s", error)

    def _process_ended(self, cause: str) -> None:
        if not self._closed:
            self.jobs.clear()
            self._flush()
            self.outbox.put(pb.JoinRequest(process_ended=pb.ProcessEnded(cause=cause)))

    # From the worker's process.

    def _report(self, report: Report) -> None:
        if self._closed:
            return
        if isinstance(report, Alive):
            self._collect(report)
            return
        job = self.jobs.get(getattr(report, "job_id", ""))
        if isinstance(report, JobStarted) and job is not None:
            job.network, job.arithmetic, job.threads, job.step = report.network, report.arithmetic, report.threads, report.step
        if isinstance(report, JobStepped):
            if job is not None:
                job.step = report.step
            self._collect(report)
        elif isinstance(report, Checkpointed):
            self._upload(report.job_id, job)
        elif isinstance(report, JobParked):
            self._upload_parked(report, job)
        elif isinstance(report, JobPainted):
            if job is not None:
                self._spawn(report, job)
        else:
            self._send(report)
            if isinstance(report, JobFailed):
                self._drop(report.job_id)

    def _collect(self, report: Report) -> None:
        """Report together with others that follow soon."""
        self._steps.append(report)
        left = self._flushed + self.COLLECT_S - time.monotonic()
        if left <= 0:
            self._flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(left, self._flush)

    def _send(self, report: object) -> None:
        """Report at once, after what was collected."""
        self._flush()
        reports = pb.Reports(reports=[wire.encode(report)])
        self.outbox.put(pb.JoinRequest(reports=reports))

    def _flush(self) -> None:
        if self._flushing:
            self._flushing.cancel()
            self._flushing = None
        self._flushed = time.monotonic()
        if self._steps:
            reports = pb.Reports(reports=[wire.encode(report) for report in self._steps])
            self._steps = []
            self.outbox.put(pb.JoinRequest(reports=reports))

    def _upload(self, job_id: str, job: _Job | None) -> None:
        """Send a job's newest checkpoint, unless one is being sent or was sent a short time ago."""
        if job is None:  # it was cancelled while this was written
            checkpoint_format.remove(self._states / job_id)
            return
        if job.uploading or time.monotonic() < job.next_upload:
            return
        job.uploading = True
        self._flush()  # a job that resumes from this checkpoint must have no gap in its steps

        async def send() -> AsyncIterator[pb.JoinRequest]:
            began = time.monotonic()
            try:
                async for piece in pieces(pb.FILE_KIND_CHECKPOINT, job_id, job.checkpoint):
                    yield pb.JoinRequest(piece=piece)
            except OSError as error:  # the job has just ended, or the disk fails
                logger.info("cannot send the checkpoint of job %s: %s", job_id, error)
            ended = time.monotonic()
            job.uploading, job.next_upload = False, ended + UPLOAD_SHARE * (ended - began)

        self.outbox.put_slowly("", send)

    def _upload_parked(self, report: JobParked, job: _Job | None) -> None:
        """Send a parked job's state, and then that it is parked."""
        self._flush()
        self.jobs.pop(report.job_id, None)
        self.sending += 1

        async def send() -> AsyncIterator[pb.JoinRequest]:
            try:
                if job is not None:
                    async for piece in pieces(pb.FILE_KIND_CHECKPOINT, report.job_id, job.checkpoint):
                        yield pb.JoinRequest(piece=piece)
            except OSError as error:
                logger.warning("cannot send the checkpoint of job %s: %s", report.job_id, error)
            yield pb.JoinRequest(reports=pb.Reports(reports=[wire.encode(report)]))
            self.sending -= 1
            if report.job_id not in self.jobs:
                checkpoint_format.remove(self._states / report.job_id)

        self.outbox.put_slowly(report.job_id, send)

    def _spawn(self, report: JobPainted, job: _Job) -> None:
        self.sending += 1
        task = asyncio.create_task(self._finish(report, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, report: JobPainted, job: _Job) -> None:
        """Encode a finished picture, and send it."""
        job_id, output, began = report.job_id, job.spec.output, time.monotonic()
        made_by = provenance(job.painting, report.stop_reason) if output.metadata else None
        encode = partial(images.encode, report.picture, output.format, output.quality, made_by)
        try:
            picture = await asyncio.get_running_loop().run_in_executor(self._encoding, encode)
        except (OSError, ValueError, MemoryError) as cause:
            text = f"its picture could not be encoded as {output.format}: {cause}"
            self._send(wire.EncodingFailed(job_id, text))
            self.sending -= 1
        else:
            finished = wire.JobFinished(job_id, report.stop_reason, time.monotonic() - began, report.warnings)

            async def send() -> AsyncIterator[pb.JoinRequest]:
                async for piece in pieces(pb.FILE_KIND_RESULT, job_id, picture):
                    yield pb.JoinRequest(piece=piece)
                self._flush()
                yield pb.JoinRequest(reports=pb.Reports(reports=[wire.encode(finished)]))
                self.sending -= 1

            self._flush()
            self.outbox.put_slowly(job_id, send)
        self._drop(job_id)

    def _drop(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self.jobs.pop(job_id, None)
        checkpoint_format.remove(self._states / job_id)
