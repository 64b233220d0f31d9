"""The gRPC handlers: convert, call, convert. Other modules make the decisions."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeVar

import grpc

from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc
from impasto_engine.parameters import MAX_STEPS, PRESETS, fitted
from impasto_server.api import convert, filters, validation
from impasto_server.api.limits import let_go
from impasto_server.auth.tokens import PRINCIPAL
from impasto_server.config import MIB, ServerConfig
from impasto_server.domain.errors import ServiceError, invalid, not_found
from impasto_server.domain.events import Ended
from impasto_server.domain.job import Job, JobSpec, JobState, StopReason
from impasto_server.domain.reasons import REASONS
from impasto_server.failpoints import hit
from impasto_server.jobs.dispatcher import Dispatcher
from impasto_server.observability.metrics import Metrics
from impasto_server.pictures.decoders import Decoders
from impasto_server.store.uploads import CHUNK_BYTES, Uploads
from impasto_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

JOB_ID_METADATA = "impasto-job-id"
DEFAULT_PAGE, MAX_PAGE = 50, 500
DEFAULT_RESPONSE_BYTES = 4 << 20
"""What clients take if they do not say more: the default limit of gRPC's libraries."""
LONGEST_TOKEN = 20
ACCEPTING = 8
"""Jobs whose pictures are decoded, or held until they are committed, at a time."""
ANSWER_S = 1.0
"""Time before the deadline of a Stylize call with RETURN_BEST, for the last step, encoding and sending."""

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")


