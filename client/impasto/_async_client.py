"""The client for asyncio: the same calls as :mod:`impasto.client`, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from impasto import errors, results, transport
from impasto._base import (
    CALL_TIMEOUT_S,
    QUIET_TIMEOUT_S,
    UPLOAD_TIMEOUT_S,
    ClientBase,
    Cursor,
    JobBase,
    finished_result,
    result_of,
    stream_ended,
    stylize_request,
    submit_request,
)
from impasto.credentials import Credentials
from impasto.pictures import Picture, UploadedImage, name_of, to_bytes
from impasto.requests import (
    Options,
    Styles,
    features_request,
    job_spec,
    job_states,
    reconstruction_options,
    texture_options,
    upload_requests,
)
from impasto.results import Event, Features, Finished, JobInfo, Result, ServerInfo, Step
from impasto.retry import DEFAULT_S
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc


class AsyncClient(ClientBase):
    """A connection to an impasto server, for one event loop. Create it there; use it as an async context manager.

    Args:
        server: HOST:PORT; by default ``$IMPASTO_SERVER``, else localhost:50051.
        patience_s: As for :class:`impasto.Client`.
        credentials: As for :class:`impasto.Client`.
    """

    def __init__(
        self, server: str | None = None, *, patience_s: float = DEFAULT_S, credentials: Credentials | None = None
    ) -> None:
        super().__init__(server, patience_s, credentials)
        if self._channel_credentials:
            self._channel = grpc.aio.secure_channel(self.server, self._channel_credentials, options=self._channel_options)
        else:
            self._channel = grpc.aio.insecure_channel(self.server, options=self._channel_options)
        self._stub: Any = self._credentials.authorized(pb_grpc.StyleTransferServiceStub(self._channel))
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

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
        await self._channel.close()

    async def stylize(
        self,
        content: Picture | None,
        style: Styles = None,
        *,
        on_step: Callable[[Step], Awaitable[None] | None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Result:
        """Paint a picture and wait for it; see :meth:`impasto.Client.stylize`. ``on_step`` may be a coroutine function.

        Cancelling the task cancels the job.
        """
        if on_step is None:
            spec = await asyncio.to_thread(job_spec, content, style, options)
            await self._check(spec)
            request = stylize_request(spec, request_id)
            response = await self._call(self._stub.Stylize, request, timeout_s)
            return result_of(response)
        try:
            async with asyncio.timeout(timeout_s):
                job = await self.submit(content, style, request_id=request_id, **options)
                try:
                    return await _follow(job, on_step)
                except BaseException:
                    await asyncio.shield(job.cancel_quietly())
                    raise
        except TimeoutError:
            raise errors.DeadlineExceeded(f"not done within {timeout_s} s", reason="DEADLINE_EXCEEDED") from None

    async def submit(
        self, content: Picture | None, style: Styles = None, *, request_id: str = "", **options: Unpack[Options]
    ) -> AsyncJob:
        """Hand a job in and return at once; see :meth:`impasto.Client.submit`."""
        spec = await asyncio.to_thread(job_spec, content, style, options)
        await self._check(spec)
        request = submit_request(spec, request_id)
        response = await self._call(self._stub.SubmitJob, request, CALL_TIMEOUT_S)
        return AsyncJob(self, response.job.job_id, results.job_info(response.job))

    async def validate(self, content: Picture | None, style: Styles = None, **options: Unpack[Options]) -> JobInfo:
        """Let the server check a job and hand nothing in; see :meth:`impasto.Client.validate`."""
        spec = await asyncio.to_thread(job_spec, content, style, options)
        await self._check(spec)
        request = pb.SubmitJobRequest(spec=spec, validate_only=True)
        return results.job_info((await self._call(self._stub.SubmitJob, request, CALL_TIMEOUT_S)).job)

    async def _check(self, spec: pb.JobSpec) -> None:
        """Refuse a job that is larger than the server accepts; the server is asked once, and only for a large one."""
        if self._must_ask_for_limit(spec):
            self._limit_bytes = (await self.server_info()).limits["max_message_bytes"]
        self._check_size(spec)

    async def reconstruct(self, image: Picture, layer: str = "relu4_2", **options: Any) -> Result:
        """Paint what a layer holds of a picture; see :meth:`impasto.Client.reconstruct`."""
        return await self.stylize(image, None, **reconstruction_options(layer, options))

    async def texture(self, style: Styles, layers: Sequence[str] | Mapping[str, float] | None = None, **options: Any) -> Result:
        """Paint a texture of a style; see :meth:`impasto.Client.texture`."""
        return await self.stylize(None, style, **texture_options(layers, options))

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
        """Return a picture as filters of a layer see it; see :meth:`impasto.Client.features`."""
        request = await asyncio.to_thread(features_request, image, layer, filters, network, size_px, pooling)
        return results.features(layer, await self._call(self._stub.InspectFeatures, request, UPLOAD_TIMEOUT_S))

    async def upload(self, picture: Picture) -> UploadedImage:
        """Send a picture's file once; see :meth:`impasto.Client.upload`."""
        if isinstance(picture, UploadedImage):
            return picture
        data = await asyncio.to_thread(to_bytes, picture, "picture")
        image_id = hashlib.sha256(data).hexdigest()
        retry = self._retry()
        ask_only, offset = True, 0
        while True:
            requests = upload_requests(data, image_id, offset, ask_only=ask_only)
            try:
                answer = await self._stub.UploadImage(requests, timeout=UPLOAD_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(retry.delay(self._error(error)))
                ask_only, offset = True, 0
                continue
            self._answered = True
            retry.reset()
            if answer.image_id:
                return UploadedImage(answer.image_id, name_of(picture))
            ask_only, offset = False, answer.received_bytes

    async def download(self, image: UploadedImage | str) -> bytes:
        """Return an uploaded file; see :meth:`impasto.Client.download`."""
        image_id = image.image_id if isinstance(image, UploadedImage) else image
        try:
            call = self._stub.DownloadImage(pb.DownloadImageRequest(image_id=image_id), timeout=UPLOAD_TIMEOUT_S)
            return b"".join([piece.chunk async for piece in call])
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None

    def job(self, job_id: str) -> AsyncJob:
        """Return a handle on a job by its id."""
        return AsyncJob(self, job_id)

    async def jobs(self, states: Sequence[str] = ()) -> AsyncIterator[JobInfo]:
        """Yield jobs, newest first; see :meth:`impasto.Client.jobs`."""
        request = pb.ListJobsRequest(states=job_states(states))
        while True:
            page = await self._call(self._stub.ListJobs, request, CALL_TIMEOUT_S)
            for message in page.jobs:
                yield results.job_info(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def server_info(self) -> ServerInfo:
        """Return what the server is."""
        response = await self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), CALL_TIMEOUT_S)
        return results.server_info(response)

    async def health(self, timeout_s: float = 5.0) -> str:
        """Return ``serving`` or ``not_serving``."""
        response = await self._call(self._health.Check, health_pb2.HealthCheckRequest(), timeout_s)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)).lower()

    async def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        retry = self._retry(timeout_s)
        while True:
            try:
                answer = await method(request, timeout=retry.left_s)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(retry.delay(self._error(error)))
            else:
                self._answered = True
                return answer


