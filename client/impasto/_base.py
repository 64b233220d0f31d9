"""Code shared by both clients: settings, retries, requests, and the position in a progress stream."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

import grpc

from impasto import errors, results
from impasto.credentials import Credentials, checked
from impasto.errors import ImpastoError
from impasto.pictures import UploadedImage
from impasto.requests import server_address
from impasto.results import Event, JobInfo
from impasto.retry import Deadline, Reachability, Retry
from impasto.transport import SLOWEST_BYTES_PER_S, SMALL_BYTES, channel_options, check_size, error_of
from impasto.v1 import style_transfer_pb2 as pb

CLOSED = "CLIENT_CLOSED"
"""Reason of the error of a call whose client was closed."""
CALL_TIMEOUT_S = 30.0
"""Deadline of an attempt of a call without pictures."""
UPLOAD_TIMEOUT_S = 600.0
"""Deadline of an attempt of an upload or a download; uploads have more by their bytes."""
EVENT_BYTES = 64 << 10
"""Largest event with a picture; a larger picture is downloaded. A slow link is silent while an event arrives."""
QUIET_TIMEOUT_S = 3.0
"""Deadline of a cancellation while another error is being raised."""
QUIET_DELAYS_S = (0.0, 0.25, 0.75)
"""Delays before the attempts of such a cancellation: a submission may still be on its way to its commit."""


class ClientBase:
    """A connection's settings and state.

    Attributes:
        server: HOST:PORT.
        patience_s: How long a server that was reached before may be unavailable before a call fails.
        secured: Whether the connection uses TLS.
    """

    def __init__(self, server: str | None, patience_s: float, credentials: Credentials | None) -> None:
        self.server = server_address(server)
        self.patience_s = patience_s
        self._credentials = checked(credentials)
        self._channel_credentials = self._credentials.channel_credentials()
        self._channel_options = channel_options(self.server)
        self.secured = self._channel_credentials is not None
        self._answered = False
        self._reachability: Reachability | None = None
        self._limit_bytes: int | None = None
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Tell that the client was closed, by another thread, where gRPC raises a ValueError."""
        try:
            yield
        except ValueError:
            self._check_open()
            raise

    def _retry(self, deadline: Deadline | None = None, attempt_s: float | None = None) -> Retry:
        return Retry(
            self.patience_s,
            answered=self._answered,
            deadline=deadline,
            attempt_s=attempt_s,
            reachability=self._reachability,
        )

    def _error(self, error: grpc.RpcError) -> ImpastoError:
        return closed() if self._closed else error_of(error, self.server, secured=self.secured)

    @staticmethod
    def _time_for(request: Any) -> float:
        """Return a deadline that leaves time for a request's bytes on a slow link."""
        return time_for_bytes(request.ByteSize(), CALL_TIMEOUT_S)

    def _needs_limit(self, spec: pb.JobSpec) -> bool:
        """Whether a job is so large that the server's size limit must be known before it is sent."""
        return spec.ByteSize() >= SMALL_BYTES and self._limit_bytes is None

    def _check_size(self, spec: pb.JobSpec) -> None:
        if self._limit_bytes is not None:
            check_size(spec, self._limit_bytes)


class JobBase:
    """A job's id and the server's acknowledgement."""

    def __init__(self, job_id: str, acknowledgement: JobInfo | None = None) -> None:
        self.job_id = job_id
        self.acknowledgement = acknowledgement

    def __repr__(self) -> str:
        """Return the job's id."""
        return f"{type(self).__name__}({self.job_id!r})"


class Cursor:
    """A watcher's position in a job's events, across reconnections.

    Args:
        job_id: The job.
        after: Sequence number of the last known event; None for the newest.
        previews: Whether steps include previews.
        image: Whether the last event includes the picture.
    """

    def __init__(self, job_id: str, after: int | None, *, previews: bool, image: bool) -> None:
        self._request = pb.ProgressRequest(
            job_id=job_id,
            resume_after_sequence=after,
            include_previews=previews,
            include_image=image,
            max_response_bytes=EVENT_BYTES,
        )
        self._resumed = False
        self.ended = False

    @property
    def request(self) -> pb.ProgressRequest:
        """The next request to send."""
        return self._request

    def take(self, message: pb.ProgressResponse) -> Event | None:
        """Return a message's event; None for the snapshot of a resumed stream, which was already reported."""
        self._request.resume_after_sequence = message.sequence
        self.ended = message.HasField("result")
        return None if self._resumed and message.HasField("snapshot") else results.event(message)

    def lost(self) -> None:
        """Note that the connection was lost."""
        self._resumed = self._resumed or self._request.HasField("resume_after_sequence")


