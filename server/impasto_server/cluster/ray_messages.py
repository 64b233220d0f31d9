"""What the server and the process with Ray's driver say to each other: one JSON array a line, over a pair of sockets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from impasto_server.cluster.launcher import Node, WorkerCommand


@dataclass(frozen=True)
class Settings:
    """The first message to the child.

    Args:
        address: HOST:PORT of Ray's control store.
        namespace: Ray's namespace of this server's actors; each server needs its own.
        session: Differs for each server process; actors of other sessions in the namespace are ended.
        resource: ``GPU`` or ``CPU``: what a worker takes one of.
        command: How a worker is started.
        grace_s: Seconds between SIGTERM and SIGKILL at an end.
    """

    address: str
    namespace: str
    session: str
    resource: str
    command: WorkerCommand
    grace_s: float


@dataclass(frozen=True)
class Place:
    """Create an actor with this key, which runs a worker of this name.

    If it is known it was created before: it is adopted, or Died is the answer.
    """

    key: str
    name: str
    known: bool = False


@dataclass(frozen=True)
class Synchronized:
    """All actors that should exist were named by Place: the others of this namespace are ended."""


@dataclass(frozen=True)
class End:
    """End an actor and its worker."""

    key: str


@dataclass(frozen=True)
class Want:
    """Ask Ray's autoscaler for this many devices in all."""

    devices: int


@dataclass(frozen=True)
class Connected:
    """The child is connected to the cluster."""

    ray: str


@dataclass(frozen=True)
class Refused:
    """The cluster cannot be used. Permanent: trying again does not help as long as nobody changes anything."""

    text: str
    permanent: bool


@dataclass(frozen=True)
class Placed:
    """The actor was created in Ray's table; its worker starts once a device is free."""

    key: str


@dataclass(frozen=True)
class Died:
    """An actor or its worker ended that was not asked to."""

    key: str
    cause: str


@dataclass(frozen=True)
class Ended:
    """What End asked for was done, or given up on a host that does not answer."""

    key: str


@dataclass(frozen=True)
class Nodes:
    """All hosts, every few seconds: also the child's sign of life."""

    nodes: tuple[Node, ...] = field(default=())


Message = Settings | Place | Synchronized | End | Want | Connected | Refused | Placed | Died | Ended | Nodes
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Settings, Place, Synchronized, End, Want, Connected, Refused, Placed, Died, Ended, Nodes)
}


def encode(message: Message) -> bytes:
    """Return the message as a line."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message in a line.

    Raises:
        ValueError: If it is none.
    """
    try:
        kind, values = json.loads(line)
        if kind == "Nodes":
            values["nodes"] = tuple(Node(**node) for node in values["nodes"])
        if kind == "Settings":
            command = values["command"]
            values["command"] = WorkerCommand(**{**command, **{name: tuple(command[name]) for name in ("extra", "program")}})
        message: Message = _KINDS[kind](**values)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"not a message: {line[:200]!r}") from error
    return message