class StyleTransferService(pb_grpc.StyleTransferServiceServicer):
    """Serves the contract.

    Args:
        dispatcher: Commands and views of jobs.
        pool: The workers.
        config: The server's settings.
        version: Reported by GetServerInfo.
        uploads: Uploaded files.
        decoders: Decode pictures.
        metrics: The metrics.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: WorkerPool,
        config: ServerConfig,
        version: str,
        uploads: Uploads,
        decoders: Decoders,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._pool = pool
        self._uploads = uploads
        self._config = config
        self._version = version
        self._decoders = decoders
        self._accepting = asyncio.Semaphore(ACCEPTING)

    async def Stylize(self, request: pb.StylizeRequest, context: Context) -> pb.StylizeResponse:
        """See the contract."""
        left_s, most = context.time_remaining(), self._largest(request)
        submitting = self._submit(request.spec, request.request_id, detached=False, answer_within_s=left_s)
        del request
        job = await submitting
        del submitting
        with self._dispatcher.wanted(job):
            await context.send_initial_metadata(((JOB_ID_METADATA, job.job_id),))
            job = await self._dispatcher.wait(job)
        if job.state is not JobState.SUCCEEDED:
            raise _unsuccessful(job, draining=self._dispatcher.draining)
        return pb.StylizeResponse(result=await self._with_picture(job, most))

    async def Progress(self, request: pb.ProgressRequest, context: Context) -> AsyncIterator[pb.ProgressResponse]:
        """See the contract."""
        job, sequence = self._watched(request)
        self._largest(request)
        with self._metrics.streams.track_inprogress():
            async with contextlib.aclosing(self._dispatcher.watch(job, sequence)) as events:
                async for number, event in events:
                    hit("progress.before_send")
                    yield await self._progress(request, number, event, job.job_id)
                    hit("progress.after_send")

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Context) -> pb.SubmitJobResponse:
        """See the contract."""
        job = await self._submit(request.spec, request.request_id, detached=True, validate_only=request.validate_only)
        return pb.SubmitJobResponse(job=self._message(job, with_estimate=True))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """See the contract."""
        return pb.GetJobResponse(job=self._message(self._own(request.job_id), with_estimate=True))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """See the contract."""
        if request.page_size < 0:
            raise invalid(("page_size", f"must be 0 or more, got {request.page_size}"))
        size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
        before = _page_start(request.page_token)
        wanted = filters.job_filter(request, PRINCIPAL.get())
        jobs = self._dispatcher.page(before, size + 1, wanted)
        token = ""
        if len(jobs) > size:
            last = jobs[size - 1]
            token = _page_token(last.number if wanted.owner is None else last.own_number)
        return pb.ListJobsResponse(jobs=[self._message(job) for job in jobs[:size]], next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        """See the contract."""
        if bool(request.job_id) == bool(request.request_id):
            raise invalid(("job_id", "give a job_id or a request_id"))
        if request.job_id:
            job = self._own(request.job_id, "cancel")
        else:
            job = self._dispatcher.by_request(PRINCIPAL.get().name, request.request_id)
        self._dispatcher.cancel(job.job_id)
        return pb.CancelJobResponse(job=self._message(await self._dispatcher.settled(job.job_id)))

    async def PauseJob(self, request: pb.PauseJobRequest, context: Context) -> pb.PauseJobResponse:
        """See the contract."""
        self._dispatcher.pause(self._own(request.job_id, "pause").job_id)
        return pb.PauseJobResponse(job=self._message(await self._dispatcher.settled(request.job_id)))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Context) -> pb.ResumeJobResponse:
        """See the contract."""
        self._dispatcher.resume(self._own(request.job_id, "resume").job_id)
        return pb.ResumeJobResponse(job=self._message(await self._dispatcher.settled(request.job_id)))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> pb.DeleteJobResponse:
        """See the contract."""
        self._dispatcher.delete(self._own(request.job_id, "delete").job_id)
        await self._dispatcher.flushed()
        return pb.DeleteJobResponse()

    async def DrainWorkers(self, request: pb.DrainWorkersRequest, context: Context) -> pb.DrainWorkersResponse:
        """See the contract."""
        if not PRINCIPAL.get().admin:
            raise ServiceError("NOT_ADMIN", "only admins may drain workers")
        joined = [status for status in self._pool.workers if status.joined]
        names = [status.handle.name for status in joined if request.name in (status.handle.name, status.handle.host)]
        if not request.name or not names:
            text = f"no worker or host called {request.name!r} has joined this server"
            resource = ("impasto.v1.Device", request.name)
            raise ServiceError("WORKER_NOT_FOUND", text, metadata={"name": request.name}, resource=resource)
        for name in names:
            self._pool.drain(name)
        return pb.DrainWorkersResponse(devices=[device for device in self._devices() if device.name in names])

    def _devices(self) -> list[pb.Device]:
        running = self._dispatcher.running_on
        return [convert.device_message(status, running.get(status.handle.name, 0)) for status in self._pool.workers]

    async def GetResult(self, request: pb.GetResultRequest, context: Context) -> pb.GetResultResponse:
        """See the contract."""
        job, most = self._own(request.job_id), self._largest(request)
        return pb.GetResultResponse(result=await self._with_picture(job, most))

    async def DownloadResult(
        self, request: pb.DownloadResultRequest, context: Context
    ) -> AsyncIterator[pb.DownloadResultResponse]:
        """See the contract."""
        job = self._own(request.job_id)
        picture, offset = memoryview(self._dispatcher.result(job.job_id)), request.offset_bytes
        if not 0 <= offset <= len(picture):
            raise invalid(("offset_bytes", f"must be from 0 to the picture's size, {len(picture)}; got {offset}"))
        digest = await asyncio.to_thread(_sha256, picture)
        for at in range(offset, max(len(picture), offset + 1), CHUNK_BYTES):
            chunk = bytes(picture[at : at + CHUNK_BYTES])
            yield pb.DownloadResultResponse(chunk=chunk, size_bytes=len(picture), sha256=digest)

    async def UploadImage(
        self, request_iterator: AsyncIterator[pb.UploadImageRequest], context: Context
    ) -> pb.UploadImageResponse:
        """See the contract."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "start":
            raise invalid(("start", "must be the first message"))
        start, uploads = first.start, self._uploads.of(PRINCIPAL.get().name)
        stored = await asyncio.to_thread(uploads.begin, start.sha256, start.size_bytes, start.offset_bytes)
        at = start.offset_bytes
        try:
            async for request in request_iterator:
                if request.WhichOneof("part") != "chunk":
                    raise invalid(("chunk", "must follow the start"))
                if stored < start.size_bytes:  # else the file is complete already
                    at = await asyncio.to_thread(uploads.put, start.sha256, at, request.chunk, start.size_bytes)
            stored = max(stored, at)
            whole = await asyncio.to_thread(uploads.complete, start.sha256, start.size_bytes, start.offset_bytes)
        finally:
            uploads.end(start.sha256)
        return pb.UploadImageResponse(image_id=start.sha256 if whole else "", received_bytes=stored)

    async def DownloadImage(
        self, request: pb.DownloadImageRequest, context: Context
    ) -> AsyncIterator[pb.DownloadImageResponse]:
        """See the contract."""
        try:
            found = self._uploads.of(PRINCIPAL.get().name).find(request.image_id)
        except KeyError:
            text = f"there is no uploaded file {request.image_id!r}"
            resource = ("impasto.v1.Image", request.image_id)
            raise ServiceError("IMAGE_NOT_FOUND", text, metadata={"image_id": request.image_id}, resource=resource) from None
        size, offset = found.stat().st_size, request.offset_bytes
        if not 0 <= offset <= size:
            raise invalid(("offset_bytes", f"must be from 0 to the file's size, {size}; got {offset}"))
        with found.open("rb") as file:
            file.seek(offset)
            while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield pb.DownloadImageResponse(chunk=piece)

    async def InspectFeatures(self, request: pb.InspectFeaturesRequest, context: Context) -> pb.InspectFeaturesResponse:
        """See the contract."""
        owner = PRINCIPAL.get().name
        file = convert.image_file(request.image, "image", self._uploads.of(owner).find)
        asked = validation.check_inspection(convert.inspection(request), self._pool.network_id, self._config)
        async with self._decoders.turn(owner):
            command = await self._decoders.run(validation.open_inspected, file, asked, self._config)
        return convert.inspected_message(await self._dispatcher.inspect(command, owner))

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """See the contract."""
        return self._info()

    def _watched(self, request: pb.ProgressRequest) -> tuple[Job, int | None]:
        which = request.WhichOneof("job")
        if which is None:
            raise invalid(("job_id", "give a job_id or a request_id"))
        by_id = which == "job_id"
        job = self._own(request.job_id) if by_id else self._dispatcher.by_request(PRINCIPAL.get().name, request.request_id)
        sequence = request.resume_after_sequence if request.HasField("resume_after_sequence") else None
        if sequence is not None and sequence < 0:
            raise invalid(("resume_after_sequence", f"must be 0 or more, got {sequence}"))
        return job, sequence

    def _own(self, job_id: str, act: str = "") -> Job:
        """Return a job that the caller may see; a job of another owner is reported as not found.

        Args:
            job_id: Id of the job.
            act: What the caller does to it, for the log if the job has another owner.
        """
        job, caller = self._dispatcher.get(job_id), PRINCIPAL.get()
        if not caller.may_see(job.owner):
            raise not_found(job_id)
        if act and caller.name != job.owner:
            about = {"job_id": job_id, "owner": job.owner, "caller": caller.name}
            logger.info("%s of job %s of %s by %s", act, job_id, job.owner or "anonymous", caller.name, extra=about)
        return job

    async def _with_picture(self, job: Job, most: int) -> pb.JobResult:
        """Return a job with its picture, if that fits into a response of the given size; or say why it has none."""
        picture = self._dispatcher.result(job.job_id)
        digest = await asyncio.to_thread(_sha256, picture)  # 40 ms for 64 MB
        return convert.result_message(job, picture, digest, most)

    def _largest(self, request: pb.StylizeRequest | pb.ProgressRequest | pb.GetResultRequest) -> int:
        """Return the largest response that a caller takes."""
        asked = request.max_response_bytes
        if asked < 0:
            raise invalid(("max_response_bytes", f"must be 0 or more, got {asked}"))
        return min(asked or DEFAULT_RESPONSE_BYTES, self._config.max_message_bytes)

    async def _submit(
        self,
        spec: pb.JobSpec,
        request_id: str,
        *,
        detached: bool,
        answer_within_s: float | None = None,
        validate_only: bool = False,
    ) -> Job:
        try:
            job = await self._accept(spec, request_id, detached, answer_within_s, validate_only)
        except ServiceError as error:
            if not validate_only:
                self._metrics.rejected.labels(error.reason).inc()
            raise
        await let_go()
        return job

    async def _accept(
        self, spec: pb.JobSpec, request_id: str, detached: bool, answer_within_s: float | None, validate_only: bool
    ) -> Job:
        owner = PRINCIPAL.get().name
        convert.check_lengths(spec, self._config.max_styles)
        # On a thread: hashing a request of many megabytes would block every other call.
        draft = await asyncio.to_thread(convert.draft, spec, self._uploads.of(owner).find)
        known = self._dispatcher.check_admission(request_id, draft.digest, owner)
        if known is not None:
            return known if validate_only else await self._dispatcher.join(known, detached=detached)
        draft = validation.check_numbers(draft, request_id, self._pool.network_id, self._config)
        async with self._decoders.turn(owner), self._accepting:
            return await self._open_and_submit(draft, request_id, owner, detached, answer_within_s, validate_only)

    async def _open_and_submit(
        self,
        draft: validation.Draft,
        request_id: str,
        owner: str,
        detached: bool,
        answer_within_s: float | None,
        validate_only: bool,
    ) -> Job:
        """Open a draft's pictures and submit the job; the limit on concurrent calls bounds the memory held until the commit."""
        job_spec: JobSpec = await self._decoders.run(validation.open_pictures, draft, self._config)
        if answer_within_s is not None and job_spec.return_best and job_spec.time_limit_s is None:
            limit_s = min(max(0.0, answer_within_s - ANSWER_S), validation.MAX_SECONDS)
            job_spec = replace(job_spec, time_limit_s=limit_s)
        if validate_only:
            return await self._dispatcher.validate(job_spec, owner)
        return await self._dispatcher.submit(job_spec, request_id, draft.digest, detached=detached, owner=owner)

    async def _progress(self, request: pb.ProgressRequest, number: int, event: object, job_id: str) -> pb.ProgressResponse:
        job = self._dispatcher.get(job_id)
        if isinstance(event, Job):
            return pb.ProgressResponse(sequence=number, snapshot=self._message(event))
        if isinstance(event, Ended):
            # A watcher who does not want the picture costs no read of it: there may be thousands.
            wanted = request.include_image and job.state is JobState.SUCCEEDED
            result = await self._with_picture(job, self._largest(request)) if wanted else convert.result_message(job)
            return pb.ProgressResponse(sequence=number, result=result)
        message = convert.progress_message(number, event, job, self._dispatcher.position(job_id))  # type: ignore[arg-type]
        if not request.include_previews and message.HasField("step"):
            message.step.ClearField("preview")
        return message

    def _message(self, job: Job, *, with_estimate: bool = False) -> pb.Job:
        estimate = self._dispatcher.estimate(job) if with_estimate else None
        return convert.job_message(job, self._dispatcher.position(job.job_id), estimate)

    def _info(self) -> pb.GetServerInfoResponse:
        config, dispatcher = self._config, self._dispatcher
        default, caller = self._pool.network_id(""), PRINCIPAL.get()
        return pb.GetServerInfoResponse(
            version=self._version,
            accepting=dispatcher.accepting,
            devices=self._devices(),
            networks=[convert.network_message(network) for network in self._pool.networks()],
            presets=[
                pb.Preset(name=name, parameters=convert.parameters_message(fitted(parameters, default, name, ()), name))
                for name, parameters in PRESETS.items()
            ],
            limits=pb.Limits(
                max_message_bytes=config.max_message_bytes,
                max_image_pixels=config.max_image_pixels,
                max_size_px=config.max_size_px,
                max_steps=MAX_STEPS,
                max_styles=config.max_styles,
                max_queued_jobs=config.max_queued_jobs,
                max_client_jobs=config.max_client_jobs,
                max_client_jobs_per_minute=config.max_client_jobs_per_minute,
                max_client_pixels=config.max_client_pixels,
                max_running_jobs=self._pool.slots,
            ),
            queue=pb.Queue(queued=dispatcher.queued, running=dispatcher.running),
            storage=pb.Storage(
                durable=config.data_folder is not None,
                used_bytes=dispatcher.bytes_kept(None if caller.admin else caller.name),
                limit_bytes=config.max_data_mib * MIB,
            ),
        )