def of_upload(error: ImpastoError, name: str) -> ImpastoError:
    """Return the error of an upload with the file's name in the place of fields that its caller does not know."""
    fields = [item.field for item in error.violations]
    if not isinstance(error, errors.InvalidRequest) or not fields or not all(field.startswith("start.") for field in fields):
        return error
    told = [f"{item.field.removeprefix('start.')} {item.description}" for item in error.violations]
    text = f"{name or 'the file'}: {'; '.join(told)}"
    return errors.InvalidRequest(f"picture: {text}", reason=error.reason, violations=(errors.Violation("picture", text),))


def closed() -> ImpastoError:
    """Return the error of a call of a client that was closed, before the call or during it."""
    return ImpastoError("the client is closed", reason=CLOSED)


def time_for_bytes(count: int, least_s: float) -> float:
    """Return a deadline that leaves time for a number of bytes on a slow link, and for the rest of the call."""
    return least_s + count / SLOWEST_BYTES_PER_S


def new_request_id() -> str:
    """Return a request id that was never used."""
    return str(uuid.uuid4())


def may_have_started(error: BaseException) -> bool:
    """Whether a submission that ended with an error may have started a job: no answer of the server's was received."""
    lost = isinstance(error, ImpastoError) and error.reason == CLOSED
    return lost or isinstance(error, (errors.WaitTimeout, errors.Unavailable)) or not isinstance(error, Exception)


def stylize_request(spec: pb.JobSpec, request_id: str) -> pb.StylizeRequest:
    """Return the request, with a new id if none is given."""
    return pb.StylizeRequest(spec=spec, request_id=request_id or new_request_id())


def submit_request(spec: pb.JobSpec, request_id: str) -> pb.SubmitJobRequest:
    """Return the request, with a new id if none is given."""
    return pb.SubmitJobRequest(spec=spec, request_id=request_id or new_request_id())


def download_request(image: UploadedImage | str, offset_bytes: int) -> pb.DownloadImageRequest:
    """Return the request for the rest of an uploaded file."""
    image_id = image.image_id if isinstance(image, UploadedImage) else image
    return pb.DownloadImageRequest(image_id=image_id, offset_bytes=offset_bytes)


def left_out(result: pb.JobResult) -> bool:
    """Whether a result's picture was too large for the response and must be downloaded."""
    return bool(result.image_bytes) and not result.image.data


def result_request(job_id: str, offset_bytes: int) -> pb.DownloadResultRequest:
    """Return the request for the rest of a picture."""
    return pb.DownloadResultRequest(job_id=job_id, offset_bytes=offset_bytes)


def checked_picture(data: bytes, result: pb.JobResult) -> bytes:
    """Return a downloaded picture.

    Raises:
        ServerError: If it is not the one that the result describes.
    """
    if hashlib.sha256(data).hexdigest() != result.image_sha256:
        raise errors.ServerError(f"the picture of job {result.job.job_id} arrived damaged", reason="DAMAGED")
    return data


def check_succeeded(job: JobInfo) -> None:
    """Check that a job that has ended has a picture.

    Raises:
        ImpastoError: If it has none; the error says why.
    """
    if job.state != "succeeded":
        raise errors.from_job(job.job_id, job.state, job.error_reason, job.error_message)


def waited(timeout_s: float | None, outcome: str) -> errors.WaitTimeout:
    """Return the error for a wait that ran out.

    Args:
        timeout_s: The timeout.
        outcome: What became of the job.
    """
    within = f"{timeout_s:g} s" if timeout_s is not None else "its timeout"
    return errors.WaitTimeout(f"not finished within {within}; the job {outcome}", reason="WAIT_TIMEOUT")


def stream_ended() -> ImpastoError:
    """Return the error for a progress stream that ended before its job."""
    return errors.ServerError("the progress stream ended without a result")
