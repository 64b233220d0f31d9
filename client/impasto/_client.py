"""The client for synchronous code."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from impasto import results
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
from impasto.transport import Watchdog, silence
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc


class Client(ClientBase):
    """A connection to an impasto server. Usable from several threads; close it, or use it as a context manager.

    Args:
        server: HOST:PORT; by default ``$IMPASTO_SERVER``, else localhost:50051.
        patience_s: How long a server that was there may be away, as for a restart, before a call gives up; 0 to try once.
        credentials: Token and TLS; by default what the environment says (:mod:`impasto.credentials`).
    """

    def __init__(
        self, server: str | None = None, *, patience_s: float = DEFAULT_S, credentials: Credentials | None = None
    ) -> None:
        super().__init__(server, patience_s, credentials)
        if self._channel_credentials:
            self._channel = grpc.secure_channel(self.server, self._channel_credentials, options=self._channel_options)
        else:
            self._channel = grpc.insecure_channel(self.server, options=self._channel_options)
        self._stub = self._credentials.authorized(pb_grpc.StyleTransferServiceStub(self._channel))
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; calls in progress end."""
        self._channel.close()

    def stylize(
        self,
        content: Picture | None,
        style: Styles = None,
        *,
        on_step: Callable[[Step], None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Result:
        """Paint a picture and wait for it. Interrupting the wait (Ctrl-C, a deadline, an error) cancels the job.

        Args:
            content: The picture to repaint; None synthesizes a texture of the style (:meth:`texture` leaves all but the style's
                loss out).
            style: One style picture, or several, each alone or as a pair with its weight; None keeps the content's loss only,
                and as the start is the content, it hardly changes: see :meth:`reconstruct`, which starts from noise.
            on_step: Called after every optimizer step.
            timeout_s: Deadline for the whole; there is none by default.
            request_id: UUID that makes the call safe to repeat: the same request joins the running job or gets its result.
            **options: See :class:`~impasto.requests.Options`.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        if on_step is None:
            spec = job_spec(content, style, options)
            self._check(spec)
            request = stylize_request(spec, request_id)
            response = self._call(self._stub.Stylize, request, timeout_s)
            return result_of(response)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        job = self.submit(content, style, request_id=request_id, timeout_s=timeout_s, **options)
        try:
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            return job.follow(lambda event: on_step(event) if isinstance(event, Step) else None, left)
        except BaseException:
            job.cancel_quietly()
            raise

    def submit(
        self,
        content: Picture | None,
        style: Styles = None,
        *,
        request_id: str = "",
        timeout_s: float | None = CALL_TIMEOUT_S,
        **options: Unpack[Options],
    ) -> Job:
        """Hand a job in and return at once. Arguments as for :meth:`stylize`; the job goes on without this client.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        spec = job_spec(content, style, options)
        self._check(spec)
        request = submit_request(spec, request_id)
        response = self._call(self._stub.SubmitJob, request, timeout_s)
        return Job(self, response.job.job_id, results.job_info(response.job))

    def validate(self, content: Picture | None, style: Styles = None, **options: Unpack[Options]) -> JobInfo:
        """Let the server check a job and hand nothing in: returns what it would become, with estimates of start and end.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        spec = job_spec(content, style, options)
        self._check(spec)
        request = pb.SubmitJobRequest(spec=spec, validate_only=True)
        return results.job_info(self._call(self._stub.SubmitJob, request, CALL_TIMEOUT_S).job)

    def _check(self, spec: pb.JobSpec) -> None:
        """Refuse a job that is larger than the server accepts; the server is asked once, and only for a large one."""
        if self._must_ask_for_limit(spec):
            self._limit_bytes = self.server_info().limits["max_message_bytes"]
        self._check_size(spec)

    def reconstruct(self, image: Picture, layer: str = "relu4_2", **options: Any) -> Result:
        """Paint what a layer holds of a picture: from noise, compared with the picture at that layer only.

        Args:
            image: The picture.
            layer: Where it is compared.
            **options: As for :meth:`stylize`, ``on_step`` and ``timeout_s`` too.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return self.stylize(image, None, **reconstruction_options(layer, options))

    def texture(self, style: Styles, layers: Sequence[str] | Mapping[str, float] | None = None, **options: Any) -> Result:
        """Paint a texture of a style: from noise, compared with the style's statistics only.

        Args:
            style: One picture, or several as for :meth:`stylize`.
            layers: Where it is compared, alike or by weight; the first of each block by default.
            **options: As for :meth:`stylize`, ``on_step`` and ``timeout_s`` too.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return self.stylize(None, style, **texture_options(layers, options))

    def features(
        self,
        image: Picture,
        layer: str,
        filters: Sequence[int] | int = 5,
        *,
        network: str = "",
        size_px: int = 256,
        pooling: Literal["average", "max"] = "average",
    ) -> Features:
        """Return a picture as filters of a layer see it.

        Args:
            image: The picture.
            layer: Which layer.
            filters: Which filters, or how many: then those that answer most.
            network: As in :class:`~impasto.requests.Options`.
            size_px: Longer side that the picture is seen at.
            pooling: How the network pools.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        request = features_request(image, layer, filters, network, size_px, pooling)
        return results.features(layer, self._call(self._stub.InspectFeatures, request, UPLOAD_TIMEOUT_S))

    def upload(self, picture: Picture) -> UploadedImage:
        """Send a picture's file once; what is returned stands for it in any number of jobs.

        What is there already is not sent again, also after a connection that broke.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        if isinstance(picture, UploadedImage):
            return picture
        data = to_bytes(picture, "picture")
        image_id = hashlib.sha256(data).hexdigest()
        retry = self._retry()
        ask_only, offset = True, 0
        while True:
            requests = upload_requests(data, image_id, offset, ask_only=ask_only)
            try:
                answer = self._stub.UploadImage(requests, timeout=UPLOAD_TIMEOUT_S)
            except grpc.RpcError as error:
                time.sleep(retry.delay(self._error(error)))
                ask_only, offset = True, 0
                continue
            self._answered = True
            retry.reset()
            if answer.image_id:
                return UploadedImage(answer.image_id, name_of(picture))
            ask_only, offset = False, answer.received_bytes

    def download(self, image: UploadedImage | str) -> bytes:
        """Return an uploaded file.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        image_id = image.image_id if isinstance(image, UploadedImage) else image
        try:
            pieces = self._stub.DownloadImage(pb.DownloadImageRequest(image_id=image_id), timeout=UPLOAD_TIMEOUT_S)
            return b"".join(piece.chunk for piece in pieces)
        except grpc.RpcError as error:
            raise self._error(error) from None

    def job(self, job_id: str) -> Job:
        """Return a handle on a job by its id; whether there is such a job shows when it is asked."""
        return Job(self, job_id)

    def jobs(self, states: Sequence[str] = ()) -> Iterator[JobInfo]:
        """Yield jobs, newest first, page by page.

        Args:
            states: Only jobs in one of these: ``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled``.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        request = pb.ListJobsRequest(states=job_states(states))
        while True:
            page = self._call(self._stub.ListJobs, request, CALL_TIMEOUT_S)
            yield from map(results.job_info, page.jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def server_info(self) -> ServerInfo:
        """Return what the server is: devices, networks, presets, limits, queue.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return results.server_info(self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), CALL_TIMEOUT_S))

    def health(self, timeout_s: float = 5.0) -> str:
        """Return ``serving`` or ``not_serving``, as load balancers see it.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        response = self._call(self._health.Check, health_pb2.HealthCheckRequest(), timeout_s)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)).lower()

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        """Call, and call again while the server is away; the timeout bounds all of it."""
        retry = self._retry(timeout_s)
        while True:
            try:
                answer = method(request, timeout=retry.left_s)
            except grpc.RpcError as error:
                time.sleep(retry.delay(self._error(error)))
            else:
                self._answered = True
                return answer


class Job(JobBase):
    """A handle on a job of a server; holds no state but its id.

    Attributes:
        job_id: Names the job on its server.
        acknowledgement: The job as it was when this client handed it in, with estimates of start and end; None else.
    """

    def __init__(self, client: Client, job_id: str, acknowledgement: JobInfo | None = None) -> None:
        super().__init__(job_id, acknowledgement)
        self._client = client

    def info(self) -> JobInfo:
        """Return the job as it stands.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.GetJob, pb.GetJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    def progress(
        self,
        *,
        resume_after: int | None = None,
        previews: bool = False,
        image: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Event]:
        """Yield what happens: a :class:`Snapshot`, then steps and heartbeats, a :class:`Finished` last.

        Leaving the loop does not disturb the job. A connection that is lost is made again, and events go on after the last
        one, without gap or duplicate, for as long as the client has patience.

        Args:
            resume_after: Sequence number to go on after; by default only what happens from now on.
            previews: Whether steps come with previews (the job must make them: ``preview_every_steps``).
            image: Whether the last event comes with the picture.
            timeout_s: Deadline for the watching, not for the job.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        client = self._client
        retry = client._retry(timeout_s)
        cursor = Cursor(self.job_id, resume_after, previews=previews, image=image)
        while True:
            call = client._stub.Progress(cursor.request, timeout=retry.left_s)
            watchdog = Watchdog(call)
            try:
                for message in call:
                    client._answered = True
                    retry.reset()
                    watchdog.heard()
                    event = cursor.take(message)
                    if event is not None:
                        yield event
                    if cursor.ended:
                        return  # however the stream ends: the end would be told again
            except grpc.RpcError as error:
                cursor.lost()
                cause = silence(client.server) if watchdog.silent else client._error(error)
                time.sleep(retry.delay(cause))
            else:
                return
            finally:
                watchdog.stop()
                call.cancel()

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the job's end and return its picture.

        Args:
            timeout_s: How long to wait; the job goes on if it passes.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return self.follow(lambda _: None, timeout_s)

    def follow(self, on_event: Callable[[Event], None], timeout_s: float | None = None) -> Result:
        """Watch the job to its end, previews and all, and return its picture, which comes with the last event.

        Args:
            on_event: Called with every event.
            timeout_s: How long to watch; the job goes on if it passes.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        for event in self.progress(previews=True, image=True, timeout_s=timeout_s):
            on_event(event)
            if isinstance(event, Finished):
                return finished_result(event)
        raise stream_ended()

    def fetch(self) -> Result:
        """Return the picture of a job that has succeeded, without waiting.

        Raises:
            NotReady: If it has not.
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.GetResult, pb.GetResultRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return result_of(response)

    def cancel(self) -> JobInfo:
        """Ask the job to stop; it does at its next step.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.CancelJob, pb.CancelJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    def pause(self) -> JobInfo:
        """Let the job stop for a while; a running one does at its next step, and keeps its steps.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.PauseJob, pb.PauseJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    def resume(self) -> JobInfo:
        """Let a paused job go on where it stopped.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.ResumeJob, pb.ResumeJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    def delete(self) -> None:
        """Cancel the job if it has not ended, and let the server forget it and its picture.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        self._client._call(self._client._stub.DeleteJob, pb.DeleteJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)

    def cancel_quietly(self) -> None:
        """Cancel while another error is on its way: what goes wrong here is of no interest any more."""
        try:
            self._client._stub.CancelJob(pb.CancelJobRequest(job_id=self.job_id), timeout=QUIET_TIMEOUT_S)
        except grpc.RpcError:
            return