def _unsuccessful(job: Job, *, draining: bool) -> ServiceError:
    """Return the error of a Stylize call whose job did not succeed."""
    if job.stop_reason is StopReason.ABANDONED and draining:
        return ServiceError("DRAINING", f"the server shut down before job {job.job_id} ended; use another", retry_s=5.0)
    if job.stop_reason is StopReason.ABANDONED:  # before this call, which has joined it, was counted
        text = f"job {job.job_id} was cancelled because the callers that waited for it left; send the request again"
        return ServiceError("JOB_ABANDONED", text, metadata={"job_id": job.job_id}, retry_s=0.1)
    if job.state is JobState.CANCELLED:
        message = f"job {job.job_id} was cancelled"
        return ServiceError("JOB_CANCELLED", message, metadata={"job_id": job.job_id})
    error = job.error
    reason, text = (error.reason, error.message) if error else ("UNKNOWN", "it failed")
    metadata = {"job_id": job.job_id}
    return ServiceError(reason if reason in REASONS else "UNKNOWN", f"job {job.job_id} failed: {text}", metadata=metadata)


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _page_token(number: int) -> str:
    return base64.urlsafe_b64encode(b"n%d" % number).decode()


def _page_start(token: str) -> int | None:
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token.encode())
        if not text.startswith(b"n"):
            raise ValueError(token)
        if len(text) > LONGEST_TOKEN:
            raise ValueError(token)
        return int(text[1:])
    except (ValueError, binascii.Error):
        raise invalid(("page_token", "is not a token from ListJobs")) from None
