"""Python client of impasto, a service that paints one picture in the style of another.

import impasto

with impasto.Client("localhost:50051") as client:
    result = client.stylize("photo.jpg", "painting.jpg", size_px=512, steps=100)
    result.save("out.png")
"""

import importlib.metadata

import impasto.quiet  # noqa: F401 - must precede the import of gRPC
from impasto._async_client import AsyncClient, AsyncJob
from impasto._client import Client, Job
from impasto._mapping import Mapped
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
    Violation,
    WaitTimeout,
)
from impasto.pictures import NamedFile, Picture, UploadedImage
from impasto.requests import Options, Style, Styles
from impasto.results import (
    DeviceInfo,
    Event,
    Features,
    FilterResponse,
    Finished,
    Heartbeat,
    Input,
    JobInfo,
    JobState,
    JobWarning,
    Losses,
    NetworkInfo,
    Paused,
    Result,
    ServerInfo,
    Snapshot,
    Started,
    Step,
    StopReason,
    Timings,
)

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Credentials",
    "DeadlineExceeded",
    "DeviceInfo",
    "Event",
    "Features",
    "FilterResponse",
    "Finished",
    "Heartbeat",
    "ImpastoError",
    "Input",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobInfo",
    "JobState",
    "JobWarning",
    "Losses",
    "Mapped",
    "NamedFile",
    "NetworkInfo",
    "NotFound",
    "NotReady",
    "Options",
    "Overloaded",
    "Paused",
    "Picture",
    "Result",
    "ServerError",
    "ServerInfo",
    "Snapshot",
    "Started",
    "Step",
    "StopReason",
    "Style",
    "Styles",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "UploadedImage",
    "Violation",
    "WaitTimeout",
]

__version__ = importlib.metadata.version("impasto")
