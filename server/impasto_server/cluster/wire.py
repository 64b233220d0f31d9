"""Commands and reports as they travel: MessagePack with checked types, and pictures as separate files.

Unlike pickle, decoding runs no code of the sender.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from impasto.worker.v1 import worker_pb2 as pb
from impasto_engine.parameters import Arithmetic, Pooling
from impasto_server.domain.job import JobWarning, StopReason
from impasto_server.domain.pictures import Raster
from impasto_server.store import codec
from impasto_server.workers.messages import (
    Alive,
    Cancel,
    CannotStart,
    Checkpointed,
    Finish,
    Inspect,
    Inspected,
    JobFailed,
    JobParked,
    JobStarted,
    JobStepped,
    Park,
    PassMeasured,
    Ready,
    Start,
)

PROTOCOL = 1
"""Version of the worker's contract."""
PIECE_BYTES = 64 << 10
"""Size of a piece of a file: small enough that one arrives well within the time of silence on a slow link."""
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.http2.max_pings_without_data", 0),
    # What is in transit cannot be overtaken: the window is bounded instead of grown with the link's delay.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
    ("grpc.http2.write_buffer_size", 64 << 10),
]
HEARTBEAT_S = 1.0
SILENCE_S = 3.0
"""A peer that sends nothing for this long is lost."""
ASLEEP_S = 1.0
"""A check that comes this late means that this process was suspended, and says nothing about the peer."""


class WireError(Exception):
    """A message that cannot be decoded."""


@dataclass(frozen=True)
class StartJob:
    """:class:`Start` as it travels.

    Attributes:
        spec: The spec, with its pictures given by their SHA-256.
        resumes: Whether its checkpoint was sent before.
    """

    job_id: str
    spec: str
    resumes: bool
    arithmetic: Arithmetic | None = None


@dataclass(frozen=True)
class InspectPicture:
    """:class:`Inspect` as it travels: the picture is given by its SHA-256."""

    number: int
    width: int
    height: int
    picture: str
    network: str
    layer: str
    filters: tuple[int, ...]
    count: int
    pooling: Pooling


@dataclass(frozen=True)
class JobFinished:
    """:class:`JobPainted` as it travels: the encoded picture was sent before.

    Attributes:
        encode_s: Time that the encoding took.
    """

    job_id: str
    stop_reason: StopReason
    encode_s: float
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True)
class EncodingFailed:
    """A finished canvas could not be encoded."""

    job_id: str
    message: str


_KINDS = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            Alive,
            Cancel,
            CannotStart,
            Checkpointed,
            EncodingFailed,
            Finish,
            InspectPicture,
            Inspected,
            JobFailed,
            JobFinished,
            JobParked,
            JobStarted,
            JobStepped,
            Park,
            PassMeasured,
            Ready,
            StartJob,
        )
    }
)
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS = {name: msgspec.msgpack.Decoder(kind) for name, kind in _KINDS.items()}


def encode(value: Any) -> pb.Message:
    """Return a command or report as a message."""
    return pb.Message(kind=type(value).__name__, body=_ENCODER.encode(value))


def decode(message: pb.Message) -> Any:
    """Return the command or report in a message.

    Raises:
        WireError: If it is of an unknown kind or invalid.
    """
    decoder = _DECODERS.get(message.kind)
    if decoder is None:
        raise WireError(f"unknown message {message.kind!r}")
    try:
        return decoder.decode(message.body)
    except msgspec.DecodeError as error:
        raise WireError(f"invalid {message.kind}: {error}") from None


def start_job(command: Start, *, resumes: bool) -> StartJob:
    """Return the command as it travels."""
    return StartJob(command.job_id, codec.encode_spec(command.spec), resumes, command.arithmetic)


def start(message: StartJob, pictures: Path, checkpoint: Path) -> Start:
    """Return the command for a worker whose files are in local folders."""
    return Start(message.job_id, codec.decode_spec(message.spec, pictures), str(checkpoint), message.arithmetic)


def inspect_picture(command: Inspect, name: str) -> InspectPicture:
    """Return the command as it travels."""
    picture = command.picture
    about = (command.network, command.layer, command.filters, command.count, command.pooling)
    return InspectPicture(command.number, picture.width, picture.height, name, *about)


def inspect(message: InspectPicture, pictures: Path) -> Inspect:
    """Return the command for a worker whose pictures are in a local folder."""
    picture = Raster(message.width, message.height, pictures / message.picture)
    about = (message.network, message.layer, message.filters, message.count, message.pooling)
    return Inspect(message.number, picture, *about)
