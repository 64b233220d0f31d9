"""Python client of impasto, a service that paints one picture in the style of another.

import impasto

with impasto.Client("localhost:50051") as client:
    result = client.stylize("photo.jpg", "painting.jpg", size_px=512, steps=100)
    result.save("out.png")
"""

import impasto.quiet  # noqa: F401 - must precede the import of gRPC
from impasto._async_client import AsyncClient, AsyncJob
from impasto._client import Client, Job
from impasto.credentials import Credentials
from impasto.errors import (
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    NotFound,
    NotReady,
    Overloaded,
    ServerError,
    Unauthenticated,
    Unavailable,
    WaitTimeout,
)
from impasto.pictures import NamedFile, UploadedImage
from impasto.requests import Style
from impasto.results import (
    Features,
    Finished,
    Heartbeat,
    JobInfo,
    Losses,
    NetworkInfo,
    Paused,
    Result,
    ServerInfo,
    Snapshot,
    Started,
    Step,
    Timings,
)

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Credentials",
    "DeadlineExceeded",
    "Features",
    "Finished",
    "Heartbeat",
    "ImpastoError",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobInfo",
    "Losses",
    "NamedFile",
    "NetworkInfo",
    "NotFound",
    "NotReady",
    "Overloaded",
    "Paused",
    "Result",
    "ServerError",
    "ServerInfo",
    "Snapshot",
    "Started",
    "Step",
    "Style",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "UploadedImage",
    "WaitTimeout",
]