class AsyncJob(JobBase):
    """A handle on a job of a server; see :class:`impasto.Job`."""

    def __init__(self, client: AsyncClient, job_id: str, acknowledgement: JobInfo | None = None) -> None:
        super().__init__(job_id, acknowledgement)
        self._client = client

    async def info(self) -> JobInfo:
        """Return the job as it stands."""
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
        """Yield what happens; see :meth:`impasto.Job.progress`."""
        client = self._client
        retry = client._retry(timeout_s)
        cursor = Cursor(self.job_id, resume_after, previews=previews, image=image)
        while True:
            call = client._stub.Progress(cursor.request, timeout=retry.left_s)
            try:
                while (message := await asyncio.wait_for(call.read(), transport.SILENCE_S)) is not grpc.aio.EOF:
                    client._answered = True
                    retry.reset()
                    event = cursor.take(message)
                    if event is not None:
                        yield event
                    if cursor.ended:
                        return  # however the stream ends: the end would be told again
            except grpc.aio.AioRpcError as error:
                cursor.lost()
                await asyncio.sleep(retry.delay(client._error(error)))
            except TimeoutError:
                cursor.lost()
                await asyncio.sleep(retry.delay(transport.silence(client.server)))
            else:
                return
            finally:
                call.cancel()

    async def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the job's end and return its picture; see :meth:`impasto.Job.result`."""
        async with contextlib.aclosing(self.progress(image=True, timeout_s=timeout_s)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return finished_result(event)
        raise stream_ended()

    async def fetch(self) -> Result:
        """Return the picture of a job that has succeeded, without waiting; see :meth:`impasto.Job.fetch`."""
        client = self._client
        request = pb.GetResultRequest(job_id=self.job_id)
        response = await client._call(client._stub.GetResult, request, CALL_TIMEOUT_S)
        return result_of(response)

    async def cancel(self) -> JobInfo:
        """Ask the job to stop; it does at its next step."""
        client = self._client
        request = pb.CancelJobRequest(job_id=self.job_id)
        return results.job_info((await client._call(client._stub.CancelJob, request, CALL_TIMEOUT_S)).job)

    async def pause(self) -> JobInfo:
        """Let the job stop for a while; see :meth:`impasto.Job.pause`."""
        client = self._client
        request = pb.PauseJobRequest(job_id=self.job_id)
        return results.job_info((await client._call(client._stub.PauseJob, request, CALL_TIMEOUT_S)).job)

    async def resume(self) -> JobInfo:
        """Let a paused job go on where it stopped."""
        client = self._client
        request = pb.ResumeJobRequest(job_id=self.job_id)
        return results.job_info((await client._call(client._stub.ResumeJob, request, CALL_TIMEOUT_S)).job)

    async def delete(self) -> None:
        """Cancel the job if it has not ended, and let the server forget it and its picture."""
        client = self._client
        await client._call(client._stub.DeleteJob, pb.DeleteJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)

    async def cancel_quietly(self) -> None:
        """Cancel while another error is on its way."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._client._stub.CancelJob(pb.CancelJobRequest(job_id=self.job_id), timeout=QUIET_TIMEOUT_S)


async def _follow(job: AsyncJob, on_step: Callable[[Step], Awaitable[None] | None]) -> Result:
    async with contextlib.aclosing(job.progress(previews=True, image=True)) as events:
        async for event in events:
            if isinstance(event, Step):
                waiting = on_step(event)
                if waiting is not None:
                    await waiting
            elif isinstance(event, Finished):
                return finished_result(event)
    raise stream_ended()
