"""The synchronous client."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from impasto import results
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
    count_of,
    default_in_flight,
    outcome,
    pairs,
    threaded,
)
from impasto._painters import Painter
from impasto.credentials import Credentials
from impasto.errors import ImpastoError, NotFound, WaitTimeout
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
from impasto.transport import Watchdog, silence
from impasto.v1 import style_transfer_pb2 as pb
from impasto.v1 import style_transfer_pb2_grpc as pb_grpc


class Client(ClientBase):
    """A connection to an impasto server. It is thread-safe; close it, or use it as a context manager.

    Args:
        server: HOST:PORT; by default ``$IMPASTO_SERVER``, else localhost:50051.
        patience_s: How long to retry while a server that was reached before is unavailable (for example restarting); 0 to try
            once.
        credentials: Token and TLS; by default from the environment (:mod:`impasto.credentials`).
    """

    def __init__(
        self, server: str | None = None, *, patience_s: float = DEFAULT_S, credentials: Credentials | None = None
    ) -> None:
        super().__init__(server, patience_s, credentials)
        if self._channel_credentials:
            self._channel = grpc.secure_channel(self.server, self._channel_credentials, options=self._channel_options)
        else:
            self._channel = grpc.insecure_channel(self.server, options=self._channel_options)
        self._stubs = self._credentials.authorized(pb_grpc.StyleTransferServiceStub(self._channel))

    @property
    def _stub(self) -> Any:
        self._check_open()
        return self._stubs

    @property
    def _health(self) -> Any:
        self._check_open()
        return health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; calls in progress end."""
        self._closed = True
        self._channel.close()

    def stylize(
        self,
        content: Picture | None,
        style: Styles = None,
        *,
        on_step: Callable[[Step], None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        progress: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Paint a picture and wait for it. Interrupting the wait (Ctrl-C, a deadline, an error) cancels the job.

        Args:
            content: The picture to repaint; None synthesizes a texture of the style (:meth:`texture` uses the style loss only).
            style: One style picture, or several, each alone or as a pair with its weight. None uses the content loss only; the
                canvas starts from the content and hardly changes, so see :meth:`reconstruct`, which starts from noise.
            on_step: Called after every optimizer step.
            timeout_s: Deadline for the whole call; none by default.
            request_id: UUID that makes the call safe to retry: the same request joins the running job or returns its result.
            progress: Whether to show a bar on a terminal or in a notebook.
            **options: See :class:`~impasto.requests.Options`.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        self._check_open()
        deadline = Deadline(timeout_s)
        try:
            if on_step is None and not progress:
                spec = job_spec(content, style, options)
                self._prepare(spec, deadline)
                request = stylize_request(spec, request_id)
                response = self._call(self._stub.Stylize, request, None, deadline)
                return self._whole(response.result)
            request_id = request_id or new_request_id()
            job: Job | None = None
            try:
                job = self.submit(content, style, request_id=request_id, timeout_s=timeout_s, **options)
                with ProgressBar(quiet=not progress) as show:
                    return job.follow(lambda event: _told(event, show, on_step), deadline.left_s)
            except BaseException as error:
                if job is not None or may_have_started(error):
                    self.cancel_quietly(request_id)
                raise
        except WaitTimeout:
            raise waited(timeout_s, "was cancelled") from None

    def submit(
        self,
        content: Picture | None,
        style: Styles = None,
        *,
        request_id: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Submit a job and return at once; the job continues without this client.

        Arguments are those of :meth:`stylize`. Without ``timeout_s`` a server may be unavailable for ``patience_s``, and each
        attempt has 30 s and what its bytes take on a slow link.

        If the call is interrupted or has no answer in time, the job is cancelled, since nobody knows its id; with a
        ``request_id`` it is not, and the same call joins it.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        self._check_open()
        deadline = Deadline(timeout_s)
        spec = job_spec(content, style, options)
        self._prepare(spec, deadline)
        request = submit_request(spec, request_id)
        try:
            response = self._call(self._stub.SubmitJob, request, self._time_for(request), deadline)
        except BaseException as error:
            if not request_id and may_have_started(error):
                self.cancel_quietly(request.request_id)
            raise
        return Job(self, response.job.job_id, results.job_info(response.job))

    def cancel_request(self, request_id: str) -> JobInfo:
        """Cancel the job that was submitted with a request id, whether or not its acknowledgement arrived.

        Raises:
            NotFound: If no such job was accepted so far.
            ImpastoError: See :mod:`impasto.errors`.
        """
        request = pb.CancelJobRequest(request_id=request_id)
        return results.job_info(self._call(self._stub.CancelJob, request, CALL_TIMEOUT_S).job)

    def cancel_quietly(self, request_id: str) -> bool:
        """Cancel a request's job while another error is being raised; return whether it was cancelled."""
        return self._why_not_cancelled(request_id) is None

    def _why_not_cancelled(self, request_id: str) -> ImpastoError | None:
        """Cancel a request's job while another error is being raised; return why it was not cancelled, None if it was."""
        if self._closed:
            with Client(self.server, credentials=self._credentials) as other:
                return other._why_not_cancelled(request_id)
        cause: ImpastoError | None = None
        for delay_s in QUIET_DELAYS_S:
            time.sleep(delay_s)
            try:
                self._stub.CancelJob(pb.CancelJobRequest(request_id=request_id), timeout=QUIET_TIMEOUT_S)
            except grpc.RpcError as error:
                cause = self._error(error)
                if not isinstance(cause, NotFound):
                    return cause
            else:
                return None
        return cause

    def validate(self, content: Picture | None, style: Styles = None, **options: Unpack[Options]) -> JobInfo:
        """Validate a job on the server without submitting it; return the job it would become, with estimated start and end.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        spec = job_spec(content, style, options)
        self._prepare(spec)
        request = pb.SubmitJobRequest(spec=spec, validate_only=True)
        return results.job_info(self._call(self._stub.SubmitJob, request, self._time_for(request)).job)

    def _prepare(self, spec: pb.JobSpec, deadline: Deadline | None = None) -> None:
        """Upload large pictures in chunks, which resume after a lost connection; reject a job that is still too large."""
        for image in large_images(spec):
            name = image.name
            image.image_id = (self._upload(NamedFile(image.data, name), deadline)).image_id
        if self._needs_limit(spec):
            self._limit_bytes = self.server_info().limits["max_message_bytes"]
        self._check_size(spec)

    def reconstruct(
        self,
        image: Picture,
        layer: str = "relu4_2",
        *,
        on_step: Callable[[Step], None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        progress: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Reconstruct a picture from the features of one layer, starting from noise.

        Args:
            image: The picture.
            layer: Layer of the content loss.
            on_step: As for :meth:`stylize`.
            timeout_s: As for :meth:`stylize`.
            request_id: As for :meth:`stylize`.
            progress: As for :meth:`stylize`.
            **options: As for :meth:`stylize`.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return self.stylize(
            image,
            None,
            on_step=on_step,
            timeout_s=timeout_s,
            request_id=request_id,
            progress=progress,
            **reconstruction_options(layer, options),
        )

    def texture(
        self,
        style: Styles,
        layers: Sequence[str] | Mapping[str, float] | None = None,
        *,
        on_step: Callable[[Step], None] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        progress: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Paint a texture of a style from noise, using the style loss only.

        Args:
            style: One picture, or several as for :meth:`stylize`.
            layers: Layers of the style loss, with equal or given weights; the first layer of each block by default.
            on_step: As for :meth:`stylize`.
            timeout_s: As for :meth:`stylize`.
            request_id: As for :meth:`stylize`.
            progress: As for :meth:`stylize`.
            **options: As for :meth:`stylize`.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return self.stylize(
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
    ) -> Iterator[Mapped]:
        """Paint many pictures, several at a time, and yield each with its content and style.

        Contents and styles are read while jobs end, and nothing that was yielded is kept: memory does not grow with their
        number. Style files are uploaded once. A full queue is waited for, and a job that was lost is submitted again. When the
        iteration ends, whatever the cause, the jobs in flight are cancelled.

        Args:
            contents: The pictures to repaint; None for a texture.
            styles: One picture or :class:`~impasto.Style` for all contents, or an iterable with the style, or styles, of each:
                for every content in every style, see :func:`itertools.product`.
            in_flight: Most jobs at a time; by default those that the server runs at once and some ahead.
            ordered: Whether results come in the order of the contents, else as they are ready.
            errors: ``raise``, or ``return`` to go on: the error is then the ``error`` of its :class:`~impasto.Mapped`.
            progress: Whether to show a bar on a terminal or in a notebook.
            **options: As for :meth:`stylize`; for all jobs.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        checked_errors(errors)
        checked_in_flight(in_flight)
        check_names(options)
        return self._mapped(
            pairs(contents, styles), in_flight, ordered, errors, ManyBar(count_of(contents), quiet=not progress), options
        )

    def _mapped(
        self,
        chosen: Iterator[Any],
        in_flight: int | None,
        ordered: bool,
        errors: Errors,
        bar: ManyBar,
        options: Mapping[str, Any],
    ) -> Iterator[Mapped]:
        at_once = in_flight or default_in_flight(self.server_info())
        painter = Painter(self, options)
        found = threaded(painter, enumerate(chosen), at_once, ordered=ordered, stop=painter.stop)
        with contextlib.closing(found), bar:
            for painted in found:
                bar.advance(failed=isinstance(painted[3], ImpastoError))
                yield outcome(*painted, errors)

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
        """Return the responses of a layer's filters to a picture.

        Args:
            image: The picture.
            layer: Name of the layer.
            filters: Filter numbers, or how many of those with the strongest response.
            network: As in :class:`~impasto.requests.Options`.
            size_px: Longer side to which the picture is resized.
            pooling: Type of the network's pooling layers.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        request = features_request(image, layer, filters, network, size_px, pooling)
        return results.features(layer, self._call(self._stub.InspectFeatures, request, UPLOAD_TIMEOUT_S))

    def upload(self, picture: Picture) -> UploadedImage:
        """Upload a picture's file once; the returned value refers to it in any number of jobs.

        Data that the server already has is not sent again, even after a lost connection.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return self._upload(picture)

    def _upload(self, picture: Picture, deadline: Deadline | None = None) -> UploadedImage:
        if isinstance(picture, UploadedImage):
            return picture
        data = to_bytes(picture, "picture")
        image_id = hashlib.sha256(data).hexdigest()
        retry = self._retry(deadline, time_for_bytes(len(data), UPLOAD_TIMEOUT_S))
        ask_only, offset = True, 0
        while True:
            requests = upload_requests(data, image_id, offset, ask_only=ask_only)
            try:
                with self._unless_closed():
                    answer = self._stub.UploadImage(requests, timeout=retry.left_s)
            except grpc.RpcError as error:
                time.sleep(retry.delay(of_upload(self._error(error), name_of(picture))))
                ask_only, offset = True, 0
                continue
            self._answered = True
            retry.reset()
            if answer.image_id:
                return UploadedImage(answer.image_id, name_of(picture))
            ask_only, offset = False, answer.received_bytes

    def download(self, image: UploadedImage | str) -> bytes:
        """Return an uploaded file. After a lost connection the download continues where it stopped.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return self._pieces(self._stub.DownloadImage, lambda at: download_request(image, at))

    def _whole(self, result: pb.JobResult) -> Result:
        """Return a result; a picture that was too large for the response is downloaded."""
        return Result(self._picture(result), results.job_info(result.job))

    def _picture(self, result: pb.JobResult) -> bytes:
        if not left_out(result):
            return result.image.data
        job_id = result.job.job_id
        return checked_picture(self._pieces(self._stub.DownloadResult, lambda at: result_request(job_id, at)), result)

    def _pieces(self, method: Any, request_at: Callable[[int], Any]) -> bytes:
        """Return the joined chunks of a stream, resumed after lost connections."""
        retry = self._retry()
        data = bytearray()
        while True:
            before = len(data)
            try:
                with self._unless_closed():
                    pieces = method(request_at(len(data)), timeout=UPLOAD_TIMEOUT_S)
                for piece in pieces:
                    self._answered = True
                    retry.reset()
                    data += piece.chunk
            except grpc.RpcError as error:
                cause = self._error(error)
                if not isinstance(cause, WaitTimeout) or len(data) == before:  # else the link is slow, and alive
                    time.sleep(retry.delay(cause))
            else:
                return bytes(data)

    def job(self, job_id: str) -> Job:
        """Return a handle to a job by its id. Whether the job exists is checked by the first call on it."""
        return Job(self, job_id)

    def jobs(
        self,
        states: Sequence[str] = (),
        *,
        labels: Mapping[str, str] | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        owner: str = "",
    ) -> Iterator[JobInfo]:
        """Yield jobs, newest first, page by page.

        Args:
            states: Only jobs in one of these: ``queued``, ``running``, ``paused``, ``succeeded``, ``failed``, ``cancelled``.
            labels: Only jobs that have all of these labels with these values.
            created_from: Only jobs accepted at this time or later; local time if it has no time zone.
            created_before: Only jobs accepted before this time, likewise.
            owner: Only jobs of this caller; only administrators see jobs of others.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        request = list_request(states, labels, created_from, created_before, owner)
        while True:
            page = self._call(self._stub.ListJobs, request, CALL_TIMEOUT_S)
            yield from map(results.job_info, page.jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def server_info(self) -> ServerInfo:
        """Return a description of the server: devices, networks, presets, limits, queue.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        return results.server_info(self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), CALL_TIMEOUT_S))

    def drain_workers(self, name: str) -> tuple[DeviceInfo, ...]:
        """Give workers on other machines no more jobs; their jobs continue elsewhere. Return their devices.

        Args:
            name: Name of a worker, or of a host for all of its workers.

        Raises:
            NotFound: If no such worker has joined.
            ImpastoError: See :mod:`impasto.errors`.
        """
        request = pb.DrainWorkersRequest(name=name)
        return results.devices(self._call(self._stub.DrainWorkers, request, CALL_TIMEOUT_S).devices)

    def health(self, timeout_s: float = 5.0) -> str:
        """Return ``serving`` or ``not_serving``, as load balancers see it.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        response = self._call(self._health.Check, health_pb2.HealthCheckRequest(), None, Deadline(timeout_s))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)).lower()

    def _call(self, method: Any, request: Any, attempt_s: float | None, deadline: Deadline | None = None) -> Any:
        """Call a method and retry while the server is unavailable; the timeout bounds all attempts together."""
        retry = self._retry(deadline, attempt_s)
        while True:
            with self._unless_closed():
                call = method.future(request, timeout=retry.left_s)
            try:
                answer = call.result()
            except grpc.RpcError as error:
                time.sleep(retry.delay(self._error(error)))
            except BaseException:
                call.cancel()  # interrupted: the server must not go on reading the request
                raise
            else:
                self._answered = True
                retry.reset()
                return answer


class Job(JobBase):
    """A handle to a job on a server; its only state is the id.

    Attributes:
        job_id: The job's id on its server.
        acknowledgement: State of the job when this client submitted it, with estimated start and end; None otherwise.
    """

    def __init__(self, client: Client, job_id: str, acknowledgement: JobInfo | None = None) -> None:
        super().__init__(job_id, acknowledgement)
        self._client = client

    @property
    def server(self) -> str:
        """Address of its server."""
        return self._client.server

    def info(self) -> JobInfo:
        """Return the current state of the job.

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
        """Yield the job's events: a :class:`Snapshot`, then steps and heartbeats, and a :class:`Finished` last.

        Leaving the loop does not affect the job. A lost connection is retried for up to ``patience_s``, and events resume
        after the last one without gaps or duplicates.

        Args:
            resume_after: Sequence number to resume after; by default only events from now on.
            previews: Whether steps include previews (the job must make them: ``preview_every_steps``).
            image: Whether the last event includes the picture.
            timeout_s: Deadline for watching, not for the job.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        client = self._client
        retry = client._retry(Deadline(timeout_s))
        cursor = Cursor(self.job_id, resume_after, previews=previews, image=image)
        while True:
            with client._unless_closed():
                call = client._stub.Progress(cursor.request, timeout=retry.left_s)
            watchdog = Watchdog(call)
            try:
                for message in call:
                    client._answered = True
                    retry.reset()
                    watchdog.received()
                    event = cursor.take(message)
                    if image and isinstance(event, Finished) and left_out(message.result):
                        event = replace(event, data=client._picture(message.result))
                    if event is not None:
                        yield event
                    if cursor.ended:
                        return  # whatever the stream's status: a retry would report the end again
            except grpc.RpcError as error:
                cursor.lost()
                cause = silence(client.server) if watchdog.silent else client._error(error)
                if isinstance(cause, WaitTimeout):
                    raise waited(timeout_s, "continues") from None
                time.sleep(retry.delay(cause))
            else:
                return
            finally:
                watchdog.stop()
                call.cancel()

    def _repr_html_(self) -> str:
        """Return the job's state, progress and losses for a notebook; nothing fails if no server answers."""
        try:
            found = self._client._stub.GetJob(pb.GetJobRequest(job_id=self.job_id), timeout=QUIET_TIMEOUT_S)
        except grpc.RpcError as error:
            return job_html(self.job_id, None, str(self._client._error(error)))
        return job_html(self.job_id, results.job_info(found.job))

    def result(self, timeout_s: float | None = None, *, progress: bool = False) -> Result:
        """Wait for the job's end and return its picture.

        Args:
            timeout_s: How long to wait; the job continues after it.
            progress: Whether to show a bar on a terminal or in a notebook.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        with ProgressBar(quiet=not progress) as show:
            return self.follow(show, timeout_s)

    def follow(self, on_event: Callable[[Event], None], timeout_s: float | None = None) -> Result:
        """Watch the job to its end, including previews, and return its picture, which is part of the last event.

        Args:
            on_event: Called with every event.
            timeout_s: How long to watch; the job continues after it.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        for event in self.progress(previews=True, timeout_s=timeout_s):
            on_event(event)
            if isinstance(event, Finished):
                check_succeeded(event.job)
                return self.fetch()
        raise stream_ended()

    def fetch(self) -> Result:
        """Return the picture of a job that has succeeded, without waiting.

        Raises:
            NotReady: If it has not succeeded.
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.GetResult, pb.GetResultRequest(job_id=self.job_id), UPLOAD_TIMEOUT_S)
        return self._client._whole(response.result)

    def cancel(self) -> JobInfo:
        """Cancel the job; it stops at its next step.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.CancelJob, pb.CancelJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    def pause(self) -> JobInfo:
        """Pause the job; a running job stops at its next step and keeps its steps.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.PauseJob, pb.PauseJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    def resume(self) -> JobInfo:
        """Resume a paused job where it stopped.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        stub = self._client._stub
        response = self._client._call(stub.ResumeJob, pb.ResumeJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)
        return results.job_info(response.job)

    def delete(self) -> None:
        """Cancel the job if it has not ended, and delete it and its picture from the server.

        Raises:
            ImpastoError: See :mod:`impasto.errors`.
        """
        self._client._call(self._client._stub.DeleteJob, pb.DeleteJobRequest(job_id=self.job_id), CALL_TIMEOUT_S)


def _told(event: Event, show: Callable[[Event], None], on_step: Callable[[Step], None] | None) -> None:
    """Show an event, and call back if it is a step."""
    show(event)
    if on_step is not None and isinstance(event, Step):
        on_step(event)
