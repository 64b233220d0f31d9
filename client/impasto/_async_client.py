"""The asyncio client: the same calls as :class:`impasto.Client`, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from impasto import errors, results, transport
from impasto._base import (
    CALL_TIMEOUT_S,
    QUIET_DELAYS_S,
    QUIET_TIMEOUT_S,
    UPLOAD_TIMEOUT_S,
    ClientBase,
    Cursor,
    JobBase,
    check_succeeded,
    checked_picture,
    download_request,
    left_out,
    may_have_started,
    new_request_id,
    of_upload,
    result_request,
    stream_ended,
    stylize_request,
    submit_request,
    time_for_bytes,
    waited,
)
from impasto._mapping import (
    Errors,
    Mapped,
    checked_errors,
    checked_in_flight,
    concurrent,
    count_of,
    default_in_flight,
    outcome,
    pairs,
)
from impasto._painters import AsyncPainter
from impasto.credentials import Credentials
from impasto.errors import ImpastoError
from impasto.notebooks import job_html
from impasto.pictures import NamedFile, Picture, UploadedImage, name_of, to_bytes
from impasto.progress import ManyBar, ProgressBar
from impasto.requests import (
    Options,
    Styles,
    check_names,
    features_request,
    job_spec,
    large_images,
    list_request,
    reconstruction_options,
    texture_options,
    upload_requests,
)
from impasto.results import DeviceInfo, Event, Features, Finished, JobInfo, Result, ServerInfo, Step
from impasto.retry import DEFAULT_S, Deadline
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc


class AsyncClient(ClientBase):
    """A connection to an impasto server, for one event loop. Create it in that loop; use it as an async context manager.

    Args:
        server: HOST:PORT; by default ``$IMPASTO_SERVER``, else localhost:50051.
        patience_s: As for :class:`impasto.Client`.
        credentials: As for :class:`impasto.Client`.
    """

    def __init__(
        self, server: str | None = None, *, patience_s: float = DEFAULT_S, credentials: Credentials | None = None
    ) -> None:
        super().__init__(server, patience_s, credentials)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None

    def _connected(self) -> grpc.aio.Channel:
        """Return the channel of the running event loop. A client reconnects when it is used on another loop."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._channel is None or self._loop is not loop:
            if self._channel_credentials:
                channel = grpc.aio.secure_channel(self.server, self._channel_credentials, options=self._channel_options)
            else:
                channel = grpc.aio.insecure_channel(self.server, options=self._channel_options)
            self._loop, self._channel = loop, channel
            self._stubs = self._credentials.authorized(pb_grpc.StyleTransferServiceStub(channel))
        return self._channel

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Tell that the client was closed, by another task, where gRPC lets a call look as if its own task were cancelled."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self._check_open()
            raise

    @property
    def _stub(self) -> Any:
        self._connected()
        return self._stubs

    @property
    def _health(self) -> Any:
        return health_pb2_grpc.HealthStub(self._connected())

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in progress end."""
        self._closed = True
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close()
        self._channel = None

    async def stylize(
        self,
        content: Picture | None,
        style: Styles = None,
        *,
        on_step: Callable[[Step], Awaitable[None] | None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        progress: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Paint a picture and wait for it; see :meth:`impasto.Client.stylize`. ``on_step`` may be a coroutine function.

        Cancelling the task cancels the job.
        """
        self._check_open()
        deadline = Deadline(timeout_s)
        try:
            if on_step is None and not progress:
                spec = await asyncio.to_thread(job_spec, content, style, options)
                await self._prepare(spec, deadline)
                request = stylize_request(spec, request_id)
                response = await self._call(self._stub.Stylize, request, None, deadline)
                return await self._whole(response.result)
            request_id = request_id or new_request_id()
            job: AsyncJob | None = None
            try:
                async with asyncio.timeout(timeout_s):
                    job = await self.submit(content, style, request_id=request_id, **options)
                    with ProgressBar(quiet=not progress) as show:
                        return await job.follow(lambda event: _told(event, show, on_step))
            except BaseException as error:
                if job is not None or may_have_started(error) or isinstance(error, TimeoutError):  # asyncio's own
                    await asyncio.shield(self.cancel_quietly(request_id))
                raise
        except errors.DeadlineExceeded:  # the job's own limit; a TimeoutError too
            raise
        except TimeoutError:
            raise waited(timeout_s, "was cancelled") from None

    async def submit(
        self,
        content: Picture | None,
        style: Styles = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncJob:
        """Submit a job and return at once; see :meth:`impasto.Client.submit`."""
        self._check_open()
        deadline = Deadline(timeout_s)
        spec = await asyncio.to_thread(job_spec, content, style, options)
        await self._prepare(spec, deadline)
        request = submit_request(spec, request_id)
        try:
            response = await self._call(self._stub.SubmitJob, request, self._time_for(request), deadline)
        except BaseException as error:
            if not request_id and may_have_started(error):
                await asyncio.shield(self.cancel_quietly(request.request_id))
            raise
        return AsyncJob(self, response.job.job_id, results.job_info(response.job))

    async def cancel_request(self, request_id: str) -> JobInfo:
        """Cancel the job that was submitted with a request id; see :meth:`impasto.Client.cancel_request`."""
        request = pb.CancelJobRequest(request_id=request_id)
        return results.job_info((await self._call(self._stub.CancelJob, request, CALL_TIMEOUT_S)).job)

    async def cancel_quietly(self, request_id: str) -> bool:
        """Cancel a request's job while another error is being raised; return whether it was cancelled."""
        if self._closed:
            async with AsyncClient(self.server, credentials=self._credentials) as other:
                return await other.cancel_quietly(request_id)
        for delay_s in QUIET_DELAYS_S:
            await asyncio.sleep(delay_s)
            try:
                await self._stub.CancelJob(pb.CancelJobRequest(request_id=request_id), timeout=QUIET_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if not isinstance(self._error(error), errors.NotFound):
                    return False
            else:
                return True
        return False

    async def validate(self, content: Picture | None, style: Styles = None, **options: Unpack[Options]) -> JobInfo:
        """Validate a job without submitting it; see :meth:`impasto.Client.validate`."""
        spec = await asyncio.to_thread(job_spec, content, style, options)
        await self._prepare(spec)
        request = pb.SubmitJobRequest(spec=spec, validate_only=True)
        return results.job_info((await self._call(self._stub.SubmitJob, request, self._time_for(request))).job)

    async def _prepare(self, spec: pb.JobSpec, deadline: Deadline | None = None) -> None:
        """Upload large pictures in chunks, which resume after a lost connection; reject a job that is still too large."""
        for image in large_images(spec):
            name = image.name
            image.image_id = (await self._upload(NamedFile(image.data, name), deadline)).image_id
        if self._needs_limit(spec):
            self._limit_bytes = (await self.server_info()).limits["max_message_bytes"]
        self._check_size(spec)

    async def reconstruct(
        self,
        image: Picture,
        layer: str = "relu4_2",
        *,
        on_step: Callable[[Step], Awaitable[None] | None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        progress: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Reconstruct a picture from the features of one layer; see :meth:`impasto.Client.reconstruct`."""
        return await self.stylize(
            image,
            None,
            on_step=on_step,
            timeout_s=timeout_s,
            request_id=request_id,
            progress=progress,
            **reconstruction_options(layer, options),
        )

    async def texture(
        self,
        style: Styles,
        layers: Sequence[str] | Mapping[str, float] | None = None,
        *,
        on_step: Callable[[Step], Awaitable[None] | None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        progress: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Paint a texture of a style; see :meth:`impasto.Client.texture`."""
        return await self.stylize(
            None,
            style,
            on_step=on_step,
            timeout_s=timeout_s,
            request_id=request_id,
            progress=progress,
            **texture_options(layers, options),
        )

    def map(
        self,
        contents: Iterable[Picture | None],
        styles: Styles | Iterable[Styles],
        *,
        in_flight: int | None = None,
        ordered: bool = True,
        errors: Literal["raise", "return"] = "raise",
        progress: bool = False,
        **options: Unpack[Options],
    ) -> AsyncIterator[Mapped]:
        """Paint many pictures, several at a time; see :meth:`impasto.Client.map`."""
        checked_errors(errors)
        checked_in_flight(in_flight)
        check_names(options)
        return self._mapped(
            pairs(contents, styles), in_flight, ordered, errors, ManyBar(count_of(contents), quiet=not progress), options
        )

    async def _mapped(
        self,
        chosen: Iterator[Any],
        in_flight: int | None,
        ordered: bool,
        errors: Errors,
        bar: ManyBar,
        options: Mapping[str, Any],
    ) -> AsyncIterator[Mapped]:
        at_once = in_flight or default_in_flight(await self.server_info())
        found = concurrent(AsyncPainter(self, options), enumerate(chosen), at_once, ordered=ordered)
        async with contextlib.aclosing(found):
            with bar:
                async for painted in found:
                    bar.advance(failed=isinstance(painted[3], ImpastoError))
                    yield outcome(*painted, errors)

    async def features(
        self,
        image: Picture,
        layer: str,
        filters: Sequence[int] | int = 5,
        *,
        network: str = "",
        size_px: int = 256,
        pooling: Literal["average", "max"] = "average",
    ) -> Features:
        """Return the responses of a layer's filters to a picture; see :meth:`impasto.Client.features`."""
        request = await asyncio.to_thread(features_request, image, layer, filters, network, size_px, pooling)
        return results.features(layer, await self._call(self._stub.InspectFeatures, request, UPLOAD_TIMEOUT_S))

    async def upload(self, picture: Picture) -> UploadedImage:
        """Upload a picture's file once; see :meth:`impasto.Client.upload`."""
        return await self._upload(picture)

    async def _upload(self, picture: Picture, deadline: Deadline | None = None) -> UploadedImage:
        if isinstance(picture, UploadedImage):
            return picture
        data = await asyncio.to_thread(to_bytes, picture, "picture")
        image_id = hashlib.sha256(data).hexdigest()
        retry = self._retry(deadline, time_for_bytes(len(data), UPLOAD_TIMEOUT_S))
        ask_only, offset = True, 0
        while True:
            requests = upload_requests(data, image_id, offset, ask_only=ask_only)
            try:
                with self._unless_closed():
                    answer = await self._stub.UploadImage(requests, timeout=retry.left_s)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(retry.delay(of_upload(self._error(error), name_of(picture))))
                ask_only, offset = True, 0
                continue
            self._answered = True
            retry.reset()
            if answer.image_id:
                return UploadedImage(answer.image_id, name_of(picture))
            ask_only, offset = False, answer.received_bytes

    async def download(self, image: UploadedImage | str) -> bytes:
        """Return an uploaded file; see :meth:`impasto.Client.download`."""
        return await self._pieces(self._stub.DownloadImage, lambda at: download_request(image, at))

    async def _whole(self, result: pb.JobResult) -> Result:
        return Result(await self._picture(result), results.job_info(result.job))

    async def _picture(self, result: pb.JobResult) -> bytes:
        if not left_out(result):
            return result.image.data
        job_id = result.job.job_id
        data = await self._pieces(self._stub.DownloadResult, lambda at: result_request(job_id, at))
        return checked_picture(data, result)

    async def _pieces(self, method: Any, request_at: Callable[[int], Any]) -> bytes:
        retry = self._retry()
        data = bytearray()
        while True:
            before = len(data)
            try:
                with self._unless_closed():
                    async for piece in method(request_at(len(data)), timeout=UPLOAD_TIMEOUT_S):
                        self._answered = True
                        retry.reset()
                        data += piece.chunk
            except grpc.aio.AioRpcError as error:
                cause = self._error(error)
                if not isinstance(cause, errors.WaitTimeout) or len(data) == before:  # else the link is slow, and alive
                    await asyncio.sleep(retry.delay(cause))
            else:
                return bytes(data)

    def job(self, job_id: str) -> AsyncJob:
        """Return a handle to a job by its id."""
        return AsyncJob(self, job_id)

    async def jobs(
        self,
        states: Sequence[str] = (),
        *,
        labels: Mapping[str, str] | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        owner: str = "",
    ) -> AsyncIterator[JobInfo]:
        """Yield jobs, newest first; see :meth:`impasto.Client.jobs`."""
        request = list_request(states, labels, created_from, created_before, owner)
        while True:
            page = await self._call(self._stub.ListJobs, request, CALL_TIMEOUT_S)
            for message in page.jobs:
                yield results.job_info(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def server_info(self) -> ServerInfo:
        """Return a description of the server."""
        response = await self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), CALL_TIMEOUT_S)
        return results.server_info(response)

    async def drain_workers(self, name: str) -> tuple[DeviceInfo, ...]:
        """Give workers on other machines no more jobs; see :meth:`impasto.Client.drain_workers`."""
        request = pb.DrainWorkersRequest(name=name)
        return results.devices((await self._call(self._stub.DrainWorkers, request, CALL_TIMEOUT_S)).devices)

    async def health(self, timeout_s: float = 5.0) -> str:
        """Return ``serving`` or ``not_serving``."""
        response = await self._call(self._health.Check, health_pb2.HealthCheckRequest(), None, Deadline(timeout_s))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)).lower()

    async def _next(self, call: Any) -> Any:
        """Return a stream's next message.

        Raises:
            TimeoutError: If the server is silent.
        """
        with self._unless_closed():
            return await asyncio.wait_for(call.read(), transport.SILENCE_S)

    async def _call(self, method: Any, request: Any, attempt_s: float | None, deadline: Deadline | None = None) -> Any:
        retry = self._retry(deadline, attempt_s)
        while True:
            try:
                with self._unless_closed():
                    answer = await method(request, timeout=retry.left_s)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(retry.delay(self._error(error)))
            else:
                self._answered = True
                return answer


class AsyncJob(JobBase):
    """A handle to a job on a server; see :class:`impasto.Job`."""

    def __init__(self, client: AsyncClient, job_id: str, acknowledgement: JobInfo | None = None) -> None:
        super().__init__(job_id, acknowledgement)
        self._client = client

    @property
    def server(self) -> str:
        """Address of its server."""
        return self._client.server

    async def info(self) -> JobInfo:
        """Return the current state of the job."""
        client = self._client
        response = await client._call(client._stub.GetJob, pb.GetJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    async def progress(
        self,
        *,
        resume_after: int | None = None,
        previews: bool = False,
        image: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Event]:
        """Yield the job's events; see :meth:`impasto.Job.progress`."""
        client = self._client
        retry = client._retry(Deadline(timeout_s))
        cursor = Cursor(self.job_id, resume_after, previews=previews, image=image)
        while True:
            call = client._stub.Progress(cursor.request, timeout=retry.left_s)
            try:
                while (message := await client._next(call)) is not grpc.aio.EOF:
                    client._answered = True
                    retry.reset()
                    event = cursor.take(message)
                    if image and isinstance(event, Finished) and left_out(message.result):
                        event = replace(event, data=await client._picture(message.result))
                    if event is not None:
                        yield event
                    if cursor.ended:
                        return  # whatever the stream's status: a retry would report the end again
            except grpc.aio.AioRpcError as error:
                cursor.lost()
                cause = client._error(error)
                if isinstance(cause, errors.WaitTimeout):
                    raise waited(timeout_s, "continues") from None
                await asyncio.sleep(retry.delay(cause))
            except TimeoutError:
                cursor.lost()
                await asyncio.sleep(retry.delay(transport.silence(client.server)))
            else:
                return
            finally:
                call.cancel()

    def _repr_html_(self) -> str:
        """Return the job's state when it was submitted; an event loop cannot be waited for here."""
        return job_html(self.job_id, self.acknowledgement)

    async def result(self, timeout_s: float | None = None, *, progress: bool = False) -> Result:
        """Wait for the job's end and return its picture; see :meth:`impasto.Job.result`."""
        with ProgressBar(quiet=not progress) as show:
            return await self.follow(show, timeout_s)

    async def follow(self, on_event: Callable[[Event], Awaitable[None] | None], timeout_s: float | None = None) -> Result:
        """Watch the job to its end; see :meth:`impasto.Job.follow`. ``on_event`` may be a coroutine function."""
        async with contextlib.aclosing(self.progress(previews=True, timeout_s=timeout_s)) as events:
            async for event in events:
                waiting = on_event(event)
                if waiting is not None:
                    await waiting
                if isinstance(event, Finished):
                    check_succeeded(event.job)
                    return await self.fetch()
        raise stream_ended()

    async def fetch(self) -> Result:
        """Return the picture of a job that has succeeded, without waiting; see :meth:`impasto.Job.fetch`."""
        client = self._client
        request = pb.GetResultRequest(job_id=self.job_id)
        response = await client._call(client._stub.GetResult, request, UPLOAD_TIMEOUT_S)
        return await client._whole(response.result)

    async def cancel(self) -> JobInfo:
        """Cancel the job; it stops at its next step."""
        client = self._client
        request = pb.CancelJobRequest(job_id=self.job_id)
        return results.job_info((await client._call(client._stub.CancelJob, request, CALL_TIMEOUT_S)).job)

    async def pause(self) -> JobInfo:
        """Pause the job; see :meth:`impasto.Job.pause`."""
        client = self._client
        request = pb.PauseJobRequest(job_id=self.job_id)
        return results.job_info((await client._call(client._stub.PauseJob, request, CALL_TIMEOUT_S)).job)

    async def resume(self) -> JobInfo:
        """Resume a paused job where it stopped."""
        client = self._client
        request = pb.ResumeJobRequest(job_id=self.job_id)
        return results.job_info((await client._call(client._stub.ResumeJob, request, CALL_TIMEOUT_S)).job)

    async def delete(self) -> None:
        """Cancel the job if it has not ended, and delete it and its picture from the server."""
        client = self._client
        await client._call(client._stub.DeleteJob, pb.DeleteJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)


def _told(
    event: Event, show: Callable[[Event], None], on_step: Callable[[Step], Awaitable[None] | None] | None
) -> Awaitable[None] | None:
    """Show an event, and call back if it is a step."""
    show(event)
    return on_step(event) if on_step is not None and isinstance(event, Step) else None
