"""Every reason an error can carry: stable, one meaning each. docs/reference/errors.md is generated from this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DOMAIN = "impasto"


@dataclass(frozen=True)
class Reason:
    """What an error's reason means.

    Attributes:
        code: Name of the gRPC status code.
        meaning: What happened.
        advice: What a caller can do.
        metadata: Keys of the error's metadata.
        of_job: Whether a job can fail with it; it is then in ``Job.error``.
    """

    code: str
    meaning: str
    advice: str
    metadata: tuple[str, ...] = ()
    of_job: bool = False


REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "INVALID_FIELD": Reason(
            "INVALID_ARGUMENT", "Fields of the request are invalid; BadRequest lists them.", "Correct them."
        ),
        "MESSAGE_GARBLED": Reason(
            "INVALID_ARGUMENT", "The message cannot be decoded as the contract defines it.", "Use the contract's messages."
        ),
        "TOKEN_MISSING": Reason("UNAUTHENTICATED", "The server requires a token, and the call has none.", "Send one."),
        "TOKEN_UNKNOWN": Reason("UNAUTHENTICATED", "The token is unknown or was revoked.", "Ask the operator for one."),
        "CERTIFICATE_WITHOUT_NAME": Reason(
            "UNAUTHENTICATED", "The client's certificate has no common name.", "Use a certificate with a common name."
        ),
        "JOB_NOT_FOUND": Reason(
            "NOT_FOUND", "The job does not exist, has expired, or belongs to another owner.", "See ListJobs.", ("job_id",)
        ),
        "WORKER_NOT_FOUND": Reason(
            "NOT_FOUND", "No worker or host of this name has joined the server.", "See GetServerInfo.", ("name",)
        ),
        "NOT_ADMIN": Reason("PERMISSION_DENIED", "The call is for admins.", "Use the token of an admin."),
        "IMAGE_NOT_FOUND": Reason(
            "NOT_FOUND", "The uploaded file does not exist or has expired.", "Upload it again.", ("image_id",)
        ),
        "JOB_HAS_NO_RESULT": Reason(
            "FAILED_PRECONDITION",
            "The job has no picture, or has not finished yet.",
            "Watch it with Progress.",
            ("job_id", "state"),
        ),
        "QUEUE_FULL": Reason(
            "RESOURCE_EXHAUSTED",
            "The limit on waiting jobs or waiting work is reached.",
            "Retry after RetryInfo.",
            ("queued", "running", "limit"),
        ),
        "QUOTA_EXCEEDED": Reason(
            "RESOURCE_EXHAUSTED", "The client has reached its quota.", "Wait for your jobs to end.", ("quota", "limit", "used")
        ),
        "STORAGE_FULL": Reason(
            "RESOURCE_EXHAUSTED",
            "The pictures on the server's disk have reached their size limit.",
            "Retry later, or delete your jobs.",
        ),
        "STORAGE_FAILED": Reason("UNAVAILABLE", "The server cannot write to its disk.", "Retry after RetryInfo."),
        "SERVER_FAULT": Reason(
            "UNAVAILABLE", "The server has an internal fault and starts no jobs.", "Use another server; notify the operator."
        ),
        "STARTING": Reason("UNAVAILABLE", "No worker is ready yet.", "Retry after RetryInfo."),
        "DRAINING": Reason("UNAVAILABLE", "The server is shutting down.", "Use another server, or retry after RetryInfo."),
        "WORKER_LOST": Reason(
            "ABORTED",
            "The job's worker was lost three times while it ran.",
            "The job may be the cause; report it.",
            ("job_id",),
            True,
        ),
        "WORKER_GONE": Reason("UNAVAILABLE", "The worker was lost while it inspected features.", "Retry."),
        "OUT_OF_MEMORY": Reason(
            "RESOURCE_EXHAUSTED", "The device has not enough memory.", "Use a smaller size or history.", ("job_id",), True
        ),
        "ENGINE_ERROR": Reason("INTERNAL", "The engine failed while it ran the job.", "Report it.", ("job_id",), True),
        "ENCODE_ERROR": Reason(
            "INTERNAL", "The picture could not be encoded.", "Use another format or size.", ("job_id",), True
        ),
        "DEADLINE_EXCEEDED": Reason(
            "DEADLINE_EXCEEDED",
            "The job reached its time limit.",
            "Set a longer limit, or on_deadline=RETURN_BEST.",
            ("job_id",),
            True,
        ),
        "JOB_CANCELLED": Reason("CANCELLED", "The job was cancelled.", "Submit it again.", ("job_id",)),
        "METHOD_UNKNOWN": Reason(
            "UNIMPLEMENTED",
            "The server has no such method; it may be older than the client. Code 405 over HTTP: the path has others.",
            "See GetServerInfo.version; over HTTP, the message.",
        ),
        "REQUEST_ID_REUSED": Reason(
            "INVALID_ARGUMENT",
            "The request_id was used for another request.",
            "Send a new one; a retry must repeat the request exactly.",
            ("request_id",),
        ),
        "JOB_ABANDONED": Reason(
            "UNAVAILABLE",
            "The job was cancelled because the calls that waited for it had left, just before this one joined.",
            "Retry: the same request starts the job anew.",
            ("job_id",),
        ),
        "UPLOAD_RESTARTED": Reason(
            "UNAVAILABLE",
            "The stored part of the file was discarded, because other bytes were sent for the same hash at the same time.",
            "Retry; the server says what it has.",
        ),
        "DATA_LOST": Reason("DATA_LOSS", "The job's pictures on disk are lost.", "Submit it again.", ("job_id",), True),
        "RESULT_LOST": Reason("DATA_LOSS", "The finished picture on disk is lost.", "Submit the job again."),
        "INTERNAL": Reason("INTERNAL", "An internal error; the server's log has details.", "Report it."),
        "UNKNOWN": Reason("INTERNAL", "The job failed without a known reason.", "Report it.", ("job_id",), True),
    }
)
