"""Every reason an error can carry: stable, one meaning each. docs/ERRORS.md is made from this table."""

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
        metadata: Keys of the message's variable parts.
        of_job: Whether a job fails with it, too: it then stands in ``Job.error``.
    """

    code: str
    meaning: str
    advice: str
    metadata: tuple[str, ...] = ()
    of_job: bool = False


REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "INVALID_FIELD": Reason("INVALID_ARGUMENT", "Fields of the request are wrong; BadRequest names all.", "Mend them."),
        "MESSAGE_GARBLED": Reason("INVALID_ARGUMENT", "The message is not one of the contract's.", "Use the contract."),
        "TOKEN_MISSING": Reason("UNAUTHENTICATED", "The server wants a token, and the call has none.", "Send one."),
        "TOKEN_UNKNOWN": Reason("UNAUTHENTICATED", "The token is not one of the server's.", "Ask the operator for one."),
        "CERTIFICATE_WITHOUT_NAME": Reason(
            "UNAUTHENTICATED", "The client's certificate has no common name.", "Use one that has."
        ),
        "JOB_NOT_FOUND": Reason(
            "NOT_FOUND", "There is no such job, it ended long ago, or it is another's.", "See ListJobs.", ("job_id",)
        ),
        "IMAGE_NOT_FOUND": Reason("NOT_FOUND", "There is no such uploaded file.", "Upload it again.", ("image_id",)),
        "JOB_HAS_NO_RESULT": Reason(
            "FAILED_PRECONDITION", "The job has no picture, or not yet.", "Watch it with Progress.", ("job_id", "state")
        ),
        "QUEUE_FULL": Reason(
            "RESOURCE_EXHAUSTED",
            "As many jobs wait as may, or as much work.",
            "Try again after RetryInfo.",
            ("queued", "running", "limit"),
        ),
        "QUOTA_EXCEEDED": Reason(
            "RESOURCE_EXHAUSTED", "The client has what it may have.", "Wait for own jobs to end.", ("quota", "limit", "used")
        ),
        "STORAGE_FULL": Reason(
            "RESOURCE_EXHAUSTED", "The pictures take what they may on the server's disk.", "Try later; delete own jobs."
        ),
        "STORAGE_FAILED": Reason("UNAVAILABLE", "The server's disk takes nothing.", "Try again after RetryInfo."),
        "SERVER_FAULT": Reason(
            "UNAVAILABLE", "The server has a fault and starts no jobs.", "Use another server; tell the operator."
        ),
        "STARTING": Reason("UNAVAILABLE", "No worker is ready yet.", "Try again after RetryInfo."),
        "DRAINING": Reason("UNAVAILABLE", "The server shuts down.", "Try another, or again after RetryInfo."),
        "WORKER_LOST": Reason(
            "ABORTED", "The job's worker died three times under it.", "The job may be the cause; report it.", ("job_id",), True
        ),
        "WORKER_GONE": Reason("UNAVAILABLE", "The worker died over a question.", "Ask again."),
        "OUT_OF_MEMORY": Reason(
            "RESOURCE_EXHAUSTED", "The device has not the memory.", "Ask for a smaller size or history.", ("job_id",), True
        ),
        "ENGINE_ERROR": Reason("INTERNAL", "The engine failed over the job.", "Report it.", ("job_id",), True),
        "ENCODE_ERROR": Reason(
            "INTERNAL", "The picture could not be encoded.", "Ask for another format or size.", ("job_id",), True
        ),
        "DEADLINE_EXCEEDED": Reason(
            "DEADLINE_EXCEEDED",
            "The job's time limit came.",
            "Give more time, or on_deadline=RETURN_BEST.",
            ("job_id",),
            True,
        ),
        "JOB_CANCELLED": Reason("CANCELLED", "Somebody cancelled the job.", "Hand it in again.", ("job_id",)),
        "DATA_LOST": Reason("DATA_LOSS", "The job's pictures on the disk are lost.", "Hand it in again.", ("job_id",), True),
        "RESULT_LOST": Reason("DATA_LOSS", "The finished picture on the disk is lost.", "Hand the job in again."),
        "INTERNAL": Reason("INTERNAL", "The server made a mistake; its log says more.", "Report it."),
        "UNKNOWN": Reason("INTERNAL", "The job failed and nobody said why.", "Report it.", ("job_id",), True),
    }
)
