"""The process with Ray's driver: ``python -m impasto_server.cluster.ray_process FD``, a child of the server.

Ray ends the process that it is in when the control store stays away (61 s), so it is not the server's. This process keeps
nothing that is not in Ray's table of actors: the next one adopts them. It exits at once when the server closes the socket.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator

from impasto_server.cluster.ray_connect import ConnectError, connect
from impasto_server.cluster.ray_messages import (
    Connected,
    Died,
    End,
    Ended,
    Message,
    Nodes,
    Place,
    Placed,
    Refused,
    Settings,
    Synchronized,
    Want,
    decode,
    encode,
)
from impasto_server.cluster.ray_placement import Actors, list_nodes, request_devices

logger = logging.getLogger(__name__)
NODES_S = 2.0
"""Seconds between looks at the hosts."""
TICK_S = 0.2
"""Seconds between looks at ends that are not acknowledged."""


class Link:
    """The child's end of the socket. Any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message; if the server is gone, exit."""
        try:
            with self._lock:
                self._connection.sendall(encode(message))
        except OSError:
            os._exit(0)

    def receive(self) -> Iterator[Message]:
        """Yield the server's messages until it closes the socket."""
        for line in self._lines:
            yield decode(line)


def main(descriptor: int) -> int:
    """Serve one server; returns only if the cluster cannot be used."""
    link = Link(socket.socket(fileno=descriptor))
    messages = link.receive()
    settings = next(messages, None)
    if not isinstance(settings, Settings):
        return 1
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(messages, inbox), daemon=True).start()
    try:
        version = connect(settings.address, settings.namespace)
    except ConnectError as error:
        link.send(Refused(str(error), error.permanent))
        return 1
    link.send(Connected(version))
    _serve(link, inbox, settings)
    return 1


def _read(messages: Iterator[Message], inbox: queue.SimpleQueue[Message]) -> None:
    """Pass messages on. At the end of them exit at once, whatever Ray is waiting for: the actors are detached."""
    with contextlib.suppress(OSError, ValueError):
        for message in messages:
            inbox.put(message)
    os._exit(0)


def _serve(link: Link, inbox: queue.SimpleQueue[Message], settings: Settings) -> None:
    actors = Actors(
        settings,
        on_placed=lambda key: link.send(Placed(key)),
        on_died=lambda key, cause: link.send(Died(key, cause)),
        on_ended=lambda key: link.send(Ended(key)),
    )
    next_nodes = 0.0
    while True:
        with contextlib.suppress(queue.Empty):
            _obey(actors, inbox.get(timeout=TICK_S), settings)
        actors.tick()
        if time.monotonic() >= next_nodes:
            link.send(Nodes(tuple(list_nodes(settings.resource))))
            next_nodes = time.monotonic() + NODES_S


def _obey(actors: Actors, message: Message, settings: Settings) -> None:
    if isinstance(message, Place):
        actors.place(message)
    elif isinstance(message, End):
        actors.end(message.key)
    elif isinstance(message, Synchronized):
        actors.end_others()
    elif isinstance(message, Want):
        request_devices(settings.resource, message.devices)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s ray launcher %(levelname)s: %(message)s")
    code = main(int(sys.argv[1]))
    os._exit(code)  # without Ray's own shutdown, which may wait for a control store that is gone
